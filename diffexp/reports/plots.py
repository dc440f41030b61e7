"""Select the plots that compare several runs."""

import math
from collections.abc import Sequence

from diffexp.config.trial import is_seed, short_labels
from diffexp.reports.figure import COLOURS, Drawing, Line, Plot
from diffexp.reports.heat_map import HeatMap
from diffexp.reports.schedules import Curve
from diffexp.reports.tables import Comparable, differing_keys, losses_compare
from diffexp.runs.reader import RecordedScore, RunReader

_LIKELY = 1.96  # standard errors of a 95 % interval


def training_curves(runs: Sequence[RunReader]) -> list[Plot]:
    """Plot the loss, and the distance of each sampler, against the step."""
    plots = []
    losses = [Line(index, run.label, *_columns(run.series("train/loss"))) for index, run in enumerate(runs)]
    losses = [line for line in losses if line.x]
    if losses:
        caption = f"The mean training loss since the last logged point. {losses_compare(runs)}"
        plots.append(Plot("Training loss", caption, "step", "train/loss", losses, log_y=True))
    return plots + _scores_while_training(runs)


def _scores_while_training(runs: Sequence[RunReader]) -> list[Plot]:
    lines: dict[tuple[str, str], list[Line]] = {}
    kinds: list[str] = []
    for index, run in enumerate(runs):
        by_sampler: dict[tuple[str, str, str, int], dict[int, tuple[float, float]]] = {}
        for score in run.scores:
            if score.blocks == 1:
                key = (score.metric, score.protocol, f"{score.sampler} ({score.network_calls})", score.network_calls)
                by_sampler.setdefault(key, {})[score.step] = (score.value, score.spread or 0.0)
        for (metric, protocol, sampler, _), points in by_sampler.items():
            if len(points) < 2:
                continue
            if sampler not in kinds:
                kinds.append(sampler)
            name = f"{run.label} {sampler}" if len(runs) > 1 else sampler
            values, errors = zip(*points.values(), strict=True)
            line = Line(index, name, list(points), values, errors, kinds.index(sampler))
            lines.setdefault((metric, protocol), []).append(line)
    return [
        Plot(
            f"Score while training, {metric}, {protocol}",
            f"Lower is better; ± standard error. From scores/ of each run, protocol {protocol}.",
            *("step", metric, found),
            log_y=True,
        )
        for (metric, protocol), found in lines.items()
    ]


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


def score_plots(group: Comparable, runs: Sequence[RunReader]) -> list[Plot]:
    """Plot scores against network calls, and against each numeric config key that has several values.

    Runs of different models differ in more than one key, so they get the first plot only. A seed is not a setting, so
    no plot has it on an axis.
    """
    plots = [_against_calls(group, runs)] if len({each.network_calls for _, each in group.scores}) > 1 else []
    scored = sorted({index for index, _ in group.scores})
    differing = differing_keys([runs[index] for index in scored])
    settings = {key: values for key, values in differing.items() if not is_seed(key)}
    for key, values in ({} if "model.name" in differing else settings).items():
        numbers = [_number(value) for value in values]
        if None not in numbers:
            by_run = {index: number or 0.0 for index, number in zip(scored, numbers, strict=True)}
            others = {other: dict(zip(scored, texts, strict=True)) for other, texts in settings.items() if other != key}
            plots.append(_against_key(group, key, by_run, others))
    return plots


def _against_key(group: Comparable, key: str, values: dict[int, float], others: dict[str, dict[int, str]]) -> Plot:
    """Plot one series per sampler and combination of other differing keys; its points are runs."""
    labels = short_labels([tuple(other.split(".")) for other in others])
    points: dict[str, list[tuple[float, RecordedScore]]] = {}
    for index, each in group.scores:
        keys = [f"{label} = {by_run[index]}" for label, by_run in zip(labels, others.values(), strict=True)]
        name = ", ".join([f"{each.sampler} ({each.network_calls} calls)", *keys])
        points.setdefault(name, []).append((values[index], each))
    lines = []
    for number, (name, found) in enumerate(points.items()):
        found.sort(key=lambda point: point[0])
        x, y, errors = ([a for a, _ in found], [b.value for _, b in found], [b.spread or 0.0 for _, b in found])
        # runs that share a value differ in their seeds: a joined line would zigzag
        lines.append(Line(number, name, x, y, errors, joined=len(set(x)) == len(x), of_run=False))
    spans_decades = min(values.values()) > 0 and max(values.values()) > 10 * min(values.values())
    caption = f"Lower is better. Each point is a run, by {key} of its config.yaml. Bars as in the table below."
    title = f"Score against {key}, {group.metric}, {group.protocol}"
    return Plot(title, caption, key, group.metric, lines, log_x=spans_decades, log_y=True)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _against_calls(group: Comparable, runs: Sequence[RunReader]) -> Plot:
    """Plot one line per run and sampler."""
    samplers = list(dict.fromkeys(sampler for _, sampler, _, _ in group.rows()))
    alone = len(runs) == 1  # then colours distinguish samplers
    lines = []
    for row in group.rows():
        scores = group.at(row).values()
        number = samplers.index(row[1])
        lines.append(
            Line(
                number if alone else row[0],
                group.name(runs, row),
                [each.network_calls for each in scores],
                [each.value for each in scores],
                [each.spread or 0.0 for each in scores],
                number // len(COLOURS) if alone else number,
                of_run=not alone,
            )
        )
    caption = "Lower is better. Bars as in the table below."
    title = f"Score against network calls, {group.metric}, {group.protocol}"
    return Plot(title, caption, "network calls per image", group.metric, lines, log_x=True, log_y=True)


def noise_schedules(curves: Sequence[Curve]) -> Plot:
    """Plot the log-SNR of each schedule against t/T."""
    lines = []
    for number, curve in enumerate(curves):
        count = len(curve.log_snr)
        lines.append(Line(number, curve.name, [(t + 1) / count for t in range(count)], curve.log_snr))
    caption = "log SNR = log(ᾱ_t / (1 - ᾱ_t)), computed from model.schedule and model.timesteps of each config.yaml."
    return Plot("Noise schedules", caption, "t / T", "log SNR", lines)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    kept = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]
