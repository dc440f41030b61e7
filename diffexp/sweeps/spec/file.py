"""A W&B sweep file: what it may hold, by W&B's rules and by common sense where W&B's are silent."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from diffexp.config.yaml_text import scalar
from diffexp.errors import UserError, did_you_mean
from diffexp.sweeps.spec.command import EXAMPLE, Command, parse_command
from diffexp.sweeps.spec.parameters import Parameter, parse_parameters

_TOP = (
    *("method", "parameters", "metric", "early_terminate", "program", "command", "name", "description", "project"),
    *("entity", "run_cap"),
)
_MOST = 10_000  # trials in a plan
_MOST_VALUES = 100_000
_HYPERBAND = ("type", "min_iter", "max_iter", "s", "eta", "strict")


@dataclass(frozen=True)
class SweepMetric:
    """What trials are compared by: a metric in metrics.jsonl, and which direction is better."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None

    def better(self, value: float) -> float:
        """The value, so that lower is better."""
        return value if self.goal == "minimize" else -value


@dataclass(frozen=True)
class Hyperband:
    """W&B's early termination: see `diffexp.sweeps.search.hyperband`."""

    bands: tuple[int, ...]
    eta: float
    strict: bool


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that has been read and checked.

    Attributes:
        source: where it was read.
        content: all of it, as plain data.
        run_cap: the number of trials; None for all cells of a grid.
    """

    source: str
    content: dict[str, Any]
    command: Command
    method: Literal["grid", "random", "bayes"]
    parameters: tuple[Parameter, ...]
    metric: SweepMetric | None
    hyperband: Hyperband | None
    run_cap: int | None

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.command.sweep

    def text(self) -> str:
        """As YAML that `wandb sweep` takes."""
        return yaml.safe_dump({**self.content, "command": self.command.words()}, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads as `wandb sweep` does, but refuses what YAML 1.1 changes without a word.

    That is a key written twice, of which the last counts, and the numbers 010 (8), 12:30 (750) and 1:30.5 (90.5). A
    date stays a text, as JSON has no dates.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys differ."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError(f"a key is written twice {node.start_mark}")
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number that is written as Python writes it."""
        number = super().construct_yaml_int(node)
        if number != scalar(str(node.value)):
            raise yaml.YAMLError(f"W&B reads {node.value} as {number}; write {number}, or quote it{node.start_mark}")
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A number that is not to the base of 60."""
        number = super().construct_yaml_float(node)
        if ":" in node.value:
            raise yaml.YAMLError(f"W&B reads {node.value} as {number}; write {number}, or quote it{node.start_mark}")
        return number

    def construct_date(self, node: yaml.ScalarNode) -> str:
        """A date as it was written."""
        return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)


def _bound(content: Any) -> None:
    """Refuse aliases that make little text endless: one within itself, or many times many.

    Raises:
        ValueError: saying which.
    """
    left, within = _MOST_VALUES, set()

    def look(node: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        if isinstance(node, (dict, list)):
            if id(node) in within:
                raise ValueError("an alias (*…) stands within what it means")
            within.add(id(node))
            for each in [*node, *node.values()] if isinstance(node, dict) else node:
                look(each)
            within.remove(id(node))

    look(content)


def read_sweep(path: Path) -> SweepFile:
    """Read and check a sweep file.

    Raises:
        UserError: for what W&B would refuse, or would accept though it cannot work.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # as `wandb sweep` reads it
        _bound(content)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from error
    return parse_sweep(content, str(path))


def parse_sweep(content: Any, where: str) -> SweepFile:
    """Check the content of a sweep file.

    Args:
        content: plain data.
        where: it came from, for messages.

    Raises:
        UserError: as `read_sweep`.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: must hold a mapping with method, parameters and command")
    for key in content:
        if key not in _TOP:
            raise UserError(f"{where}: {key!r} is no key of W&B's sweeps.{did_you_mean(str(key), _TOP)}")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise UserError(f"{where}: method: must be grid, random or bayes, not {method!r}")
    if "command" not in content:
        raise UserError(f"{where}: command: is required: {EXAMPLE}")
    command = parse_command(content["command"], where)
    if content.get("name", command.sweep) != command.sweep:
        raise UserError(f"{where}: name: is {content['name']!r}, but the command says --trial {command.sweep}")
    if "parameters" not in content:
        raise UserError(f"{where}: parameters: is required")
    try:
        parameters = tuple(parse_parameters(content["parameters"], where))
    except RecursionError as error:
        raise UserError(f"{where}: parameters: contains itself") from error
    metric = _metric(content.get("metric"), where)
    hyperband = _hyperband(content.get("early_terminate"), where)
    if metric is None and (method == "bayes" or hyperband is not None):
        raise UserError(f"{where}: metric: is required by {'bayes' if method == 'bayes' else 'early_terminate'}")
    for parameter in parameters:
        if method == "grid" and not parameter.values:
            raise UserError(f"{where}: parameters.{parameter.key}: a grid needs values, not a range")
        if method == "grid" and parameter.numbers.get("probabilities") is not None:
            raise UserError(
                f"{where}: parameters.{parameter.key}: a grid runs all values, whatever their probabilities"
            )
    run_cap = content.get("run_cap")
    if run_cap is None and method != "grid":
        raise UserError(f"{where}: run_cap: is required: {method} has no end of its own")
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise UserError(f"{where}: run_cap: must be a whole number of at least 1, not {run_cap!r}")
    cells = math.prod(len(parameter.values) for parameter in parameters) if method == "grid" else _MOST + 1
    count = min(cells, run_cap) if run_cap is not None else cells
    if count > _MOST:
        raise UserError(f"{where}: {count:,} trials are more than {_MOST:,}; give a run_cap")
    return SweepFile(where, content, command, method, parameters, metric, hyperband, run_cap)


def _metric(given: Any, where: str) -> SweepMetric | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"]:
        raise UserError(f"{where}: metric: must have a name, and may have goal and target")
    for key in given:
        if key not in ("name", "goal", "target"):
            raise UserError(
                f"{where}: metric: there is no {key!r}.{did_you_mean(str(key), ('name', 'goal', 'target'))}"
            )
    goal, target = given.get("goal", "minimize"), given.get("target")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"{where}: metric.goal: must be minimize or maximize, not {goal!r}")
    if target is not None and (not isinstance(target, (int, float)) or isinstance(target, bool)):
        raise UserError(f"{where}: metric.target: must be a number, not {target!r}")
    return SweepMetric(given["name"], goal, target)


def _hyperband(given: Any, where: str) -> Hyperband | None:
    if given is None:
        return None
    at = f"{where}: early_terminate"
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"{at}: type: W&B has hyperband only")
    for key, value in given.items():
        if key not in _HYPERBAND:
            raise UserError(f"{at}: there is no {key!r}.{did_you_mean(str(key), _HYPERBAND)}")
        if key in ("min_iter", "max_iter", "s") and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise UserError(f"{at}: {key}: must be a whole number of at least 1, not {value!r}")
    eta, strict = given.get("eta", 3), given.get("strict", False)
    if not isinstance(eta, (int, float)) or isinstance(eta, bool) or not 1 < eta <= 1000:
        raise UserError(f"{at}: eta: must be above 1 and at most 1000, not {eta!r}")
    if not isinstance(strict, bool):
        raise UserError(f"{at}: strict: must be true or false, not {strict!r}")
    if "min_iter" in given and "max_iter" not in given and "s" not in given:
        bands = [int(given["min_iter"] * eta**k) for k in range(30)]
    elif "max_iter" in given and "s" in given and "min_iter" not in given:
        bands = [int(given["max_iter"] / eta**k) for k in range(given["s"], 0, -1)]
    else:
        raise UserError(f"{at}: needs min_iter, or max_iter and s")
    bands = [band for band in dict.fromkeys(bands) if band >= 1]
    if not bands:
        raise UserError(f"{at}: no band is left; take a larger max_iter or a smaller s or eta")
    return Hyperband(tuple(bands), float(eta), strict)
