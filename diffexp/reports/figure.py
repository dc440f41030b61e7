"""Draw lines with error bars, for the page and for papers."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Text and axes take the colour of the page's text, light or dark: the SVG's `currentColor` replaces this colour.
INK = "#0a0b0c"

# Distinguishable on white and on black, also for most colour-blind readers (after Okabe & Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#9a8c00", "#7f7f7f")
_DASHES = ("-", "--", ":", "-.")
_MOST_NAMED = 12  # with more lines there is no legend

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "diffexp",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": "#7f7f7f",
    "grid.alpha": 0.25,
    "axes.grid": True,
}


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        run: the index of the run, or of the group of runs that differ only in seeds, which selects the colour.
        name: the name in the legend.
        x: the x coordinates.
        y: the y coordinates.
        errors: half the lengths of the error bars, or None.
        kind: the index of the dash pattern, which distinguishes the lines of one run.
        joined: whether to join the points.
        band: whether the errors are drawn as a band instead of bars.
        thin: whether this is one seed of several: a thin line without a name in the legend.
        of_run: whether the line belongs to the run `run`; otherwise `run` only selects the colour.
    """

    run: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] | None = None
    kind: int = 0
    joined: bool = True
    band: bool = False
    thin: bool = False
    of_run: bool = True


@dataclass(frozen=True)
class Drawing(ABC):
    """A figure with its title and caption.

    Attributes:
        title: a short title, which also names the figure's files.
        caption: the content of the figure, and the files that it was read from.
    """

    title: str
    caption: str

    @abstractmethod
    def figure(self) -> Figure:
        """Draw the figure."""

    def svg(self) -> str:
        """Return an ``<svg>`` element."""
        with rc_context(_STYLE):
            text = io.StringIO()
            self.figure().savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        return svg[svg.index("<svg") :].replace(INK, "currentColor")

    def files(self) -> dict[str, bytes]:
        """Return the figure as SVG and PNG, by suffix, with black text on white, for papers."""
        found = {}
        for suffix in ("svg", "png"):
            with rc_context({**_STYLE, **{key: "black" for key, value in _STYLE.items() if value == INK}}):
                content = io.BytesIO()
                self.figure().savefig(content, format=suffix, dpi=200)
            found[suffix] = content.getvalue()
        return found


@dataclass(frozen=True)
class Plot(Drawing):
    """Lines. In the SVG, each line of a run is a group with the id ``TITLE-rINDEX-NUMBER``.

    Attributes:
        x_label: the label of the x axis.
        y_label: the label of the y axis.
        lines: the lines to draw.
        log_x: whether the x axis is logarithmic.
        log_y: whether the y axis is logarithmic, if all y are positive.
    """

    x_label: str
    y_label: str
    lines: Sequence[Line] = field(repr=False)
    log_x: bool = False
    log_y: bool = False

    def figure(self) -> Figure:
        """Draw the lines."""
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes: Axes = figure.subplots()
        runs = sorted({line.run for line in self.lines})
        named = [line for line in self.lines if not line.thin]
        for number, line in enumerate(self.lines):
            colour = _colour(runs.index(line.run), len(runs))
            self._draw(axes, number, line, colour, width=1 if len(named) > _MOST_NAMED else 1.6)
        if self.log_x:
            axes.set_xscale("log")
        ys = [y for line in self.lines for y in line.y]
        if self.log_y and min(ys) > 0:
            axes.set_yscale("log")
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        for axis, numbers in ((axes.xaxis, [x for line in self.lines for x in line.x]), (axes.yaxis, ys)):
            if axis.get_scale() == "log":
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("{x:g}" if max(numbers) < 12 * min(numbers) else NullFormatter())
        if 1 < len(named) <= _MOST_NAMED:
            figure.legend(loc="outside right upper", fontsize=7)
        return figure

    def _draw(self, axes: Axes, number: int, line: Line, colour: Any, width: float) -> None:
        """Draw a line, and its errors as bars or as a band."""
        options: dict[str, Any] = {
            "color": colour,
            "linestyle": _DASHES[line.kind % len(_DASHES)] if line.joined else "none",
            "linewidth": 0.6 if line.thin else width,
            "alpha": 0.6 if line.thin else 1,
            "label": None if line.thin else line.name,
        }
        marker = "o" if len(line.x) < 2 or (line.errors is not None and not line.band) else None
        (drawn,) = axes.plot(line.x, line.y, marker=marker, markersize=3.5, **options)
        name = f"{slug(self.title)}-{'r' if line.of_run else 'line'}{line.run}-{number}"
        drawn.set_gid(name)
        if line.errors is not None:
            low = [max(y - error, y / 20) if self.log_y else y - error for y, error in _pairs(line)]
            high = [y + error for y, error in _pairs(line)]
            if line.band:
                errors: Artist = axes.fill_between(line.x, low, high, color=colour, alpha=0.2, linewidth=0)
            else:
                errors = axes.vlines(line.x, low, high, color=colour, linewidth=1, alpha=0.6)
            errors.set_gid(f"{name}-errors")


def slug(title: str) -> str:
    """Return a title as part of a file name or an id."""
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def _pairs(line: Line) -> list[tuple[float, float]]:
    return list(zip(line.y, line.errors or (), strict=True))


def _colour(number: int, count: int) -> str | tuple[float, ...]:
    if count <= len(COLOURS):
        return COLOURS[number]
    return colormaps["viridis"](0.05 + 0.85 * number / max(1, count - 1))
