"""W&B sweep files, checked by W&B's rules and, where those have gaps, by stricter ones."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from diffexp.config.schemas.common import project_problem
from diffexp.config.yaml_text import scalar
from diffexp.errors import UserError, did_you_mean
from diffexp.sweeps.spec.command import EXAMPLE, Command, parse_command
from diffexp.sweeps.spec.parameters import Parameter, parse_parameters
from diffexp.sweeps.spec.seeds import parse_seeds

# W&B's methods, and diffexp's own: race, see `diffexp.sweeps.search.race`
Method = Literal["grid", "random", "bayes", "race"]
_METHODS: tuple[Method, ...] = get_args(Method)
_TOP = (
    *("method", "parameters", "metric", "early_terminate", "program", "command", "name", "description", "project"),
    *("entity", "run_cap", "seeds"),
)
_TEXTS = ("name", "description", "program", "project", "entity")
_MOST = 10_000  # trials in a plan
_MOST_VALUES = 100_000
_LONGEST_NUMBER = 100  # characters
_HYPERBAND = ("type", "min_iter", "max_iter", "s", "eta", "strict")


@dataclass(frozen=True)
class SweepMetric:
    """The metric in metrics.jsonl by which trials are compared, and the direction that is better."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None

    def better(self, value: float) -> float:
        """Return the value, negated if higher is better, so that lower is better."""
        return value if self.goal == "minimize" else -value


@dataclass(frozen=True)
class Hyperband:
    """The settings of W&B's early termination, which `diffexp.sweeps.search.hyperband` describes."""

    bands: tuple[int, ...]
    eta: float
    strict: bool


@dataclass(frozen=True)
class SweepFile:
    """A validated sweep file.

    Attributes:
        source: the path it was read from.
        content: the complete file as plain data.
        run_cap: the number of trials, of a race the largest one; None for all cells of a grid.
        seeds: the number of replicates of each setting that the plan adds, from the config's seed; None for none.
    """

    source: str
    content: dict[str, Any]
    command: Command
    method: Method
    parameters: tuple[Parameter, ...]
    metric: SweepMetric | None
    hyperband: Hyperband | None
    run_cap: int | None
    seeds: int | None = None

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.command.sweep

    def text(self, project: str | None = None) -> str:
        """Format the sweep as YAML for `wandb sweep`, with another W&B project if given."""
        changes = {"project": project} if project is not None else {}
        content = {**self.content, **changes, "command": self.command.words()}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.1 as `wandb sweep` does, but rejects what YAML 1.1 changes silently.

    These are duplicate keys, of which the last counts, and numbers such as 010 (8), 12:30 (750) and 1:30.5 (90.5).
    A date stays a string, because JSON has no dates.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; duplicate keys are an error."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError(f"a mapping has a duplicate key{_line(node)}")
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct an integer; notations that Python reads differently are an error."""
        if len(node.value) > _LONGEST_NUMBER:
            raise yaml.YAMLError(f"expected at most {_LONGEST_NUMBER} characters in a number{_line(node)}")
        number = super().construct_yaml_int(node)
        if number != scalar(str(node.value)):
            raise yaml.YAMLError(f"W&B reads {node.value} as {number}. Write {number} or quote it{_line(node)}")
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Construct a float; base 60 is an error."""
        number = super().construct_yaml_float(node)
        if ":" in node.value:
            raise yaml.YAMLError(f"W&B reads {node.value} as {number}. Write {number} or quote it{_line(node)}")
        return number

    def construct_date(self, node: yaml.ScalarNode) -> str:
        """Keep a date as the string in the file."""
        return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)


def _check_plain(content: Any) -> None:
    """Reject what a plan, which is JSON, cannot hold: bytes and sets, endless aliases, and aliases that expand hugely.

    Raises:
        ValueError: for each of these.
    """
    left, within = _MOST_VALUES, set()

    def look(node: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"expected at most {_MOST_VALUES} values, got more")
        if not isinstance(node, (dict, list, str, int, float, type(None))):
            raise ValueError(f"expected texts, numbers, lists and mappings, got {type(node).__name__}")
        if isinstance(node, (dict, list)):
            if id(node) in within:
                raise ValueError("an alias (*…) contains itself")
            within.add(id(node))
            for each in [*node, *node.values()] if isinstance(node, dict) else node:
                look(each)
            within.remove(id(node))

    look(content)


def read_sweep(path: Path) -> SweepFile:
    """Read and validate a sweep file.

    Raises:
        UserError: if W&B would reject the file, or would accept it although it cannot work.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # as `wandb sweep` reads it
        _check_plain(content)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from error
    return parse_sweep(content, str(path))


def parse_sweep(content: Any, where: str) -> SweepFile:
    """Validate the content of a sweep file.

    Args:
        content: plain data.
        where: the source of the content, for messages.

    Raises:
        UserError: as `read_sweep`.
    """
    if not isinstance(content, dict):
        got = type(content).__name__
        raise UserError(f"{where}: expected a mapping with method, parameters and command, got {got}.")
    for key in content:
        if key not in _TOP:
            raise UserError(f"{where}: unknown key {key!r} in a W&B sweep.{did_you_mean(str(key), _TOP)}")
    for key in _TEXTS:
        if content.get(key) is not None and not isinstance(content[key], str):
            raise UserError(f"{where}: {key}: expected a string, got {content[key]!r:.60}. Quote it.")
    problem = project_problem(content.get("project") or "")
    if problem is not None:
        raise UserError(f"{where}: project: {problem}")
    method = content.get("method")
    if method not in _METHODS:
        raise UserError(f"{where}: method: expected grid, random, bayes or race, got {method!r}.")
    if "command" not in content:
        raise UserError(f"{where}: command: expected a list of words, got none. Add one, such as {EXAMPLE}.")
    command = parse_command(content["command"], where)
    if content.get("name") not in (None, command.sweep):
        raise UserError(
            f"{where}: name: expected {command.sweep!r}, the name after --trial in the command, "
            f"got {content['name']!r}. Use one name in both."
        )
    if "parameters" not in content and content.get("seeds") is None:
        raise UserError(f"{where}: parameters: expected a mapping of config keys to values, got none.")
    try:
        parameters = tuple(parse_parameters(content["parameters"], where)) if "parameters" in content else ()
    except RecursionError as error:
        raise UserError(f"{where}: parameters: expected a finite tree, got one that contains itself.") from error
    metric = _metric(content.get("metric"), where)
    hyperband = _hyperband(content.get("early_terminate"), where)
    if metric is None and (method in ("bayes", "race") or hyperband is not None):
        needs = method if method in ("bayes", "race") else "early_terminate"
        raise UserError(f"{where}: metric: expected a mapping with a name, required by {needs}, got none.")
    seeds = parse_seeds(content.get("seeds"), method, parameters, where)
    if method in ("grid", "race"):
        _check_values(parameters, method, where)
    run_cap = content.get("run_cap")
    if run_cap is None and method != "grid":
        search = "a race" if method == "race" else f"{method} search"
        raise UserError(f"{where}: run_cap: expected an integer >= 1, got none: {search} has no end. Add one.")
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise UserError(f"{where}: run_cap: expected an integer >= 1, got {run_cap!r}.")
    cells = math.prod(len(parameter.values) for parameter in parameters) * (seeds or 1)
    count = min(cells if method == "grid" else _MOST + 1, run_cap or _MOST + 1)
    if count > _MOST:
        got = f"{cells:,}" if method == "grid" else f"{run_cap:,}"
        raise UserError(f"{where}: expected at most {_MOST:,} trials, got {got}. Set run_cap to {_MOST:,} or less.")
    if method == "race":
        _check_race(cells, run_cap, hyperband, where)
    return SweepFile(where, content, command, method, parameters, metric, hyperband, run_cap, seeds)


def _check_values(parameters: Iterable[Parameter], method: Method, where: str) -> None:
    for parameter in parameters:
        at = f"{where}: parameters.{parameter.key}"
        if not parameter.values:
            raise UserError(f"{at}: expected values for a {method}, got {parameter.distribution}. List the values.")
        if parameter.numbers.get("probabilities") is not None:
            raise UserError(f"{at}: probabilities: expected none, because a {method} runs all values. Remove them.")


def _check_race(settings: int, run_cap: int | None, hyperband: Hyperband | None, where: str) -> None:
    if settings < 2:
        raise UserError(f"{where}: parameters: expected at least 2 settings for a race, got {settings}.")
    if run_cap is not None and run_cap < 2 * settings:
        raise UserError(
            f"{where}: run_cap: expected at least {2 * settings}, because each of the {settings} settings of a race "
            f"starts with 2 seeds, got {run_cap}."
        )
    if hyperband is not None:
        raise UserError(
            f"{where}: early_terminate: expected none for a race, which compares complete trials. Remove it."
        )


def _metric(given: Any, where: str) -> SweepMetric | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"]:
        raise UserError(
            f"{where}: metric: expected a mapping with name, and optionally goal and target, got {given!r}."
        )
    for key in given:
        if key not in ("name", "goal", "target"):
            hint = did_you_mean(str(key), ("name", "goal", "target"))
            raise UserError(f"{where}: metric: unknown key {key!r} in a W&B metric.{hint}")
    goal, target = given.get("goal", "minimize"), given.get("target")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"{where}: metric.goal: expected minimize or maximize, got {goal!r}.")
    if target is not None and (not isinstance(target, (int, float)) or isinstance(target, bool)):
        raise UserError(f"{where}: metric.target: expected a number, got {target!r}.")
    return SweepMetric(given["name"], goal, target)


def _hyperband(given: Any, where: str) -> Hyperband | None:
    if given is None:
        return None
    at = f"{where}: early_terminate"
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"{at}: expected a mapping with type: hyperband, the only rule W&B has, got {given!r}.")
    for key, value in given.items():
        if key not in _HYPERBAND:
            raise UserError(f"{at}: unknown key {key!r} in W&B's hyperband.{did_you_mean(str(key), _HYPERBAND)}")
        if key in ("min_iter", "max_iter", "s") and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise UserError(f"{at}: {key}: expected an integer >= 1, got {value!r}.")
    eta, strict = given.get("eta", 3), given.get("strict", False)
    if not isinstance(eta, (int, float)) or isinstance(eta, bool) or not 1 < eta <= 1000:
        raise UserError(f"{at}: eta: expected a number > 1 and <= 1000, got {eta!r}.")
    if not isinstance(strict, bool):
        raise UserError(f"{at}: strict: expected true or false, got {strict!r}.")
    if "min_iter" in given and "max_iter" not in given and "s" not in given:
        bands = [int(given["min_iter"] * eta**k) for k in range(30)]
    elif "max_iter" in given and "s" in given and "min_iter" not in given:
        bands = [int(given["max_iter"] / eta**k) for k in range(given["s"], 0, -1)]
    else:
        got = ", ".join(key for key in ("min_iter", "max_iter", "s") if key in given) or "none"
        raise UserError(f"{at}: expected either min_iter, or max_iter and s, got {got}.")
    bands = [band for band in dict.fromkeys(bands) if band >= 1]
    if not bands:
        raise UserError(f"{at}: expected at least one band >= 1, got none. Increase max_iter, or decrease s or eta.")
    return Hyperband(tuple(bands), float(eta), strict)
