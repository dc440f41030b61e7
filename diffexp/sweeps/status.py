"""The status of a sweep as text: how many trials are in each state, and how far the unfinished ones are."""

from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime

from diffexp.formatting import duration, listed
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.race import race_text
from diffexp.sweeps.ranking import ranking
from diffexp.sweeps.results import Row, best_setting, rows

_SHOWN = ("running", "interrupted", "lost", "failed", "cancelled")
_SILENT = 120.0  # seconds; a training reports every few seconds, except while it draws samples


def status_text(sweep: Sweep, gone: Collection[int] = ()) -> str:
    """Format a sweep's status: the number of trials in each state, and a line for each active or unfinished one.

    Args:
        sweep: the sweep.
        gone: trials that are recorded as running but are not.
    """
    found = sorted(rows(sweep), key=lambda row: row.index)
    for row in found:
        if row.index in gone:
            row.record.state = "lost"
    counts = [f"{count} {state}" for state, count in Counter(row.record.state for row in found).items()]
    if len(found) < len(sweep):
        counts.append(f"{len(sweep) - len(found)} not chosen")
    lines = [f"{sweep.file.name}: {len(sweep)} trials: {', '.join(counts)}"]
    lines += [f"  {row.index:04d} {row.name}: {_line(sweep, row)}" for row in found if row.record.state in _SHOWN]
    best = best_setting(sweep)
    if best is not None and sweep.file.metric is not None:
        lines.append(f"best {sweep.file.metric.name}: {best.summary()}, {best.name}{_ties(sweep)}")
    if sweep.file.method == "race":
        lines.append(race_text(sweep))
    return "\n".join(lines)


def _ties(sweep: Sweep) -> str:
    """Return ``"; indistinguishable from it: a, b, c and 4 more"``, or "" if no setting was compared or ties."""
    ranked = ranking(sweep)
    names = [ranked.settings[position].name for position in ranked.ties]
    return f"; indistinguishable from it: {listed(names)}" if names else ""


def _line(sweep: Sweep, row: Row) -> str:
    record = row.record
    parts: list[str] = [record.state]
    if record.state == "running":
        parts[0] += f" on {record.host}" + (f" (Slurm job {record.job})" if record.job else "")
    parts.append(f"step {record.step} of {record.steps}" if record.steps else "before the first step")
    if record.state == "running":
        parts += _pace(sweep, row.index)
    if record.tries > 1:
        parts.append(f"{record.tries} tries")
    log = f"; see {sweep.trial(row.index).log}" if record.state in ("failed", "lost") else ""
    return ", ".join(parts) + log


def _pace(sweep: Sweep, index: int) -> list[str]:
    """Return the time that a running trial has left at its pace so far, and the time of its last report if long ago."""
    run = sweep.trial(index).run
    status = run.read_status() if run is not None else {}
    try:
        silent = (datetime.now(UTC) - datetime.fromisoformat(status["updated"])).total_seconds()
        each = status["seconds"] / status["step"]
        left = max(0.0, (status["steps"] - status["step"]) * each - silent)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # it has not started, or is an evaluation
        return []
    return [f"about {duration(left)} left", *([f"last report {duration(silent)} ago"] if silent > _SILENT else [])]
