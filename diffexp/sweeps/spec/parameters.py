"""The parameters of a W&B sweep file: a tree of values and distributions."""

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from diffexp.errors import UserError, did_you_mean

# W&B's distributions, and the keys that each takes besides its own name.
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
    """One swept key.

    Attributes:
        path: its place in the config.
        distribution: a name of W&B's.
        values: of a constant (one) or a categorical.
        numbers: min, max, mu, sigma, a, b, q, probabilities: what the distribution has.
    """

    path: tuple[str, ...]
    distribution: str
    values: tuple[Any, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its dotted key."""
        return ".".join(self.path)

    def draw(self, seed: int, index: int) -> Any:
        """The value in trial `index` of a random search: a function of (seed, key, index) alone."""
        source = random.Random(f"diffexp sweep {seed} {self.key} {index}")
        if self.values:
            return source.choices(self.values, self.numbers.get("probabilities"))[0]
        value = _DRAW[self.distribution.removeprefix("q_")](source, self.numbers)
        if self.distribution.startswith("q_"):
            value = quantised(value, self.numbers["q"])
        return value

    def typical(self) -> list[Any]:
        """Values that show whether the key's type and range allow what may be drawn: all, or the ends."""
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
        """The smallest and the largest value, None where there is none."""
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
    """The nearest multiple of q; a whole number where q is one."""
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
    """The swept keys in a `parameters:` section.

    Args:
        values: the section.
        where: its file, for messages.
        path: of the section in the config.

    Raises:
        UserError: for what W&B would refuse, and for what it lets pass though it cannot work.
    """
    shown = ".".join(("parameters", *path))
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where}: {shown}: must hold keys of the config, and their values")
    for key, spec in values.items():
        at = f"{where}: {shown}.{key}"
        if not isinstance(key, str):
            raise UserError(f"{where}: {shown}: {key!r} is no key; keys are texts")
        if "." in key:
            nested = ": {parameters: {".join(key.split("."))
            raise UserError(
                f"{at}: W&B keeps a dotted name as a column of its own beside the nested one; write {nested}: …"
            )
        if not isinstance(spec, dict):
            raise UserError(f"{at}: must be a mapping with value, values, min and max, distribution or parameters")
        for name in spec:
            if name not in _KEYS:
                raise UserError(f"{at}: there is no {name!r} in W&B's parameters.{did_you_mean(str(name), _KEYS)}")
        if "parameters" in spec:
            if len(spec) > 1:
                raise UserError(
                    f"{at}: nested parameters and {', '.join(set(spec) - {'parameters'})} exclude each other"
                )
            yield from parse_parameters(spec["parameters"], where, (*path, key))
        else:
            yield _parameter(spec, at, (*path, key))


def _parameter(spec: dict[str, Any], at: str, path: tuple[str, ...]) -> Parameter:
    distribution = spec["distribution"] if "distribution" in spec else _implied(spec, at)
    if not isinstance(distribution, str) or distribution not in _DISTRIBUTIONS:
        raise UserError(
            f"{at}: there is no distribution {distribution!r}.{did_you_mean(str(distribution), _DISTRIBUTIONS)}"
        )
    for key in spec:
        if key not in ("distribution", *_DISTRIBUTIONS[distribution]):
            raise UserError(f"{at}: {key} does not go with {distribution}")
    if distribution == "constant":
        if "value" not in spec:
            raise UserError(f"{at}: a constant needs its value")
        values = (spec["value"],)
    elif distribution == "categorical":
        values = _categories(spec, at)
    else:
        return Parameter(path, distribution, numbers=_numbers(spec, distribution, at))
    for value in values:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            raise UserError(
                f"{at}: {value} is a text in YAML 1.1, which W&B reads; write a dot and a sign, as in 1.0e-4"
            )
    return Parameter(path, distribution, values, {"probabilities": spec.get("probabilities")})


def _implied(spec: dict[str, Any], at: str) -> str:
    forms = [key for key in ("value", "values", "min") if key in spec]
    if len(forms) != 1:
        raise UserError(f"{at}: needs exactly one of value, values, min and max, distribution, parameters")
    if forms == ["min"] or "max" in spec:
        ends = [spec.get("min"), spec.get("max")]
        whole = [isinstance(end, int) and not isinstance(end, bool) for end in ends]
        if any(whole) != all(whole) and all(isinstance(end, (int, float)) for end in ends):
            raise UserError(
                f"{at}: min and max must both be whole numbers or both have a dot, not {ends[0]} and {ends[1]}"
            )
        return "int_uniform" if all(whole) else "uniform"
    return {"value": "constant", "values": "categorical"}[forms[0]]


def _categories(spec: dict[str, Any], at: str) -> tuple[Any, ...]:
    values, probabilities = spec.get("values"), spec.get("probabilities")
    if not isinstance(values, list) or not values:
        raise UserError(f"{at}: values: must be a list of one or more")
    for index, value in enumerate(values):
        if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values[:index]):
            raise UserError(f"{at}: values: {value!r} is there twice")
    if probabilities is not None:
        right = isinstance(probabilities, list) and all(isinstance(each, (int, float)) for each in probabilities)
        if not right or len(probabilities) != len(values) or min(probabilities) < 0:
            raise UserError(f"{at}: probabilities: must be {len(values)} numbers, none negative")
        if not math.isclose(sum(probabilities), 1):
            raise UserError(f"{at}: probabilities: must add up to 1, not {sum(probabilities):g}")
    return tuple(values)


def _numbers(spec: dict[str, Any], distribution: str, at: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {"mu": 0.0, "sigma": 1.0, "q": 1}
    numbers: dict[str, Any] = {key: spec.get(key, defaults.get(key)) for key in _DISTRIBUTIONS[distribution]}
    for key, value in numbers.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            wrong = "is required" if value is None else f"must be a number, not {value!r}"
            hint = (
                "; write a dot and a sign, as in 1.0e-4" if isinstance(value, str) and _NUMBER.fullmatch(value) else ""
            )
            raise UserError(f"{at}: {key}: {wrong}{hint}")
    if "min" in numbers and not numbers["min"] < numbers["max"]:
        raise UserError(f"{at}: min must be below max, not {numbers['min']} and {numbers['max']}")
    small = numbers.get("min", -1) > 0 and numbers.get("max", 2) <= 1
    if distribution.endswith("log_uniform") and (small or max(abs(numbers["min"]), abs(numbers["max"])) > 700):
        raise UserError(f"{at}: min and max of {distribution} are logarithms; {distribution}_values takes the values")
    if distribution.endswith("log_uniform_values") and numbers["min"] <= 0:
        raise UserError(f"{at}: min: must be above 0 on a logarithmic scale, not {numbers['min']}")
    if distribution == "int_uniform" and not all(isinstance(numbers[key], int) for key in ("min", "max")):
        raise UserError(f"{at}: int_uniform needs whole numbers")
    for key in ("sigma", "a", "b", "q"):
        if key in numbers and numbers[key] <= 0:
            raise UserError(f"{at}: {key}: must be above 0, not {numbers[key]}")
    return numbers


def nested(values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Values by path as nested mappings, as W&B hands them over."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        node = root
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return root
