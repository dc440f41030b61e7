"""Warn once and continue when something fails that a run does not need."""

import logging
from types import TracebackType

log = logging.getLogger(__name__)


class BestEffort:
    """A context manager that suppresses errors and warns at the first one after a success.

    Args:
        what: the failure, for the warning: "sample grids cannot be written".
        errors: the exceptions to suppress.

    Attributes:
        failing: whether the last attempt failed.
    """

    def __init__(self, what: str, errors: type[Exception] | tuple[type[Exception], ...] = OSError) -> None:
        self.what = what
        self.errors = errors
        self.failing = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            if self.failing:
                log.warning("%s again", self.what.replace("cannot", "can"))
            self.failing = False
            return False
        if not isinstance(error, self.errors):
            return False
        if not self.failing:
            log.warning("%s: %s; training continues", self.what, reason(error))
        self.failing = True
        return True


def reason(error: BaseException) -> str:
    """Return a short description of an error: "No space left on device (runs/x/status.json)"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
