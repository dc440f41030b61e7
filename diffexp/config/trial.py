"""A trial of a sweep: swept values on top of a config, and names that are the same on every machine."""

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import Any

from diffexp.config.schemas.common import wandb_tag
from diffexp.config.sources import BASE_KEY, Layer
from diffexp.errors import UserError

SOURCE = "trial"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST = 100  # characters of a trial's name, which names a directory


def is_seed(key: str) -> bool:
    """Whether a dotted key is a seed. Runs that differ only in seeds are repetitions of one setting."""
    return key.rpartition(".")[2] == "seed"


@dataclass(frozen=True)
class Trial:
    """The arguments of ``--trial SWEEP PARAMETERS``.

    Attributes:
        sweep: name of the sweep.
        parameters: swept keys of the config and their values, as nested plain data.
    """

    sweep: str
    parameters: dict[str, Any]

    @classmethod
    def parse(cls, sweep: str, text: str) -> "Trial":
        """Parse the command line. The parameters are JSON, which W&B's agent writes for ``${args_json}``.

        Raises:
            UserError: if the parameters are not a JSON mapping, or the sweep's name cannot be a directory's name.
        """
        check_sweep_name(sweep, "--trial")
        try:
            parameters = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--trial: expected JSON, got {text!r} ({error}).") from error
        if not isinstance(parameters, dict):
            raise UserError(f"--trial: expected a JSON mapping of keys to values, got {text}.")
        return cls(sweep, parameters)

    @property
    def name(self) -> str:
        """The trial's name, from its parameters: "timesteps=50,rescale=none"."""
        return trial_name(self.parameters)

    def defaults(self, schema: type) -> Layer:
        """Return names, directory and W&B group as the lowest layer, limited to the keys of the schema."""
        shown = {"name": self.name, "group": self.sweep, "job_type": "trial", "tags": [wandb_tag(self.sweep)]}
        values = {"name": self.name, "runs_dir": f"runs/{self.sweep}", "wandb": shown}
        known = {each.name for each in fields(schema)}
        return Layer(SOURCE, {key: value for key, value in values.items() if key in known})

    def values(self) -> Layer:
        """Return the swept values as the highest layer."""
        return Layer(SOURCE, {key: value for key, value in self.parameters.items() if key != BASE_KEY})

    @property
    def base(self) -> str | None:
        """The config in the swept key "base", merged over the command's; None if "base" is not swept.

        Raises:
            UserError: if it is not a string.
        """
        base = self.parameters.get(BASE_KEY)
        if base is not None and not isinstance(base, str):
            raise UserError(f"{SOURCE}: {BASE_KEY}: expected the name of one config, got {base!r}.")
        return base


def check_sweep_name(name: str, source: str) -> None:
    """Check that a sweep's name can be a directory's name.

    Raises:
        UserError: if it has characters other than letters, digits, '.', '_' and '-', or starts with one of these three.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{source}: expected a directory name of letters, digits, '.', '_' and '-', got {name!r}.")


def trial_name(parameters: dict[str, Any]) -> str:
    """Return a trial's name from its parameters: the shortest unambiguous suffix of each key, and its value.

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
    """Return the (path, value) of each value in nested mappings that is not a mapping."""
    found = []
    for key, value in parameters.items():
        if isinstance(value, dict) and value:
            found += leaves(value, (*path, str(key)))
        else:
            found.append(((*path, str(key)), value))
    return found


def short_labels(paths: list[tuple[str, ...]]) -> list[str]:
    """Return each path's shortest suffix that no other path has; "schedule" for schedule.name."""
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
