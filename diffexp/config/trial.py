"""A trial of a sweep: the swept values on top of a config, and names that are the same wherever it runs."""

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import Any

from diffexp.config.sources import BASE_KEY, Layer
from diffexp.errors import UserError

SOURCE = "trial"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST = 100  # letters of a trial's name, which names a directory


def is_seed(key: str) -> bool:
    """Whether a dotted key is a seed: runs that differ in it alone are draws of one setting."""
    return key.rpartition(".")[2] == "seed"


@dataclass(frozen=True)
class Trial:
    """What ``--trial SWEEP PARAMETERS`` says.

    Attributes:
        sweep: the sweep's name.
        parameters: nested plain data: the swept keys of the config and their values.
    """

    sweep: str
    parameters: dict[str, Any]

    @classmethod
    def parse(cls, sweep: str, text: str) -> "Trial":
        """From the command line; the parameters are JSON, which W&B's agent writes for ``${args_json}``.

        Raises:
            UserError: if it is not JSON, no mapping, or the sweep's name would not do as a directory's.
        """
        check_sweep_name(sweep, "--trial")
        try:
            parameters = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--trial: {text!r} is not JSON ({error})") from error
        if not isinstance(parameters, dict):
            raise UserError(f"--trial: must be a JSON mapping of keys to values, not {text}")
        return cls(sweep, parameters)

    @property
    def name(self) -> str:
        """What tells the trial from others: "timesteps=50,rescale=none"."""
        return trial_name(self.parameters)

    def defaults(self, schema: type) -> Layer:
        """Names, directory and W&B group, below what else is given; just the keys that the schema has."""
        shown = {"name": self.name, "group": self.sweep, "job_type": "trial", "tags": [self.sweep]}
        values = {"name": self.name, "runs_dir": f"runs/{self.sweep}", "wandb": shown}
        known = {each.name for each in fields(schema)}
        return Layer(SOURCE, {key: value for key, value in values.items() if key in known})

    def values(self) -> Layer:
        """The swept values, above everything else."""
        return Layer(SOURCE, {key: value for key, value in self.parameters.items() if key != BASE_KEY})

    @property
    def base(self) -> str | None:
        """The config that the swept key "base" names, laid over the command's; None where it is not swept.

        Raises:
            UserError: if it is no text.
        """
        base = self.parameters.get(BASE_KEY)
        if base is not None and not isinstance(base, str):
            raise UserError(f"{SOURCE}: {BASE_KEY}: must name one config, not {base!r}")
        return base


def check_sweep_name(name: str, source: str) -> None:
    """Refuse a name of a sweep that would not do as a directory's.

    Raises:
        UserError: if it has other than letters, digits, '.', '_' and '-'.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{source}: {name!r} names a directory: use letters, digits, '.', '_' and '-'")


def trial_name(parameters: dict[str, Any]) -> str:
    """A name for a trial, from its parameters alone: each key by its shortest unambiguous end, and its value.

    Sorted by key, because W&B's server does not keep the order of a file.
    """
    values = dict(sorted(leaves(parameters)))
    parts = [
        f"{label}={_shown(value)}" for label, value in zip(short_labels(list(values)), values.values(), strict=True)
    ]
    name = re.sub(r"[^\w.=,+-]", "-", ",".join(parts))
    if len(name) <= _LONGEST:
        return name or "default"
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}-{digest}"


def leaves(parameters: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(path, value) of everything in nested mappings that is no mapping itself."""
    found = []
    for key, value in parameters.items():
        if isinstance(value, dict) and value:
            found += leaves(value, (*path, str(key)))
        else:
            found.append(((*path, str(key)), value))
    return found


def short_labels(paths: list[tuple[str, ...]]) -> list[str]:
    """For each path its shortest end that no other path has; "schedule" for schedule.name."""
    plain = [path[:-1] if path[-1] == "name" and len(path) > 1 else path for path in paths]
    labels = []
    for path in plain:
        length = 1
        while length < len(path) and sum(other[-length:] == path[-length:] for other in plain) > 1:
            length += 1
        labels.append(".".join(path[-length:]))
    return labels


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return "-".join(_shown(each) for each in value)
    return str(value)
