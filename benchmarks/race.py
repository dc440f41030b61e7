"""Simulate races of settings whose true means are known, and compare them with grids.

    python benchmarks/race.py [--races 1000]

The values of a setting are its mean, an effect of the seed that all settings share, and a normal residual. The unit is
the residual's standard deviation. A race or a grid has decided if its best setting is significantly better than all
others, at 5 % over all comparisons. For each case, a grid gets the smallest number of seeds with which it decides for
the truly best setting as often as the race, or in 99 % if the race does more often.

Print a Markdown table and write it to benchmarks/results/race.md and race.json.
"""

import argparse
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from diffexp.statistics.comparison import LEVEL
from diffexp.sweeps.search.race import FIRST_SEEDS, LOOKS, rejected

CASES: dict[str, tuple[list[float], int]] = {
    "2 equal": ([0, 0], 40),
    "5 equal": ([0, 0, 0, 0, 0], 60),
    "2 equal, 3 worse by 2": ([0, 0, 2, 2, 2], 60),
    "2, one worse by 2": ([0, 2], 40),
    "5, the others worse by 2": ([0, 2, 2, 2, 2], 60),
    "5, the others worse by 4": ([0, 4, 4, 4, 4], 60),
    "5, worse by 1.5, 3, 4.5, 6": ([0, 1.5, 3, 4.5, 6], 80),
    "8, worse by 2, 2, 4, 4, 6, 6, 8": ([0, 2, 2, 4, 4, 6, 6, 8], 80),
}
_MOST_SEEDS = 60  # of a grid
_GRIDS = 20_000


@dataclass(frozen=True)
class Race:
    """The outcome of a simulated race: the trials used, the setting found, and those that were rejected in order."""

    trials: int
    found: int
    rejected: list[int]
    is_decided: bool


def race(means: Sequence[float], run_cap: int, random: np.random.Generator) -> Race:
    """Simulate a race of settings with these means; lower is better."""
    values: list[dict[Hashable, float]] = [{} for _ in means]
    racing, gone, trials, look = list(range(len(means))), list[int](), 0, 0
    while len(racing) > 1 and look < LOOKS:
        new = 1 if look else FIRST_SEEDS
        if trials + new * len(racing) > run_cap:
            break
        for seed in range(look + 1 if look else 0, look + 2):
            shared = random.standard_normal()
            for setting in racing:
                values[setting][seed] = means[setting] + shared + random.standard_normal()
        trials, look = trials + new * len(racing), look + 1
        worse = {racing[place] for place in rejected([values[setting] for setting in racing], look)[1]}
        racing, gone = [each for each in racing if each not in worse], [*gone, *worse]
    found = min(racing, key=lambda setting: fmean(values[setting].values()))
    return Race(trials, found, gone, len(racing) == 1)


def grid_seeds(means: Sequence[float], probability: float, random: np.random.Generator) -> int | None:
    """Return the smallest number of seeds with which a grid finds its best setting significant so often.

    The best setting must differ from every other one, at 5 % over all pairs (Tukey).
    """
    order = np.sort(np.array(means, dtype=float))
    for seeds in range(2, _MOST_SEEDS + 1):
        df = (len(means) - 1) * (seeds - 1)
        ranges = np.ptp(random.standard_normal((_GRIDS, len(means))), axis=1)
        critical = np.quantile(ranges / np.sqrt(random.chisquare(df, _GRIDS) / df), 1 - LEVEL)
        found = order + random.standard_normal((_GRIDS, len(means))) / seeds**0.5
        error = np.sqrt(random.chisquare(df, _GRIDS) / df / seeds)
        if (found[:, 1:].min(axis=1) - found[:, 0] > critical * error).mean() >= probability:
            return seeds
    return None


def row(name: str, races: int) -> dict[str, str | float]:
    """Simulate a case and return its row of the table."""
    means, run_cap = CASES[name]
    random = np.random.default_rng(0)
    found = [race(means, run_cap, random) for _ in range(races)]
    best = {setting for setting, mean in enumerate(means) if mean == min(means)}
    correct = fmean(each.found in best for each in found)
    trials = fmean(each.trials for each in found)
    right = fmean(each.is_decided and each.found in best for each in found)
    seeds = grid_seeds(means, min(right, 0.99), random) if len(best) == 1 else None
    return {
        "case": name,
        "run_cap": run_cap,
        "best mean is a best one": f"{correct:.1%}",
        "rejects a best one": f"{fmean(bool(best & set(each.rejected)) for each in found):.1%}",
        "decides right": f"{right:.1%}" if len(best) == 1 else "",
        "trials": f"{trials:.1f}",
        "trials of the grid": "" if seeds is None else seeds * len(means),
    }


def main() -> None:
    """Simulate all cases, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=1000, help="races of each case")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the result")
    options = parser.parse_args()
    rows: list[dict[str, str | float]] = []
    for name in CASES:
        rows.append(row(name, options.races))
        print(rows[-1], flush=True)
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(value) for value in each.values()] for each in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    print(f"\n{table}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "race.md").write_text(table)
    (options.out / "race.json").write_text(json.dumps({"races": options.races, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
