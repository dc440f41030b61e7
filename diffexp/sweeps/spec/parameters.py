"""The parameters of a W&B sweep file: a tree of values and distributions."""

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from diffexp.errors import UserError, did_you_mean

# W&B's distributions, and the keys that each takes in addition to `distribution`.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "q_log_uniform_values": ("min", "max", "q"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
_KEYS = ("value", "values", "probabilities", "min", "max", "distribution", "mu", "sigma", "a", "b", "q", "parameters")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass(frozen=True)
class Parameter:
    """A swept config key.

    Attributes:
        path: the key's path in the config.
        distribution: W&B's name of the distribution.
        values: the values of a constant (one) or a categorical.
        numbers: those of min, max, mu, sigma, a, b, q and probabilities that the distribution has.
    """

    path: tuple[str, ...]
    distribution: str
    values: tuple[Any, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(self.path)

    def draw(self, seed: int, index: int) -> Any:
        """Draw the value of trial `index` in a random search, as a function of (seed, key, index) alone."""
        source = random.Random(f"diffexp sweep {seed} {self.key} {index}")
        if self.values:
            return source.choices(self.values, self.numbers.get("probabilities"))[0]
        value = _DRAW[self.distribution.removeprefix("q_")](source, self.numbers)
        if self.distribution.startswith("q_"):
            value = quantised(value, self.numbers["q"])
        return value

    def typical(self) -> list[Any]:
        """Return values that test the key's type and range: all of them, or the ends of a distribution."""
        if self.values:
            return list(self.values)
        low, high = self.bounds()
        if self.distribution.endswith("beta"):
            ends = [0.5]
        elif low is not None and high is not None:
            ends = [low, high]
        else:
            ends = [math.exp(self.numbers["mu"]) if "log" in self.distribution else self.numbers["mu"]]
        if self.distribution.startswith("q_"):
            return [quantised(end, self.numbers["q"]) for end in ends]
        return [int(end) for end in ends] if self.distribution == "int_uniform" else [float(end) for end in ends]

    def bounds(self) -> tuple[float | None, float | None]:
        """Return the smallest and the largest value; None where unbounded."""
        if self.distribution.endswith("beta"):
            return 0.0, 1.0
        if "min" not in self.numbers:
            return None, None
        low, high = self.numbers["min"], self.numbers["max"]
        if self.distribution in ("log_uniform", "q_log_uniform"):
            return math.exp(low), math.exp(high)
        if self.distribution == "inv_log_uniform":
            return math.exp(-high), math.exp(-low)
        return low, high


def quantised(value: float, q: float) -> float:
    """Round to the nearest multiple of q; an integer if q is one."""
    rounded = round(value / q) * q
    return round(rounded) if isinstance(q, int) else rounded


_DRAW: dict[str, Callable[[random.Random, dict[str, Any]], float]] = {
    "int_uniform": lambda source, given: source.randint(given["min"], given["max"]),
    "uniform": lambda source, given: source.uniform(given["min"], given["max"]),
    "log_uniform": lambda source, given: math.exp(source.uniform(given["min"], given["max"])),
    "log_uniform_values": lambda source, given: math.exp(
        source.uniform(math.log(given["min"]), math.log(given["max"]))
    ),
    "inv_log_uniform": lambda source, given: math.exp(-source.uniform(given["min"], given["max"])),
    "inv_log_uniform_values": lambda source, given: math.exp(
        -source.uniform(-math.log(given["max"]), -math.log(given["min"]))
    ),
    "normal": lambda source, given: source.gauss(given["mu"], given["sigma"]),
    "log_normal": lambda source, given: source.lognormvariate(given["mu"], given["sigma"]),
    "beta": lambda source, given: source.betavariate(given["a"], given["b"]),
}


def parse_parameters(values: Any, where: str, path: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """Yield the swept keys in a `parameters:` section.

    Args:
        values: the section.
        where: the sweep file, for messages.
        path: the section's path in the config.

    Raises:
        UserError: if W&B would reject the section, or would accept it although it cannot work.
    """
    shown = ".".join(("parameters", *path))
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where}: {shown}: expected a mapping of config keys to values, got {values!r}.")
    for key, spec in values.items():
        at = f"{where}: {shown}.{key}"
        if not isinstance(key, str):
            raise UserError(f"{where}: {shown}: expected string keys, got {key!r}. Quote it.")
        if "." in key:
            nested = ": {parameters: {".join(key.split("."))
            raise UserError(
                f"{at}: expected nested keys, got a dotted one, which W&B keeps in a separate column. Write {nested}: …"
            )
        if not isinstance(spec, dict):
            raise UserError(
                f"{at}: expected a mapping with value, values, min and max, distribution or parameters, got {spec!r}."
            )
        for name in spec:
            if name not in _KEYS:
                raise UserError(f"{at}: unknown key {name!r} in a W&B parameter.{did_you_mean(str(name), _KEYS)}")
        if "parameters" in spec:
            if len(spec) > 1:
                others = ", ".join(set(spec) - {"parameters"})
                raise UserError(f"{at}: expected either nested parameters or {others}, got both. Remove one.")
            yield from parse_parameters(spec["parameters"], where, (*path, key))
        else:
            yield _parameter(spec, at, (*path, key))


def _parameter(spec: dict[str, Any], at: str, path: tuple[str, ...]) -> Parameter:
    distribution = spec["distribution"] if "distribution" in spec else _implied(spec, at)
    if not isinstance(distribution, str) or distribution not in _DISTRIBUTIONS:
        raise UserError(
            f"{at}: unknown distribution {distribution!r}.{did_you_mean(str(distribution), _DISTRIBUTIONS)}"
        )
    for key in spec:
        if key not in ("distribution", *_DISTRIBUTIONS[distribution]):
            raise UserError(f"{at}: {key}: not a key of distribution {distribution}. Remove it.")
    if distribution == "constant":
        if "value" not in spec:
            raise UserError(f"{at}: value: expected the value of the constant, got none.")
        values = (spec["value"],)
    elif distribution == "categorical":
        values = _categories(spec, at)
    else:
        return Parameter(path, distribution, numbers=_numbers(spec, distribution, at))
    for value in values:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            raise UserError(
                f"{at}: expected a number, got {value}, a string in YAML 1.1, which W&B uses. "
                "Write a dot and a sign, as in 1.0e-4."
            )
    return Parameter(path, distribution, values, {"probabilities": spec.get("probabilities")})


def _implied(spec: dict[str, Any], at: str) -> str:
    forms = [key for key in ("value", "values", "min") if key in spec]
    if len(forms) != 1:
        raise UserError(
            f"{at}: expected exactly one of value, values, min and max, distribution or parameters, "
            f"got {', '.join(spec) or 'none'}."
        )
    if forms == ["min"] or "max" in spec:
        ends = [spec.get("min"), spec.get("max")]
        is_int = [isinstance(end, int) and not isinstance(end, bool) for end in ends]
        if any(is_int) != all(is_int) and all(isinstance(end, (int, float)) for end in ends):
            raise UserError(
                f"{at}: min, max: expected two integers or two floats, got {ends[0]} and {ends[1]}. "
                "Write a dot in both or in neither."
            )
        return "int_uniform" if all(is_int) else "uniform"
    return {"value": "constant", "values": "categorical"}[forms[0]]


def _categories(spec: dict[str, Any], at: str) -> tuple[Any, ...]:
    values, probabilities = spec.get("values"), spec.get("probabilities")
    if not isinstance(values, list) or not values:
        raise UserError(f"{at}: values: expected a list of at least one value, got {values!r}.")
    for index, value in enumerate(values):
        if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values[:index]):
            raise UserError(f"{at}: values: expected distinct values, got {value!r} twice.")
    if probabilities is not None:
        right = isinstance(probabilities, list) and all(isinstance(each, (int, float)) for each in probabilities)
        if not right or len(probabilities) != len(values) or min(probabilities) < 0:
            raise UserError(f"{at}: probabilities: expected {len(values)} non-negative numbers, got {probabilities!r}.")
        if not math.isclose(sum(probabilities), 1):
            raise UserError(f"{at}: probabilities: expected a sum of 1, got {sum(probabilities):g}.")
    return tuple(values)


def _numbers(spec: dict[str, Any], distribution: str, at: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {"mu": 0.0, "sigma": 1.0, "q": 1}
    numbers: dict[str, Any] = {key: spec.get(key, defaults.get(key)) for key in _DISTRIBUTIONS[distribution]}
    for key, value in numbers.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            got = "none" if value is None else repr(value)
            is_text = isinstance(value, str) and _NUMBER.fullmatch(value)
            hint = " Write a dot and a sign, as in 1.0e-4." if is_text else ""
            raise UserError(f"{at}: {key}: expected a finite number, got {got}.{hint}")
    ends = f"{numbers.get('min')} and {numbers.get('max')}"
    if "min" in numbers and not numbers["min"] < numbers["max"]:
        raise UserError(f"{at}: min, max: expected min < max, got {ends}.")
    small = numbers.get("min", -1) > 0 and numbers.get("max", 2) <= 1
    if distribution.endswith("log_uniform") and (small or max(abs(numbers["min"]), abs(numbers["max"])) > 700):
        raise UserError(
            f"{at}: min, max: expected logarithms, got {ends}. Use {distribution}_values to give the values themselves."
        )
    if distribution.endswith("log_uniform_values") and numbers["min"] <= 0:
        raise UserError(f"{at}: min: expected a number > 0 on a logarithmic scale, got {numbers['min']}.")
    if distribution == "int_uniform" and not all(isinstance(numbers[key], int) for key in ("min", "max")):
        raise UserError(f"{at}: min, max: expected integers for int_uniform, got {ends}.")
    for key in ("sigma", "a", "b", "q"):
        if key in numbers and numbers[key] <= 0:
            raise UserError(f"{at}: {key}: expected a number > 0, got {numbers[key]}.")
    return numbers


def nested(values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nest values by path into mappings, as W&B passes them to a run."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        node = root
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return root
