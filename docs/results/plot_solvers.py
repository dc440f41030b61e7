"""Draw docs/images/solvers.png: score against network calls, from tables of `diffexp evaluate`.

    python docs/results/plot_solvers.py FOLDER=TITLE=VALUE=ERROR… docs/images/solvers.png

Each FOLDER contains a table.json. VALUE ± ERROR is the score of 1000 steps of DDPM.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

ALL = 1000  # network calls of the reference, DDPM
OTHER_PATHS = {"trailing": ":", "logsnr": "--"}  # their line styles


def draw(axes: Axes, title: str, table: dict[str, Any], value: float, error: float) -> None:
    """Draw a curve for each sampler, solid on the default path, and the band of DDPM's score."""
    curves = defaultdict(list)
    for cell in table["cells"]:
        if cell["network_calls"] < ALL:
            curves[cell["row"]].append((cell["network_calls"], cell["mean"]["fd"], cell["spread"]["fd"]))
    colours: dict[str, Any] = {}
    for row, points in sorted(curves.items()):
        path = next((path for path in OTHER_PATHS if row.endswith(f"-{path}")), None)
        name = row.removesuffix(f"-{path}")
        axes.errorbar(
            *zip(*sorted(points), strict=True),
            color=colours.setdefault(name, f"C{len(colours)}"),
            linestyle="-" if path is None else OTHER_PATHS[path],
            marker="o" if path is None else ".",
            capsize=2,
            label=name if path is None else None,
        )
    axes.axhspan(value - error, value + error, color="0.85", label=f"DDPM, {ALL} calls")
    places = sorted({point[0] for points in curves.values() for point in points})
    axes.set(xscale="log", yscale="log", title=title, xlabel="network calls", ylabel=table["metric"])
    axes.set_xticks([each for each in places if each in (5, 10, 20, 50, 99)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}" if max(axes.get_ylim()) / min(axes.get_ylim()) < 20 else NullFormatter())
    axes.legend(fontsize=7)


def main() -> None:
    """Draw one panel per table."""
    *tables, out = sys.argv[1:]
    figure, panels = plt.subplots(1, len(tables), figsize=(5.2 * len(tables), 3.8), layout="constrained", squeeze=False)
    for axes, given in zip(panels[0], tables, strict=True):
        folder, title, value, error = given.split("=")
        draw(axes, title, json.loads((Path(folder) / "table.json").read_text()), float(value), float(error))
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
