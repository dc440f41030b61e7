"""Report the state of a run to other programs."""

import time
from collections.abc import Callable
from typing import Any, Self

import lightning as L

from diffexp.runs.directory import Run
from diffexp.system.best_effort import BestEffort

_INTERVAL = 5.0  # seconds between two writes while training


class StatusFile(L.Callback):
    """Reports state and step when training starts, every few seconds, and when it ends for any reason.

    Args:
        write: called on the main process as write(state, step, steps, seconds=…, error=…, reason=…). The state is
            "running", "finished", "interrupted" or "failed". `seconds` is the time spent in training. `error` is a
            text, given only if training was interrupted or failed with an exception, and `reason` only if it ended
            early.
        seconds: training time before the run was resumed.
        ended_early: returns why training ends before its last step, or None.
    """

    def __init__(
        self,
        write: Callable[..., None],
        seconds: float = 0.0,
        ended_early: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.write = write
        self.seconds = seconds
        self.ended_early = ended_early
        self._began = time.monotonic()
        self._written = 0.0
        self._trained = False
        self._best_effort = BestEffort("the run's status cannot be written")

    @classmethod
    def from_run(cls, run: Run, *, resumed: bool, ended_early: Callable[[], str | None] = lambda: None) -> Self:
        """Build the callback that writes a run's status.json; for a resumed run, add the earlier training time."""
        return cls(run.write_status, run.seconds() if resumed else 0.0, ended_early)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the start."""
        self._trained = True
        self._began = time.monotonic()
        self._report(trainer, "running")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Report the step every few seconds."""
        if time.monotonic() - self._written > _INTERVAL:
            self._report(trainer, "running")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the end."""
        reason = self.ended_early() if trainer.global_step < trainer.max_steps else None
        if reason is not None:
            self._report(trainer, "finished", reason=reason)
        else:
            self._report(trainer, "finished" if trainer.global_step >= trainer.max_steps else "interrupted")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the end of a run that was killed after its last checkpoint; the resumed run trains no step."""
        if not self._trained:
            self._report(trainer, "finished")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Report the failure."""
        state = "interrupted" if isinstance(exception, (KeyboardInterrupt, SystemExit)) else "failed"
        self._report(trainer, state, error=repr(exception))

    def _report(self, trainer: L.Trainer, state: str, **more: Any) -> None:
        self._written = time.monotonic()
        if trainer.is_global_zero:
            with self._best_effort:
                seconds = round(self.seconds + self._written - self._began, 1)
                self.write(state, trainer.global_step, trainer.max_steps, seconds=seconds, **more)
