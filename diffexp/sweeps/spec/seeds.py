"""The key `seeds: N` of a sweep file, which W&B does not have: N replicates of every setting."""

from collections.abc import Sequence
from typing import Any

from diffexp.errors import UserError
from diffexp.sweeps.spec.parameters import Parameter

SEED = "seed"  # the config key that replicates differ in


def parse_seeds(given: Any, method: str, parameters: Sequence[Parameter], where: str) -> int | None:
    """Validate the key `seeds`.

    Raises:
        UserError: if it is no integer >= 2, or replicates have another source.
    """
    is_swept = any(parameter.key == SEED for parameter in parameters)
    if method == "race" and (is_swept or given is not None):
        key = "parameters.seed" if is_swept else "seeds"
        raise UserError(f"{where}: {key}: expected none, because a race chooses the seeds. Remove it.")
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 2:
        raise UserError(f"{where}: seeds: expected an integer >= 2, got {given!r}.")
    if method != "grid":
        raise UserError(f"{where}: seeds: expected method: grid, which repeats each setting, got {method}.")
    if is_swept:
        raise UserError(f"{where}: seeds: expected either seeds or parameters.seed, got both. Remove one.")
    return given


def with_seed_values(content: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the content of a sweep file that sweeps these seeds, in W&B's own format."""
    rest = {key: value for key, value in content.items() if key != "seeds"}
    command = [word for word in content["command"] if not str(word).startswith(f"{SEED}=")]
    parameters = {**(content.get("parameters") or {}), SEED: {"values": list(seeds)}}
    return {**rest, "command": command, "parameters": parameters}
