"""Check a typed config beyond its types: ranges, and values that must fit one another."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from diffexp.config.context import Context
from diffexp.config.fields import range_problems
from diffexp.config.merge import Merged
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError


def validate(merged: Merged[Any], context: Context) -> None:
    """Check the ranges of every node's numbers, then every node's ``problems(context)``.

    Raises:
        UserError: with the source, key and text of each problem, one per line.
    """
    found = list(_problems(merged.config, "", context, ranges=True))
    if not found:  # values out of range would only cause more of these
        found = list(_problems(merged.config, "", context, ranges=False))
    if found:
        raise UserError("\n".join(f"{merged.where(key)}: {problem}" for key, problem in found))


def context_of(experiment: Experiment) -> Context:
    """Return the values of an experiment that its parts need from one another."""
    data, model = experiment.data, experiment.model
    noise = model.noise()
    return Context(
        image_size=data.image_size,
        network_size=model.network_shape(data)[1],
        held_out=data.held_out,
        ema=experiment.ema is not None,
        model=model.name,
        sampler_base=model.sampler_base,
        bounded=model.bounded,
        timesteps=getattr(model, "timesteps", None),
        zero_terminal_snr=noise is not None and noise[0].zero_terminal_snr,
        prediction=getattr(model, "prediction", None),
        learned_variance=getattr(model, "loss", "simple") in ("hybrid", "vlb"),
        classes=getattr(model, "classes", None),
        class_dropout_prob=getattr(model, "class_dropout_prob", None),
    )


def _problems(node: Any, prefix: str, context: Context, *, ranges: bool) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _problems(value, f"{prefix}{name}.", context, ranges=ranges)
    if not is_dataclass(node):
        return
    own = range_problems(node) if ranges else getattr(node, "problems", _no_problems)(context)
    for key, problem in own:
        yield f"{prefix}{key}", problem
    for each in fields(node):
        yield from _problems(getattr(node, each.name), f"{prefix}{each.name}.", context, ranges=ranges)


def _no_problems(_: Context) -> Iterator[tuple[str, str]]:
    yield from ()
