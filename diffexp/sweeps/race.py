"""The course of a race, from the records of its trials.

A race is a sequence of rounds. In a round, every setting that is still racing trains the same seeds. When all trials of
a round have ended, a look decides which settings leave (`diffexp.sweeps.search.race`), and looks/0001.json records it.
So each trial is a function of its number and of the looks before it: workers need not agree on anything, and a process
that is killed loses nothing.
"""

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from diffexp.config.trial import Trial
from diffexp.errors import UserError, writing
from diffexp.sweeps.plan import PlannedTrial, Sweep
from diffexp.sweeps.search.grid_random import cells
from diffexp.sweeps.search.race import FIRST_SEEDS, LOOKS, look_level, rejected
from diffexp.sweeps.spec.seeds import SEED
from diffexp.sweeps.state import ENDED, history, read_state
from diffexp.system.files import write_new

End = Literal["decided", "failed", "run_cap", "looks"]


@dataclass(frozen=True)
class Leaver:
    """A setting that has left a race.

    Attributes:
        name: the setting's name.
        seeds: the number of seeds it had.
        reason: why it left.
    """

    name: str
    seeds: int
    reason: str


@dataclass(frozen=True)
class RaceState:
    """The state of a race.

    Attributes:
        racing: the names of the settings that are still racing.
        seeds: the number of seeds that each of them has, in complete rounds.
        left: the settings that have left, in that order.
        best: the name of the best setting at the last look; None before the first.
        trials: the number of trials with known parameters.
        end: why the race has ended; None while it runs.
    """

    racing: list[str]
    seeds: int
    left: list[Leaver]
    best: str | None
    trials: int
    end: End | None


@dataclass(frozen=True)
class _Round:
    """A round: the trials from index `start` on, of each setting in `racing` with each of `seeds`."""

    look: int
    start: int
    racing: list[int]
    seeds: range

    @property
    def stop(self) -> int:
        return self.start + len(self.racing) * len(self.seeds)

    def place(self, index: int) -> tuple[int, int]:
        """Return the setting and the seed of a trial."""
        seed, setting = divmod(index - self.start, len(self.racing))
        return self.racing[setting], self.seeds[seed]


@dataclass(frozen=True)
class _Course:
    """The rounds that have started, the looks that are due, and why the race has ended; None while it runs."""

    rounds: list[_Round]
    looks: list[dict[str, Any]]
    end: End | None


def _course(sweep: Sweep, *, record: bool = False) -> _Course:
    """Follow a race to its current round; `record` writes the looks that are due."""
    first: int = sweep.plan["first_seed"]
    each = _Round(1, 0, list(range(len(_settings(sweep)))), range(first, first + FIRST_SEEDS))
    rounds, looks = list[_Round](), list[dict[str, Any]]()
    while (end := _end(sweep, each)) is None:
        rounds.append(each)
        look = _look(sweep, rounds, record=record)
        if look is None:
            break
        looks.append(look)
        each = _Round(each.look + 1, each.stop, look["racing"], range(each.seeds.stop, each.seeds.stop + 1))
    return _Course(rounds, looks, end)


def _end(sweep: Sweep, following: _Round) -> End | None:
    """Return why a round is not run; None if it is."""
    if len(following.racing) < 2:
        return "decided" if following.racing else "failed"
    if following.look > LOOKS:
        return "looks"
    return "run_cap" if following.stop > len(sweep) else None


def race_trial(sweep: Sweep, index: int) -> Trial | End | None:
    """Return the parameters of a trial of a race, and record the looks that are due.

    Returns:
        The trial; None if the look before it is not due yet; or why the race has ended without it.

    Raises:
        UserError: if a recorded look is damaged.
    """
    course = _course(sweep, record=True)
    for each in course.rounds:
        if index < each.stop:
            setting, seed = each.place(index)
            return Trial(sweep.file.name, {**_settings(sweep)[setting].parameters, SEED: seed})
    return course.end


def race_state(sweep: Sweep) -> RaceState:
    """Return the state of a race.

    Raises:
        UserError: if a recorded look is damaged.
    """
    names = [trial.name for trial in _settings(sweep)]
    course = _course(sweep)
    racing, seeds, left, best = list(range(len(names))), 0, list[Leaver](), None
    for each, look in zip(course.rounds, course.looks, strict=False):
        seeds += len(each.seeds)
        racing = look["racing"]
        best = None if look["best"] is None else names[look["best"]]
        left += [Leaver(names[gone["setting"]], seeds, gone["reason"]) for gone in look["left"]]
    return RaceState([names[each] for each in racing], seeds, left, best, course.rounds[-1].stop, course.end)


def unfinished(sweep: Sweep) -> list[PlannedTrial]:
    """Return the trials of a sweep that have not ended; of a race that has ended, only those of its rounds."""
    left = [trial for trial in sweep.trials() if read_state(trial).state not in ENDED]
    if left and sweep.file.method == "race" and race_state(sweep).end is not None:
        return [trial for trial in left if trial.trial is not None]
    return left


def race_text(sweep: Sweep) -> str:
    """Format the state of a race: a line about the race, and one for each setting that has left."""
    state = race_state(sweep)
    racing = (
        f"{len(state.racing)} of {len(state.racing) + len(state.left)} settings are racing with {state.seeds} seeds"
    )
    undecided = f"undecided between {', '.join(state.racing)} with {state.seeds} seeds each; best mean: {state.best}"
    head = {
        None: racing + (f"; best mean: {state.best}" if state.best is not None else ""),
        "decided": f"decided: {', '.join(state.racing)}, after {state.trials} of at most {len(sweep)} trials",
        "failed": "no setting is left, as all have failed",
        "run_cap": f"{undecided}. run_cap ({len(sweep)}) allows no further round; diffexp sweep extend raises it",
        "looks": f"{undecided}, the most that a race trains",
    }[state.end]
    return "\n".join(
        [f"race: {head}", *(f"  left after {each.seeds} seeds: {each.name}: {each.reason}" for each in state.left)]
    )


# --- looks ---------------------------------------------------------------------------------------


def _settings(sweep: Sweep) -> list[Trial]:
    return list(cells(sweep.file))


def _look(sweep: Sweep, rounds: list[_Round], *, record: bool) -> dict[str, Any] | None:
    """Return the look after the last of these rounds; None if it is not due yet."""
    last = rounds[-1]
    found = _read_look(sweep, last.look)
    if found is not None or not _is_over(sweep, last):
        return found
    look = _take_look(sweep, rounds)
    if not record:
        return look
    file = _look_file(sweep, last.look)
    with writing(str(file)):
        write_new(file, json.dumps(look, indent=1) + "\n")
    return _read_look(sweep, last.look)  # if another process was faster, its look counts


def _look_file(sweep: Sweep, look: int) -> Path:
    return sweep.path / "looks" / f"{look:04d}.json"


def _read_look(sweep: Sweep, look: int) -> dict[str, Any] | None:
    file = _look_file(sweep, look)
    count = len(_settings(sweep))
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        named = [*found["racing"], *(gone["setting"] for gone in found["left"])]
        texts = [gone["reason"] for gone in found["left"]]
        best = [] if found["best"] is None else [found["best"]]
        is_sound = all(type(each) is int and 0 <= each < count for each in [*named, *best])
        problem = None if is_sound and all(isinstance(text, str) for text in texts) else "unknown settings"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = type(error).__name__
    if problem is not None:
        raise UserError(f"{file} is damaged ({problem}). Remove it; diffexp then decides again from the records.")
    return found


def _is_over(sweep: Sweep, each: _Round) -> bool:
    return all(read_state(sweep.trial(index)).state in ENDED for index in range(each.start, each.stop))


def _take_look(sweep: Sweep, rounds: list[_Round]) -> dict[str, Any]:
    """Decide from the records which settings leave after the last of these rounds."""
    values, failed = _values(sweep, rounds)
    last, names = rounds[-1], [trial.name for trial in _settings(sweep)]
    racing = [setting for setting in last.racing if setting not in failed]
    gone = [
        {"setting": setting, "reason": f"trial {failed[setting][0]:04d} has {failed[setting][1]}"}
        for setting in last.racing
        if setting in failed
    ]
    best, worse = (racing[0] if racing else None), dict[int, float]()
    if len(racing) > 1:
        place, found = rejected([values[setting] for setting in racing], last.look)
        best, worse = racing[place], {racing[other]: p for other, p in found.items()}
        gone += [{"setting": other, "reason": f"worse than {names[best]} (p = {p:.2g})"} for other, p in worse.items()]
    return {
        "look": last.look,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "level": look_level(last.look),
        "racing": [setting for setting in racing if setting not in worse],
        "best": best,
        "left": gone,
    }


def _values(sweep: Sweep, rounds: list[_Round]) -> tuple[list[dict[Hashable, float]], dict[int, tuple[int, str]]]:
    """Return each setting's values by seed, lower is better, and the trial and problem of each that failed."""
    metric = sweep.file.metric
    assert metric is not None
    values: list[dict[Hashable, float]] = [{} for _ in _settings(sweep)]
    failed: dict[int, tuple[int, str]] = {}
    for each in rounds:
        for index in range(each.start, each.stop):
            setting, seed = each.place(index)
            trial = sweep.trial(index)
            logged = history(trial, metric)
            if read_state(trial).state != "done":
                failed.setdefault(setting, (index, "failed"))
            elif not logged or not math.isfinite(logged[-1]):
                failed.setdefault(setting, (index, f"no finite {metric.name}"))
            else:
                values[setting][seed] = metric.better(logged[-1])
    return values, failed
