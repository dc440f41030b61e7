"""The `command:` of a sweep file: which command every trial runs, on what, and what is fixed for all of them."""

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
    """What a trial runs.

    Attributes:
        kind: the command.
        target: the config to train, or the run or checkpoint to evaluate.
        sweep: the sweep's name.
        overrides: ``key=value`` for every trial.
        plugins: modules to import.
        table: what `evaluate` starts from; None for its default.
    """

    kind: Literal["train", "evaluate"]
    target: str
    sweep: str
    overrides: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    table: str | None = None

    def amended(self, target: str | None, overrides: Sequence[str], plugins: Sequence[str]) -> "Command":
        """The same with another target, and more overrides and plugins."""
        return replace(
            self,
            target=target or self.target,
            overrides=(*self.overrides, *overrides),
            plugins=tuple(dict.fromkeys([*self.plugins, *plugins])),
        )

    def arguments(self, trial: Trial) -> list[str]:
        """The command line of a trial, after `diffexp`."""
        return self._words(json.dumps(trial.parameters))

    def words(self) -> list[str]:
        """As it stands in a sweep file."""
        return [_ENVIRONMENT, "diffexp", *self._words(_PARAMETERS)]

    def _words(self, parameters: str) -> list[str]:
        words: list[str] = [self.kind, self.target, *self.overrides]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        if self.table is not None:
            words += ["--table", self.table]
        return [*words, "--trial", self.sweep, parameters]


def parse_command(given: Any, where: str) -> Command:
    """Read a `command:`.

    Raises:
        UserError: if it does not run a diffexp command on the trial's parameters.
    """
    if not isinstance(given, list) or not all(isinstance(word, (str, int, float)) for word in given):
        raise UserError(f"{where}: command: must be a list of words such as {EXAMPLE}")
    changed = next((word for word in given if isinstance(word, (bool, float))), None)
    if changed is not None:
        raise UserError(f"{where}: command: expected words, got one that YAML reads as {changed}. Quote it.")
    words = [str(word) for word in given]
    words = words[1:] if words[:1] == [_ENVIRONMENT] else words
    if words[:1] != ["diffexp"] or len(words) < 3 or words[1] not in ("train", "evaluate"):
        raise UserError(f"{where}: command: must run diffexp train or diffexp evaluate, as in {EXAMPLE}")
    kind: Literal["train", "evaluate"] = "train" if words[1] == "train" else "evaluate"
    options: dict[str, list[str]] = {"--plugin": [], "--table": [], "--trial": []}
    plain: list[str] = []
    rest = words[2:]
    while rest:
        word = rest.pop(0)
        if word not in options and word.startswith(("-", "$")):
            raise UserError(
                f"{where}: command: {word} is not understood; the parameters go in as --trial NAME '{_PARAMETERS}', "
                "which keeps their types and names the run"
            )
        if word not in options:
            plain.append(word)
            continue
        length = 2 if word == "--trial" else 1
        if len(rest) < length:
            raise UserError(f"{where}: command: something is missing after {word}")
        options[word] += [rest.pop(0) for _ in range(length)]
    trial = options["--trial"]
    if len(trial) != 2 or trial[1] != _PARAMETERS:
        raise UserError(f"{where}: command: must end with --trial NAME '{_PARAMETERS}', as in {EXAMPLE}")
    if not plain or any("=" not in word for word in plain[1:]):
        raise UserError(f"{where}: command: after {kind} one config or run is needed, then key=value for every trial")
    check_sweep_name(trial[0], f"{where}: command: --trial")
    table = options["--table"][-1] if options["--table"] else None
    return Command(kind, plain[0], trial[0], tuple(plain[1:]), tuple(options["--plugin"]), table)
