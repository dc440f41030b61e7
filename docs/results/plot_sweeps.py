"""Draw the curves of docs/results/sweeps.md from the directories of the sweeps.

    python docs/results/plot_sweeps.py runs docs/images

The first folder contains timesteps/, schedules/ and sampling_steps/, as `diffexp sweep run` writes them.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from diffexp.runs.metrics import read_metrics
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.results import Row, rows


def error(sweep: Sweep, row: Row) -> float:
    """The error of a trial's distance: its standard error, or the spread over its blocks of images."""
    run = sweep.run(row.index)
    files = sorted(run.scores.glob("step-*.json"))
    if files:
        scores = json.loads(files[-1].read_text())["scores"].values()
        return float(min((each["scores"]["fd"] for each in scores), key=lambda fd: fd["value"])["error"])
    assert sweep.file.metric is not None
    return float(read_metrics(run.metrics)[-1][f"{sweep.file.metric.name}_error"])


def curves(sweep: Sweep, x: str, line: str) -> dict[str, list[tuple[float, float, float]]]:
    """Points (x, distance, error of the distance) for each value of the parameter `line`, sorted by x."""
    found = defaultdict(list)
    for row in rows(sweep):
        if row.value is not None:
            found[str(row.parameters[line])].append((row.parameters[x], row.value, error(sweep, row)))
    return {name: sorted(points) for name, points in sorted(found.items())}


def ylabel(sweep: Sweep) -> str:
    """The name of the metric, without its prefix."""
    assert sweep.file.metric is not None
    return sweep.file.metric.name.removeprefix("score/")


def draw(sweep: Sweep, x: str, line: str, xlabel: str, out: Path) -> None:
    """Draw the distance against x on logarithmic axes, with a curve for each value of `line`."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for name, points in curves(sweep, x, line).items():
        axes.errorbar(*zip(*points, strict=True), marker="o", capsize=3, label=f"{line.rpartition('.')[2]} = {name}")
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel(sweep))
    places = sorted({point[0] for points in curves(sweep, x, line).values() for point in points})
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend()
    figure.savefig(out, dpi=120)


def draw_schedules(sweep: Sweep, out: Path) -> None:
    """Draw the distance of each training, grouped by schedule."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    found = curves(sweep, "seed", "model.schedule.name")
    for place, points in enumerate(found.values()):
        offsets = [place + 0.15 * (index - (len(points) - 1) / 2) for index in range(len(points))]
        values, errors = [point[1] for point in points], [point[2] for point in points]
        axes.errorbar(offsets, values, errors, marker="o", linestyle="", capsize=3)
    axes.set_xticks(range(len(found)), list(found))
    axes.set(ylabel=ylabel(sweep), xlabel="schedule (a point for each seed)")
    figure.savefig(out, dpi=120)


def main() -> None:
    """Draw all three plots."""
    runs, images = Path(sys.argv[1]), Path(sys.argv[2])
    timesteps, sampling = Sweep(runs / "timesteps"), Sweep(runs / "sampling_steps")
    draw(timesteps, "model.timesteps", "model.schedule.rescale", "timesteps T", images / "sweep_timesteps.png")
    draw(sampling, "sampler.steps", "sampler.eta", "sampling steps S", images / "sweep_sampling_steps.png")
    draw_schedules(Sweep(runs / "schedules"), images / "sweep_schedules.png")


if __name__ == "__main__":
    main()
