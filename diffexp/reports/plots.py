"""Select the plots that compare several runs."""

import math
from collections.abc import Sequence
from dataclasses import replace

from diffexp.config.trial import short_labels
from diffexp.reports import schedules
from diffexp.reports.figure import COLOURS, Line, Plot
from diffexp.reports.groups import RunGroup, differing_settings, grouped
from diffexp.reports.tables import Comparable, Replicates, losses_compare
from diffexp.runs.reader import RunReader
from diffexp.statistics.power import mean_interval

# (value, error or None) by step.
Curve = dict[int, tuple[float, float | None]]

_BAND_FROM = 3  # seeds: the interval of two is 13 times as wide as they are apart


def training_curves(runs: Sequence[RunReader]) -> list[Plot]:
    """Plot the loss, and the distance of each sampler, against the step."""
    groups, plots = grouped(runs), []
    losses: list[Line] = []
    for number, group in enumerate(groups):
        series = [_finite(runs[index].series("train/loss")) for index in group.indices]
        losses += _over_seeds(Line(number, group.label, [], []), series)
    if losses:
        caption = (
            f"The mean training loss since the last logged point. {losses_compare(runs)}{_curves_of_seeds(groups)}"
        )
        plots.append(Plot("Training loss", caption, "step", "train/loss", losses, log_y=True))
    return plots + _scores_while_training(runs, groups)


def _scores_while_training(runs: Sequence[RunReader], groups: Sequence[RunGroup]) -> list[Plot]:
    lines: dict[tuple[str, str], list[Line]] = {}
    kinds: list[str] = []
    for number, group in enumerate(groups):
        by_sampler: dict[tuple[str, str, str], dict[int, Curve]] = {}
        for index in group.indices:
            for score in runs[index].scores:
                if score.blocks == 1:
                    key = (score.metric, score.protocol, f"{score.sampler} ({score.network_calls})")
                    points = by_sampler.setdefault(key, {}).setdefault(index, {})
                    points[score.step] = (score.value, score.spread or 0.0)
        for (metric, protocol, sampler), by_run in by_sampler.items():
            if max(map(len, by_run.values())) < 2:
                continue
            if sampler not in kinds:
                kinds.append(sampler)
            name = f"{group.label} {sampler}" if len(groups) > 1 else sampler
            line = Line(number, name, [], [], kind=kinds.index(sampler))
            lines.setdefault((metric, protocol), []).extend(_over_seeds(line, list(by_run.values())))
    one = "; ± standard error" if any(len(group.indices) == 1 for group in groups) else ""
    return [
        Plot(
            f"Score while training, {metric}, {protocol}",
            f"Lower is better{one}. From scores/ of each run, protocol {protocol}.{_curves_of_seeds(groups)}",
            *("step", metric, found),
            log_y=True,
        )
        for (metric, protocol), found in lines.items()
    ]


def _over_seeds(line: Line, curves: Sequence[Curve]) -> list[Line]:
    """Return the lines of a setting: that of its only run, or the mean over its seeds at the steps that all have.

    The mean of three and more seeds has a band, the 95 % interval (Student's t). That of two would hide everything
    else, so the two are drawn instead.

    Args:
        line: the line without its points.
        curves: for each seed, (value, error or None) by step.
    """
    curves = [curve for curve in curves if curve]
    if len(curves) < 2:
        return [_of_one(line, curve) for curve in curves]
    steps = sorted(set.intersection(*map(set, curves)))
    means = [mean_interval([curve[step][0] for curve in curves]) for step in steps]
    mean = replace(line, x=steps, y=[value for value, _ in means])
    if len(curves) >= _BAND_FROM:
        return [replace(mean, errors=[half or 0.0 for _, half in means], band=True)] if steps else []
    return [*(replace(_of_one(line, curve), errors=None, thin=True) for curve in curves), *([mean] if steps else [])]


def _of_one(line: Line, curve: Curve) -> Line:
    errors = [error for _, error in curve.values() if error is not None]
    values = [value for value, _ in curve.values()]
    return replace(line, x=list(curve), y=values, errors=errors if len(errors) == len(values) else None)


def _curves_of_seeds(groups: Sequence[RunGroup]) -> str:
    """Return a sentence on how the seeds of settings are drawn; "" if each setting has one run."""
    counts = _counts(groups)
    if not counts:
        return ""
    band = ["band: 95 % interval (Student's t)"] if counts[-1] >= _BAND_FROM else []
    thin = ["thin: the two seeds"] if counts[0] < _BAND_FROM else []
    return f" Means over n = {' or '.join(map(str, counts))} seeds; {'; '.join(band + thin)}."


def _counts(groups: Sequence[RunGroup]) -> list[int]:
    """Return the numbers of seeds that settings with several seeds have."""
    return sorted({len(group.indices) for group in groups} - {1})


def score_plots(group: Comparable, runs: Sequence[RunReader]) -> list[Plot]:
    """Plot scores against network calls, and against each numeric config key that has several values.

    Runs of different models differ in more than one key, so they get the first plot only. A seed is not a setting: the
    points are means over the seeds, and no plot has a seed on an axis.
    """
    groups = grouped(runs)
    plots = [_against_calls(group, groups)] if len({each.network_calls for _, each in group.scores}) > 1 else []
    scored = sorted({number for number, *_ in group.rows(groups)})
    settings = differing_settings([runs[groups[number].indices[0]] for number in scored])
    for key, values in ({} if "model.name" in settings else settings).items():
        numbers = [_number(value) for value in values]
        if None not in numbers:
            by_group = {index: number or 0.0 for index, number in zip(scored, numbers, strict=True)}
            others = {other: dict(zip(scored, texts, strict=True)) for other, texts in settings.items() if other != key}
            plots.append(_against_key(group, groups, key, by_group, others))
    return plots


def _against_key(
    group: Comparable,
    groups: Sequence[RunGroup],
    key: str,
    values: dict[int, float],
    others: dict[str, dict[int, str]],
) -> Plot:
    """Plot one series per sampler and combination of other differing keys; its points are settings."""
    labels = short_labels([tuple(other.split(".")) for other in others])
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in group.rows(groups):
        number, sampler, *_ = row
        keys = [f"{label} = {by_group[number]}" for label, by_group in zip(labels, others.values(), strict=True)]
        for calls, scores in group.at(groups, row).items():
            name = ", ".join([f"{sampler} ({calls} calls)", *keys])
            points.setdefault(name, []).append((values[number], *_mean_and_bar(scores)))
    lines = []
    for number, (name, found) in enumerate(points.items()):
        x, y, errors = zip(*sorted(found), strict=True)
        # repetitions of a run share a value: a joined line would zigzag
        lines.append(Line(number, name, x, y, errors, joined=len(set(x)) == len(x), of_run=False))
    spans_decades = min(values.values()) > 0 and max(values.values()) > 10 * min(values.values())
    points_are = "setting" if _counts(groups) else "run"
    caption = f"Lower is better. Each point is a {points_are}, by {key} of its config.yaml. {_bars(groups)}"
    title = f"Score against {key}, {group.metric}, {group.protocol}"
    return Plot(title, caption, key, group.metric, lines, log_x=spans_decades, log_y=True)


def _mean_and_bar(scores: Replicates) -> tuple[float, float]:
    """Return the mean over the seeds and half its 95 % interval: of two seeds their range, of one its error."""
    values = [each.value for each in scores.values()]
    if len(values) == 1:
        return values[0], next(iter(scores.values())).spread or 0.0
    mean, half = mean_interval(values)
    return mean, (max(values) - min(values)) / 2 if len(values) < _BAND_FROM else half or 0.0


def _bars(groups: Sequence[RunGroup]) -> str:
    """Return a sentence on what the bars are."""
    counts = _counts(groups)
    if not counts:
        return "Bars as in the table below."
    interval = ["95 % interval (Student's t)"] if counts[-1] >= _BAND_FROM else []
    span = ["the range of two"] if counts[0] < _BAND_FROM else []
    return f"Means over n = {' or '.join(map(str, counts))} seeds; bars: {', '.join(interval + span)}."


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _against_calls(group: Comparable, groups: Sequence[RunGroup]) -> Plot:
    """Plot one line per setting and sampler."""
    rows = group.rows(groups)
    samplers = list(dict.fromkeys(sampler for _, sampler, _, _ in rows))
    alone = len(groups) == 1  # then colours distinguish samplers
    lines = []
    for row in rows:
        scores = group.at(groups, row)
        values, errors = zip(*map(_mean_and_bar, scores.values()), strict=True)
        number = samplers.index(row[1])
        lines.append(
            Line(
                number if alone else row[0],
                group.name(groups, row),
                *(list(scores), values, errors),
                number // len(COLOURS) if alone else number,
                of_run=not alone,
            )
        )
    caption = f"Lower is better. {_bars(groups)}"
    title = f"Score against network calls, {group.metric}, {group.protocol}"
    return Plot(title, caption, "network calls per image", group.metric, lines, log_x=True, log_y=True)


def noise_schedules(curves: Sequence[schedules.Curve]) -> Plot:
    """Plot the log-SNR of each schedule against t/T."""
    lines = []
    for number, curve in enumerate(curves):
        count = len(curve.log_snr)
        lines.append(Line(number, curve.name, [(t + 1) / count for t in range(count)], curve.log_snr))
    caption = "log SNR = log(ᾱ_t / (1 - ᾱ_t)), computed from model.schedule and model.timesteps of each config.yaml."
    return Plot("Noise schedules", caption, "t / T", "log SNR", lines)


def _finite(points: Sequence[tuple[int, float]]) -> Curve:
    return {step: (value, None) for step, value in points if math.isfinite(value)}
