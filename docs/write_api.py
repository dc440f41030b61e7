"""Writes docs/api.md from the docstrings of the public API, so that the reference cannot disagree with the code."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffexp

HEAD = """# The public API

Written by `make docs` from the docstrings. `from diffexp import NAME` imports each of these.
"""

SECTIONS = {
    "Commands": ("train", "load", "LoadedModel", "Outcome", "load_experiment"),
    "Schedules and paths": (
        *("Schedule", "linear", "scaled_linear", "cosine", "sigmoid", "proportional", "timestep_path"),
    ),
    "Predictions": ("Prediction", "clipped"),
    "Samplers": ("DDPM", "DDIM", "DPMSolver", "UniPC", "Heun"),
    "Model and data": ("DiffusionModule", "TrainingModule", "OptimConfig", "ImageDataModule", "MemoryImages"),
    "Callbacks": (
        *("EMA", "SampleGrid", "ScoreSamples", "StepCheckpoint", "StepProgress", "StatusFile", "StopOnSignal"),
        "GradientVariance",
    ),
    "Metrics": (
        *("Metric", "Estimate", "FrechetDistance", "KernelDistance", "Precision", "Recall", "InceptionScore"),
        *("NearestDistanceRatio", "MemorizedFraction"),
    ),
    "Loggers": ("RunLogger",),
    "Errors": ("UserError", "EnvironmentFailure"),
}


def reference() -> str:
    """The text of docs/api.md."""
    parts = [HEAD]
    for title, names in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        for name in names:
            parts += _entry(name, getattr(diffexp, name))
    return "\n".join(parts).rstrip() + "\n"


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### `{name}{_signature(value)}`\n"
    yield f"`{value.__module__}.{value.__qualname__}`\n"
    yield _text(value)
    if inspect.isclass(value):
        for method, function in vars(value).items():
            inner = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
            if not method.startswith(("_", "on_")) and inspect.isfunction(inner):
                yield f"**`{method}{_signature(inner)}`**\n"
                yield _text(inner)


def _signature(value: Any) -> str:
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    parameters = [
        each.replace(annotation=each.empty) for each in found.parameters.values() if each.name not in ("self", "cls")
    ]
    text = str(found.replace(parameters=parameters, return_annotation=found.empty))
    return re.sub(r"<function .*? at 0x[0-9a-f]+>|<factory>", "…", text)


def _text(value: Any) -> str:
    text = inspect.cleandoc(value.__doc__ or "")
    # sections as lists; indented formulas stay as they are, which Markdown shows as code
    text = re.sub(r"^(Args|Attributes|Raises|Returns|Yields):$", r"*\1*\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\*{0,2}[\w, ]+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    free = r"(?<=\*Returns\*\n\n)((?:    .*\n?)+)"
    return re.sub(free, lambda match: inspect.cleandoc(match[0]) + "\n", text) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "api.md").write_text(reference())
