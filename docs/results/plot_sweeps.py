"""Draws the curves of docs/results/sweeps.md from the sweeps' own directories.

    python docs/results/plot_sweeps.py runs docs/images

The first folder holds timesteps/, schedules/ and sampling_steps/, as `diffexp sweep run` leaves them.
"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from diffexp.runs import read_metrics
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.results import Row, rows


def error(sweep: Sweep, row: Row) -> float:
    """The standard error of a trial's distance, as its run has logged it."""
    last = read_metrics(sweep.run(row.index).metrics)[-1]
    return max(value for name, value in last.items() if "/fd_" in name and name.endswith("_error"))


def curves(sweep: Sweep, x: str, line: str) -> dict[str, list[tuple[float, float, float]]]:
    """For each value of the parameter `line`, (x, distance, its error), sorted."""
    found = defaultdict(list)
    for row in rows(sweep):
        if row.value is not None:
            found[str(row.parameters[line])].append((row.parameters[x], row.value, error(sweep, row)))
    return {name: sorted(points) for name, points in sorted(found.items())}


def draw(sweep: Sweep, x: str, line: str, xlabel: str, out: Path) -> None:
    """Distance against x, both logarithmic, a curve for each value of `line`."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for name, points in curves(sweep, x, line).items():
        axes.errorbar(*zip(*points, strict=True), marker="o", capsize=3, label=f"{line.rpartition('.')[2]} = {name}")
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=sweep.file.metric.name.removeprefix("score/"))
    axes.legend()
    figure.savefig(out, dpi=120)


def draw_schedules(sweep: Sweep, out: Path) -> None:
    """Each training's distance, by schedule."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for name, points in curves(sweep, "seed", "model.schedule.name").items():
        values, errors = [point[1] for point in points], [point[2] for point in points]
        axes.errorbar([name] * len(points), values, errors, marker="o", linestyle="", capsize=3)
    axes.set(ylabel=sweep.file.metric.name.removeprefix("score/"), xlabel="schedule (a point for each seed)")
    figure.savefig(out, dpi=120)


def main() -> None:
    """Draw all three."""
    runs, images = Path(sys.argv[1]), Path(sys.argv[2])
    timesteps, sampling = Sweep(runs / "timesteps"), Sweep(runs / "sampling_steps")
    draw(timesteps, "model.timesteps", "model.schedule.rescale", "timesteps T", images / "sweep_timesteps.png")
    draw(sampling, "sampler.steps", "sampler.eta", "sampling steps S", images / "sweep_sampling_steps.png")
    draw_schedules(Sweep(runs / "schedules"), images / "sweep_schedules.png")


if __name__ == "__main__":
    main()
