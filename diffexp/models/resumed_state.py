"""Adapt the state in a checkpoint to the config of a resumed run, which may differ from the checkpoint's."""

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the settings of a new optimiser's parameter groups: learning rate, betas, weight decay, ….

    Loading a checkpoint replaces them by those of the config that the checkpoint was saved under.
    """
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def apply_settings(schedule: LambdaLR, settings: list[dict[str, Any]]) -> None:
    """Restore the settings of `group_settings` after a checkpoint was loaded, and fit the optimiser's state to them.

    If the config is unchanged, all numbers stay the same, bit for bit.

    Args:
        schedule: the schedule of the learning rates, at the step of the checkpoint.
        settings: the settings of the optimiser's groups before the checkpoint was loaded.
    """
    optimizer = schedule.optimizer
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
        for parameter in group["params"]:
            _fit_state(optimizer.state.get(parameter, {}), parameter, fused=bool(group.get("fused")))
    schedule.base_lrs = [own["initial_lr"] for own in settings]
    rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    schedule._last_lr = [base * factor(schedule.last_epoch) for base, factor in rates]
    for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def _fit_state(state: dict[str, Any], parameter: torch.Tensor, *, fused: bool) -> None:
    """Move the step count to where the kind of optimiser needs it, and averages to the memory layout of the weights.

    The fused optimiser reads the elements of weights and averages in the order of memory.
    """
    for name, value in state.items():
        if name == "step":
            state[name] = value.to(parameter.device if fused else "cpu")
        elif value.shape == parameter.shape and value.stride() != parameter.stride():
            state[name] = torch.empty_like(parameter).copy_(value)


def count_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Count the batches in a checkpoint as if each of its steps had consisted of `accumulate` batches.

    Lightning ends a step when the count of batches is a multiple of that number.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    shift = checkpoint["global_step"] * accumulate - progress["current"]["ready"]
    for counts in (progress["current"], progress["total"]):
        counts.update({name: count + shift for name, count in counts.items()})
