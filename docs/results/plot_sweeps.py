"""Draw the curves of docs/results/sweeps.md from the directories of the sweeps.

    python docs/results/plot_sweeps.py runs docs/images

The first folder contains timesteps/, schedules/ and sampling_steps/, as `diffexp sweep run` writes them.
"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from diffexp.runs.reader import RunReader
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.results import Setting, settings

NORMAL = 1.96  # standard errors of a 95 % interval


def half_width(sweep: Sweep, setting: Setting) -> float:
    """Half the 95 % interval of a setting's mean: over its seeds, or for a single seed over its images."""
    if setting.interval is not None:
        return (setting.interval[1] - setting.interval[0]) / 2
    run = sweep.trial(setting.rows[0].index).run
    assert run is not None
    (score,) = (each for each in RunReader(run.path, "").scores if each.value == setting.mean)
    return NORMAL * (score.spread or 0.0) / score.blocks**0.5


def curves(sweep: Sweep, x: str, line: str) -> dict[str, list[tuple[float, float, float]]]:
    """Points (x, mean distance, half its interval) for each value of the parameter `line`, sorted by x."""
    found = defaultdict(list)
    for setting in settings(sweep):
        if setting.mean is not None:
            found[str(setting.parameters[line])].append(
                (setting.parameters[x], setting.mean, half_width(sweep, setting))
            )
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
    """Draw the distance of each training in grey, and the mean of each schedule with its interval."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    found = settings(sweep)
    for place, setting in enumerate(found):
        axes.plot([place] * len(setting.values), setting.values, "o", color="0.7")
        axes.errorbar([place + 0.15], [setting.mean], [half_width(sweep, setting)], marker="o", capsize=3)
    axes.set_xticks(range(len(found)), [str(setting.parameters["model.schedule.name"]) for setting in found])
    axes.set(ylabel=ylabel(sweep), xlabel="schedule (grey: a point for each seed)")
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
