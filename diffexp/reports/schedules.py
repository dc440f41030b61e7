"""Compare the noise schedules of the runs that have one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffexp.config.load import load_experiment
from diffexp.config.schemas.schedules import ScheduleConfig
from diffexp.errors import UserError
from diffexp.formatting import Table
from diffexp.models.schedule import build_schedule
from diffexp.reports.groups import shown
from diffexp.runs.reader import RunReader


@dataclass(frozen=True)
class Curve:
    """A noise schedule.

    Attributes:
        name: T and all keys of the schedule.
        log_snr: log(ᾱ_t / (1 - ᾱ_t)) for t = 1 … T, the least noisy first; -inf where no signal remains.
        terminal_signal: √ᾱ_T.
        runs: the labels of the runs that use the schedule.
    """

    name: str
    log_snr: list[float]
    terminal_signal: float
    runs: list[str]


def schedules(runs: Sequence[RunReader]) -> list[Curve]:
    """Return the distinct schedules of these runs, except runs that need plugins that are not loaded."""
    found: dict[str, Curve] = {}
    noises: dict[str, tuple[ScheduleConfig, int] | None] = {}  # by the keys that determine it: loading a config is slow
    for run in runs:
        keys_of_noise = repr([run.config.get("model", {}).get(key) for key in ("name", "timesteps", "schedule")])
        if keys_of_noise not in noises:
            noises[keys_of_noise] = _noise(run)
        noise = noises[keys_of_noise]
        if noise is None:
            continue
        schedule, timesteps = noise
        keys = {"T": timesteps, **vars(schedule)}
        name = ", ".join(f"{key}={shown(value)}" if key != "name" else shown(value) for key, value in keys.items())
        if name in found:
            found[name].runs.append(run.label)
            continue
        alphas = build_schedule(schedule, timesteps).alphas_cumprod.tolist()
        log_snr = [math.log(alpha / (1 - alpha)) if alpha else -math.inf for alpha in alphas]
        found[name] = Curve(name, log_snr, math.sqrt(alphas[-1]), [run.label])
    return list(found.values())


def _noise(run: RunReader) -> tuple[ScheduleConfig, int] | None:
    try:
        return load_experiment(str(run.run.config)).model.noise()
    except UserError:
        return None


def terminal_signals(curves: Sequence[Curve]) -> Table:
    """Return a table of the signal that each schedule leaves at its end."""
    rows = [
        [curve.name, f"{curve.terminal_signal:.3g}", f"{curve.log_snr[0]:.3g}", f"{curve.log_snr[-1]:.3g}",
         ", ".join(curve.runs[:3]) + (f" and {len(curve.runs) - 3} more" if len(curve.runs) > 3 else "")]
        for curve in curves
    ]  # fmt: skip
    head = ["schedule", "terminal signal √ᾱ_T", "log SNR at t = 1", "log SNR at T", "runs"]
    return Table("Schedules", head, rows, "Computed from config.yaml of each run.")
