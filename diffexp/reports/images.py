"""Sample grids for the page: which of them fit."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffexp.runs.reader import RunReader

BUDGET = 24 * 2**20  # bytes of pictures in a page


@dataclass(frozen=True)
class Strip:
    """The grids of one sampler of one run.

    Attributes:
        run: index of the run.
        name: of the run and the sampler.
        pictures: (step, file), oldest first; the last is always there.
    """

    run: int
    name: str
    pictures: list[tuple[int, Path]]

    def data(self) -> list[tuple[int, str]]:
        """(step, picture as a data address)."""
        return [
            (step, "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode())
            for step, file in self.pictures
        ]


def strips(runs: Sequence[RunReader], budget: int = BUDGET) -> tuple[list[Strip], str]:
    """The grids that fit into the budget, and what was left out ("" if nothing was).

    First the last grid of each strip, then as many earlier ones, evenly spaced, of all strips alike.
    """
    whole = [
        Strip(index, f"{run.label}: {sampler}", list(files.items()))
        for index, run in enumerate(runs)
        for sampler, files in run.grids.items()
    ]
    most = max((len(strip.pictures) for strip in whole), default=0)
    for count in range(most, 0, -1):
        chosen = [Strip(each.run, each.name, _spaced(each.pictures, count)) for each in whole]
        if sum(map(_size, chosen)) <= budget:
            missing = sum(len(each.pictures) for each in whole) - sum(len(each.pictures) for each in chosen)
            return chosen, f"{missing} earlier grids left out, to keep the page small" if missing else ""
    fitting: list[Strip] = []
    for each in whole:
        last = Strip(each.run, each.name, each.pictures[-1:])
        if sum(map(_size, fitting)) + _size(last) > budget:
            break
        fitting.append(last)
    left = len(whole) - len(fitting)
    return fitting, f"the grids of {left} samplers of later runs left out, to keep the page small" if left else ""


def _spaced(pictures: list[tuple[int, Path]], count: int) -> list[tuple[int, Path]]:
    """At most `count`, evenly spaced, with the last."""
    if len(pictures) <= count:
        return pictures
    if count == 1:
        return pictures[-1:]
    return [pictures[round(number * (len(pictures) - 1) / (count - 1))] for number in range(count)]


def _size(strip: Strip) -> int:
    return sum(file.stat().st_size for _, file in strip.pictures) * 4 // 3
