"""The `command:` of a sweep file: the command that every trial runs, its target, and the overrides they share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffexp.config.trial import Trial, check_sweep_name
from diffexp.errors import UserError

EXAMPLE = "[diffexp, train, digits, --trial, NAME, '${args_json}']"
_PARAMETERS = "${args_json}"
_ENVIRONMENT = "${env}"


@dataclass(frozen=True)
class Command:
    """The command that a trial runs.

    Attributes:
        kind: the diffexp command.
        target: the config to train, or the run or checkpoint to evaluate.
        sweep: the sweep's name.
        overrides: ``key=value`` texts for every trial.
        plugins: modules to import.
        table: the table request that `evaluate` starts from; None for its default.
    """

    kind: Literal["train", "evaluate"]
    target: str
    sweep: str
    overrides: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    table: str | None = None

    def amended(self, target: str | None, overrides: Sequence[str], plugins: Sequence[str]) -> "Command":
        """Return a copy with another target, and further overrides and plugins."""
        return replace(
            self,
            target=target or self.target,
            overrides=(*self.overrides, *overrides),
            plugins=tuple(dict.fromkeys([*self.plugins, *plugins])),
        )

    def arguments(self, trial: Trial) -> list[str]:
        """Return the arguments of a trial's command line after `diffexp`."""
        return self._words(json.dumps(trial.parameters))

    def words(self) -> list[str]:
        """Return the command as a sweep file has it."""
        return [_ENVIRONMENT, "diffexp", *self._words(_PARAMETERS)]

    def _words(self, parameters: str) -> list[str]:
        words: list[str] = [self.kind, self.target, *self.overrides]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        if self.table is not None:
            words += ["--table", self.table]
        return [*words, "--trial", self.sweep, parameters]


def parse_command(given: Any, where: str) -> Command:
    """Parse a `command:`.

    Raises:
        UserError: if it does not run a diffexp command with the trial's parameters.
    """
    if not isinstance(given, list) or not all(isinstance(word, (str, int, float)) for word in given):
        raise UserError(f"{where}: command: expected a list of words such as {EXAMPLE}, got {given!r}.")
    changed = next((word for word in given if not isinstance(word, str)), None)
    if changed is not None:
        raise UserError(f"{where}: command: expected words, got one that YAML reads as {changed}. Quote it.")
    words: list[str] = given[1:] if given[:1] == [_ENVIRONMENT] else given
    if words[:1] != ["diffexp"] or len(words) < 3 or words[1] not in ("train", "evaluate"):
        raise UserError(
            f"{where}: command: expected diffexp train or diffexp evaluate and a target, as in {EXAMPLE}, "
            f"got {' '.join(words)!r}."
        )
    kind: Literal["train", "evaluate"] = "train" if words[1] == "train" else "evaluate"
    options: dict[str, list[str]] = {"--plugin": [], "--table": [], "--trial": []}
    plain: list[str] = []
    rest = words[2:]
    while rest:
        word = rest.pop(0)
        if word not in options and word.startswith(("-", "$")):
            raise UserError(
                f"{where}: command: unknown word {word}. Pass the parameters as --trial NAME '{_PARAMETERS}', "
                "which keeps their types and names the run."
            )
        if word not in options:
            plain.append(word)
            continue
        length = 2 if word == "--trial" else 1
        if len(rest) < length:
            raise UserError(f"{where}: command: {word}: expected {length} argument(s), got {len(rest)}.")
        options[word] += [rest.pop(0) for _ in range(length)]
    trial = options["--trial"]
    if len(trial) != 2 or trial[1] != _PARAMETERS:
        got = " ".join(["--trial", *trial]) if trial else "none"
        raise UserError(f"{where}: command: expected --trial NAME '{_PARAMETERS}', as in {EXAMPLE}, got {got}.")
    if not plain or any("=" not in word for word in plain[1:]):
        raise UserError(
            f"{where}: command: expected one config or run after {kind}, then key=value for every trial, "
            f"got {' '.join(plain) or 'none'}."
        )
    check_sweep_name(trial[0], f"{where}: command: --trial")
    table = options["--table"][-1] if options["--table"] else None
    return Command(kind, plain[0], trial[0], tuple(plain[1:]), tuple(options["--plugin"]), table)
