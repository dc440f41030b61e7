"""Check a typed config beyond its types: ranges, and values that must fit one another."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from diffexp.config.context import Context
from diffexp.config.fields import range_problems
from diffexp.config.merge import Merged
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError


def validate(merged: Merged[Any], context: Context, *, only: tuple[str, ...] = ("",)) -> None:
    """Check the ranges of every node's numbers, then every node's ``problems(context)``.

    Args:
        merged: the config.
        context: the values of the experiment that its parts need from one another.
        only: the keys of the nodes to check, with all nodes below them; "" is the root.

    Raises:
        UserError: with the source, key and text of each problem, one per line.
    """
    chosen = [(prefix, node) for prefix, node in nodes(merged.config) if prefix.startswith(only)]
    found = [(f"{prefix}{key}", problem) for prefix, node in chosen for key, problem in range_problems(node)]
    if not found:  # values out of range would only cause more of these
        found = [
            (f"{prefix}{key}", problem)
            for prefix, node in chosen
            if hasattr(node, "problems")
            for key, problem in node.problems(context)
        ]
    if found:
        raise UserError("\n".join(f"{merged.where(key)}: {problem}" for key, problem in found))


def fit_defaults(merged: Merged[Any], context: Context) -> None:
    """Replace the defaults that do not fit the rest of the experiment, where no source set the key.

    Every node names the values that fit in ``fitting_defaults(context)``.
    """
    for prefix, node in nodes(merged.config):
        if hasattr(node, "fitting_defaults"):
            for key, value in node.fitting_defaults(context):
                if f"{prefix}{key}" not in merged.sources:
                    setattr(node, key, value)


def nodes(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dataclass instance of a config with the prefix of its keys: "", "data.", "model.", …"""
    if is_dataclass(node):
        yield prefix, node
        below = [(each.name, getattr(node, each.name)) for each in fields(node)]
    elif isinstance(node, dict):
        below = list(node.items())
    else:
        return
    for name, value in below:
        yield from nodes(value, f"{prefix}{name}.")


def context_of(experiment: Experiment) -> Context:
    """Return the values of an experiment that its parts need from one another."""
    data, model = experiment.data, experiment.model
    noise = model.noise()
    return Context(
        image_size=data.image_size,
        channels=data.channels,
        network_size=model.network_shape(data)[1],
        split_sizes=data.split_sizes(),
        data_classes=data.native_classes,
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
