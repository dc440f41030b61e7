"""Format the results of a sweep: a row per setting, or a record per trial."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from diffexp.config.trial import short_labels
from diffexp.formatting import Table, markdown_table
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.ranking import ranking
from diffexp.sweeps.results import Setting, interval_text, rows, settings


def _path(sweep: Sweep, index: int) -> Path | None:
    run = sweep.trial(index).run
    return None if run is None else run.path


def as_records(sweep: Sweep) -> list[dict[str, Any]]:
    """Return one flat record per trial, for CSV and JSON."""
    metric = sweep.file.metric
    return [
        {
            "index": row.index,
            "name": row.name,
            "setting": setting.name,
            "state": row.record.state,
            **({metric.name: row.value} if metric is not None else {}),
            **row.parameters,
            "step": row.record.step,
            "seconds": round(row.record.seconds, 1),
            "tries": row.record.tries,
            "run": str(_path(sweep, row.index)),
        }
        for setting in settings(sweep)
        for row in setting.rows
    ]


def as_csv(sweep: Sweep) -> str:
    """Format the records as CSV."""
    records = as_records(sweep)
    if not records:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_json(sweep: Sweep) -> str:
    """Format the records as JSON."""
    return json.dumps(as_records(sweep), indent=1) + "\n"


def as_table(sweep: Sweep) -> str:
    """Format the settings as a Markdown table, best mean first; bold marks the best, = those equal to it.

    Its columns are the trials, the swept parameters, the mean and its 95 % interval, the seeds with a value, the
    states of the trials, and their seconds. Without a setting of several seeds, the two columns about seeds are absent.
    """
    ranked, metric = ranking(sweep), sweep.file.metric
    keys = list(dict.fromkeys(key for each in ranked.settings for key in each.parameters))
    columns = []
    if metric is not None:
        replicated = any(each.seeds > 1 for each in ranked.settings)
        columns = [f"{metric.name}, mean", "95 % interval", ranked.replicates] if replicated else [metric.name]
    head = ["trials", *short_labels([tuple(key.split(".")) for key in keys]), *columns, "state", "seconds"]
    lines = []
    for position, setting in enumerate(ranked.settings):
        trials = _ranges([row.index for row in setting.rows])
        values = [_shown(setting.parameters.get(key)) for key in keys]
        results = _results(setting, is_tie=position in ranked.ties)[: len(columns)]
        seconds = sum(row.record.seconds for row in setting.rows)
        lines.append([trials, *values, *results, _states(setting), f"{seconds:.0f}"])
    best = frozenset({(0, 1 + len(keys))} if ranked.differences else ())
    return Table("Settings", head, lines, ranked.note(), best).markdown()


def _results(setting: Setting, *, is_tie: bool) -> list[str]:
    """Return the mean, its interval and the number of seeds."""
    mean = "" if setting.mean is None else f"{setting.mean:.4g}" + " =" * is_tie
    interval = "" if setting.interval is None else interval_text(setting.interval)
    count, total = len(setting.values), setting.seeds
    return [mean, interval, str(total) if count == total else f"{count} of {total}"]


def _ranges(numbers: list[int]) -> str:
    """Return ``"0–2, 5"`` for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _states(setting: Setting) -> str:
    """Return ``"done"``, or ``"2 done, 1 failed"`` if the states of its trials differ."""
    counts = Counter(row.record.state for row in setting.rows)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {state}" for state, count in counts.items())


def as_trial_table(sweep: Sweep) -> str:
    """Format the trials as a Markdown table: swept parameters, metric, state, steps and seconds."""
    metric, found = sweep.file.metric, rows(sweep)
    keys = list(dict.fromkeys(key for row in found for key in row.parameters))
    labels = short_labels([tuple(key.split(".")) for key in keys])
    head = ["", *labels, *([metric.name] if metric is not None else []), "state", "step", "seconds"]
    lines = []
    for row in found:
        values = [_shown(row.parameters.get(key)) for key in keys]
        value = [] if metric is None else ["" if row.value is None else f"{row.value:.4g}"]
        record = row.record
        lines.append([str(row.index), *values, *value, record.state, str(record.step), f"{record.seconds:.0f}"])
    return markdown_table(head, lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
