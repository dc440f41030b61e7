"""The keys that may differ when a run is resumed, and what each kind of them does to the result."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import MISSING

from diffexp.config.merge import as_dict, differing
from diffexp.config.registry import Component
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError

log = logging.getLogger(__name__)

# Duration, place and recording, which do not change the result.
_FREE = (
    *("name", "runs_dir", "run_dir", "loggers", "wandb.", "sample_grid", "score", "validation", "checkpoint."),
    *("training.max_steps", "training.log_every_n_steps"),
    *("optim.skip_nonfinite", "model.autoencoder", "model.gradient_variance"),
    *("data.path", "data.test_path", "data.root", "data.num_workers", "data.memory_gb", "data.on_decode_error"),
)

# The distribution of the work, which changes rounding only: random numbers and data do not depend on it.
_SPREAD = (
    *("training.accelerator", "training.devices", "training.num_nodes"),
    *("training.accumulate_grad_batches", "training.compile"),
)
_ROUNDING = (
    *_SPREAD,
    *("training.precision", "training.channels_last", "training.cuda_graphs", "training.deterministic"),
    "model.network.gradient_checkpointing",
)

# What --allow-change can allow in addition to the model's own keys that leave its weights and its state loadable.
_ALLOWABLE = (
    *("optim.", "ema.half_life", "ema.rampup", "data.random_flip"),
    *("training.batch_size", "training.gradient_clip_val"),
)
_OF_WEIGHTS = ("initialization", "autoencoder", "loss", "timestep_sampling", "gradient_checkpointing")


@dataclass(frozen=True)
class Change:
    """A key that differs between a run and the config that it is resumed with.

    Attributes:
        key: the dotted key.
        before: its value in the run; `MISSING` where absent.
        after: its value now.
    """

    key: str
    before: Any
    after: Any

    def as_dict(self, step: int) -> dict[str, Any]:
        """Return plain data for environment.json, without an absent value; the change holds from `step` on."""
        values = {"before": self.before, "after": self.after}
        return {"step": step, "key": self.key} | {name: each for name, each in values.items() if each is not MISSING}


def check_changes(before: Experiment, now: Experiment, source: str, allowed: Collection[str] = ()) -> list[Change]:
    """Check that a config may continue a run.

    Args:
        before: the experiment of the run.
        now: the requested experiment.
        source: where `before` was found, for the message.
        allowed: keys or sections that may change the result.

    Returns:
        The changes of the result, if only by rounding.

    Raises:
        UserError: naming the keys that differ and change the result.
    """
    changes = [Change(*each) for each in differing(as_dict(before), as_dict(now)) if not each[0].startswith(_FREE)]
    questioned = [each for each in changes if each.key not in _ROUNDING]
    refused = [each for each in questioned if not (_covers(allowed, each.key) and _all_may([each], now))]
    if refused:
        lines = "\n".join(f"  {each.key}: {each.before} in the run, {each.after} now" for each in refused)
        flags = " ".join(f"--allow-change {each.key}" for each in refused)
        remedy = f"Give {flags} to resume with the new values, or start" if _all_may(refused, now) else "Start"
        raise UserError(
            f"{source}: cannot resume, as these keys change the result:\n{lines}\n"
            f"{remedy} a new run without --resume, in another run_dir."
        )
    return [*changes, *_of_cosine(before, now)]


def _of_cosine(before: Experiment, now: Experiment) -> list[Change]:
    """Return the change of the length, if the learning rate depends on it."""
    one, two = before.training.max_steps, now.training.max_steps
    return [Change("training.max_steps", one, two)] if one != two and now.optim.decay == "cosine" else []


def report_changes(changes: Sequence[Change], now: Experiment, step: int) -> None:
    """Warn of each change, with what it does to the result."""
    for each in changes:
        if each.key == "training.max_steps":
            effect = "the learning rate leaves its cosine, so the result differs from a run of that length"
        elif each.key not in _ROUNDING:
            effect = f"the result changes from step {step} on"
        elif each.key in _SPREAD and _has_dropout(as_dict(now.model)):
            effect = "the result is the same up to rounding and the masks of dropout"
        else:
            effect = "the result is the same up to rounding"
        log.warning("resuming with %s=%s instead of %s: %s", each.key, each.after, each.before, effect)


def check_allowed(allowed: Collection[str], experiment: Experiment) -> None:
    """Check that keys may be allowed to change.

    Raises:
        UserError: naming the first that may not.
    """
    possible = sorted({*_ALLOWABLE, *_of_training(experiment.model, "model.")})
    for key in allowed:
        if not any(_covers([key], each) or _covers([each], key) for each in possible):
            names = ", ".join(each.rstrip(".") for each in possible)
            raise UserError(
                f"--allow-change: expected one of {names}, got {key}. With another value, the weights would be "
                "other ones: start a new run, from these weights with init=…."
            )


def _all_may(changes: Sequence[Change], experiment: Experiment) -> bool:
    allowable = {*_ALLOWABLE, *_of_training(experiment.model, "model.")}
    return all(_covers(allowable, each.key) for each in changes)


def _covers(keys: Collection[str], key: str) -> bool:
    return any(key == each or key.startswith(each.rstrip(".") + ".") for each in keys)


def _of_training(component: Component, prefix: str) -> Iterator[str]:
    """Yield the keys of a component, and of those in it, that its training alone needs."""
    for each in fields(component):
        value = getattr(component, each.name)
        if each.name in component.training_only and each.name not in _OF_WEIGHTS:
            yield prefix + each.name
        elif isinstance(value, Component):
            yield from _of_training(value, f"{prefix}{each.name}.")


def _has_dropout(node: dict[str, Any]) -> bool:
    return any(
        _has_dropout(value) if isinstance(value, dict) else name == "dropout" and value > 0
        for name, value in node.items()
    )
