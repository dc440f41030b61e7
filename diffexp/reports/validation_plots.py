"""Plots of the held-out loss."""

from collections.abc import Sequence

from diffexp.reports.figure import Drawing, Line, Plot
from diffexp.reports.heat_map import HeatMap
from diffexp.runs.reader import RunReader

_LIKELY = 1.96  # standard errors of a 95 % interval


def validation_plots(runs: Sequence[RunReader]) -> list[Drawing]:
    """Plot the loss on held-out and on training images against the step, and each run's errors by noise level."""
    lines: dict[str, list[Line]] = {}
    for index, run in enumerate(runs):
        for protocol in dict.fromkeys(each.protocol for each in run.validations):
            found = [each for each in run.validations if each.protocol == protocol]
            steps = [each.step for each in found]
            held_out, train = [each.mean() for each in found], [each.mean("train") for each in found]
            values, errors = [each.value for each in held_out], [_LIKELY * each.error for each in held_out]
            lines.setdefault(protocol, []).extend(
                [
                    Line(index, f"{run.label} held-out", steps, values, errors),
                    Line(index, f"{run.label} training", steps, [each.value for each in train], kind=1),
                ]
            )
    caption = (
        "Lower is better. Dashed: as many training images. Bars are ± 1.96 standard errors over images. All points "
        "share images and noise, so the differences between them are more precise. From validation/ of each run, "
        "protocol {}."
    )
    plots: list[Drawing] = [
        Plot(f"Held-out loss, {protocol}", caption.format(protocol), "step", "bits per dimension", found)
        for protocol, found in lines.items()
    ]
    return plots + _levels(runs)


def _levels(runs: Sequence[RunReader]) -> list[Drawing]:
    found: list[Drawing] = []
    for run in runs:
        last = next((each for each in reversed(run.validations) if each.errors), None)
        if last is None:
            continue
        same = [each for each in run.validations if (each.protocol, each.weights) == (last.protocol, last.weights)]
        weights = {"ema": "averaged", "raw": "raw"}[last.weights]
        caption = (
            f"The squared error of the predicted noise on held-out images, {weights} weights, at each level of noise, "
            "as a multiple of the lowest of the level, which is in parentheses. From validation/ of the run."
        )
        errors = [each.errors[each.weights].mean(0, dtype="float64").tolist() for each in same]
        title = f"Error by noise level, {run.label}"
        found.append(HeatMap(title, caption, [each.step for each in same], last.levels.tolist(), errors))
    return found
