"""Plots of the held-out loss."""

from collections.abc import Sequence

from diffexp.reports.curves import Curve, curves_of_seeds, over_seeds
from diffexp.reports.figure import Drawing, Line, Plot
from diffexp.reports.groups import grouped
from diffexp.reports.heat_map import HeatMap
from diffexp.runs.reader import RunReader

_LIKELY = 1.96  # standard errors of a 95 % interval


def validation_plots(runs: Sequence[RunReader]) -> list[Drawing]:
    """Plot the loss on held-out and on training images against the step, and each run's errors by noise level."""
    groups = grouped(runs)
    lines: dict[str, list[Line]] = {}
    for number, group in enumerate(groups):
        members = [runs[index] for index in group.indices]
        for protocol in dict.fromkeys(each.protocol for run in members for each in run.validations):
            curves = [_curves(run, protocol) for run in members]
            held_out = Line(number, f"{group.label} held-out", [], [])
            training = Line(number, f"{group.label} training", [], [], kind=1)
            lines.setdefault(protocol, []).extend(
                [
                    *over_seeds(held_out, [each for each, _ in curves]),
                    *over_seeds(training, [each for _, each in curves]),
                ]
            )
    bars = "Bars are ± 1.96 standard errors over images. " if any(len(each.indices) == 1 for each in groups) else ""
    caption = (
        f"Lower is better. Dashed: as many training images. {bars}All points share images and noise, so the "
        "differences between them are more precise. From validation/ of each run, protocol {}."
        f"{curves_of_seeds(groups)}"
    )
    plots: list[Drawing] = [
        Plot(f"Held-out loss, {protocol}", caption.format(protocol), "step", "bits per dimension", found)
        for protocol, found in lines.items()
    ]
    return plots + _levels(runs)


def _curves(run: RunReader, protocol: str) -> tuple[Curve, Curve]:
    """Return the loss on held-out and on training images by step."""
    found = [each for each in run.validations if each.protocol == protocol]
    held_out: Curve = {each.step: (each.mean().value, _LIKELY * each.mean().error) for each in found}
    training: Curve = {each.step: (each.mean("train").value, None) for each in found}
    return held_out, training


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
