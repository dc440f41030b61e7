"""Draw the denoising error of a run over steps and noise levels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from diffexp.reports.figure import Drawing

_MOST_TICKS = 8
_HIGHEST = 1.5  # multiple of a level's lowest error with the last colour


@dataclass(frozen=True)
class HeatMap(Drawing):
    """The error at each level, as a multiple of the lowest at this level.

    Attributes:
        steps: the steps, in columns.
        levels: the levels of log SNR, in rows.
        errors: the error by step and level.
    """

    steps: Sequence[int]
    levels: Sequence[float]
    errors: Sequence[Sequence[float]] = field(repr=False)

    def figure(self) -> Figure:
        """Draw the map with the colours and the lowest errors."""
        lowest = [min(row) for row in zip(*self.errors, strict=True)]
        relative = [[error / (best or 1.0) for error in row] for row, best in zip(self._rows(), lowest, strict=True)]
        figure = Figure(figsize=(8, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        colours = Normalize(1, max(min(_HIGHEST, max(map(max, relative))), 1.001))
        drawn = axes.imshow(relative, aspect="auto", cmap="viridis", norm=colours, interpolation="nearest")
        every = -(-len(self.steps) // _MOST_TICKS)
        axes.set_xticks(range(0, len(self.steps), every), [f"{step:,}" for step in self.steps[::every]])
        names = [f"{level:g}  ({best:.2g})" for level, best in zip(self.levels, lowest, strict=True)]
        axes.set_yticks(range(len(self.levels)), names, fontsize=7)
        axes.set_xlabel("step")
        axes.set_ylabel("log SNR  (lowest error)")
        bar = figure.colorbar(drawn, ax=axes, extend="max" if max(map(max, relative)) > _HIGHEST else "neither")
        bar.set_label("error / lowest of its level")
        return figure

    def _rows(self) -> list[tuple[float, ...]]:
        return list(zip(*self.errors, strict=True))
