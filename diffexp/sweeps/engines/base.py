"""The interface of engines, which run the trials of a sweep."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from diffexp.config.fields import range_problems
from diffexp.config.merge import merge
from diffexp.config.plugins import require_plugins
from diffexp.config.schemas.engines import ENGINES, EngineConfig
from diffexp.config.sources import override_layer
from diffexp.errors import UserError
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.runner import CANCELLED
from diffexp.sweeps.state import stop_orphan
from diffexp.system.files import atomic_write_text

# The exit code of a task whose trial should be tried again (EX_TEMPFAIL of sysexits.h).
AGAIN = 75


class Engine(ABC):
    """Runs the unfinished trials of a sweep: locally, or as jobs that each call `diffexp sweep trial DIR INDEX`.

    A job exits with 0 if its trial is over, 1 if it failed, and `AGAIN` if it should be queued again.

    Args:
        config: the engine's settings.

    Raises:
        UserError: if the settings are invalid.
    """

    # Whether `submit` returns only after the trials have ended.
    is_blocking: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def submit(self, sweep: Sweep) -> list[str]:
        """Run the unfinished trials of a sweep and return the ids of the jobs; none if all have ended."""

    def script(self, sweep: Sweep) -> str:
        """Return the script that `submit` would submit, for display.

        Raises:
            UserError: if this engine submits no script.
        """
        raise UserError(f"--print: expected an engine with a job script, got {self.config.name}. Remove --print.")

    def alive(self, sweep: Sweep) -> list[str]:
        """Return the ids of a sweep's queued and running jobs."""
        return []

    def gone(self, sweep: Sweep) -> set[int]:
        """Return the trials that are recorded as running in a job that no longer exists."""
        return set()

    def cancel(self, sweep: Sweep) -> list[str]:
        """Cancel a sweep's jobs and return their ids."""
        return []

    def rank(self, environment: Mapping[str, str]) -> int:
        """Return the rank of this process among those that a job has started for one trial."""
        return 0


def build_engine(name: str, overrides: Sequence[str] = ()) -> tuple[Engine, list[str]]:
    """Build an engine with the overrides of its keys.

    Args:
        name: a name in `ENGINES`.
        overrides: ``key=value`` texts; the engine uses those with its keys.

    Returns:
        The engine, and the other overrides.

    Raises:
        UserError: if the engine is unknown or a value is invalid.
    """
    schema = ENGINES.schema(name)
    assert issubclass(schema, EngineConfig)
    own = [text for text in overrides if text.partition("=")[0] in engine_keys(name)]
    parsed = [text for text in own if text.partition("=")[0] not in schema.verbatim]
    config = merge(schema(), [override_layer(text) for text in parsed]).config
    for key, _, text in (each.partition("=") for each in own if each not in parsed):
        before = getattr(config, key)
        changed: dict[str, Any] = {key: [*before, text] if isinstance(before, list) else text}
        config = replace(config, **changed)
    for key, problem in range_problems(config):
        raise UserError(f"command line: {key}: {problem}")
    engine = ENGINES.builder(name)(config)
    assert isinstance(engine, Engine)
    return engine, [text for text in overrides if text not in own]


def engine_keys(name: str) -> list[str]:
    """Return the keys of an engine's settings."""
    return ENGINES.own_fields(ENGINES.schema(name))


def plugin_options(sweep: Sweep) -> list[str]:
    """Return the options for the plugins of the trials, which a job gives to `diffexp sweep trial`.

    Raises:
        UserError: if the user has not named these plugins.
    """
    sweep.check_plugins()
    return [word for name in sweep.file.command.plugins for word in ("--plugin", name)]


def record_plugins(sweep: Sweep, engine: Engine, plugins: Sequence[str]) -> None:
    """Record the plugins that an engine of a plugin needs, so that `status` and `cancel` ask for them."""
    if type(engine).__module__.partition(".")[0] == "diffexp":
        return
    known = _plugins(sweep)
    if not set(plugins) <= set(known):
        atomic_write_text(_plugins_file(sweep), json.dumps(list(dict.fromkeys([*known, *plugins]))) + "\n")


def _plugins(sweep: Sweep) -> list[str]:
    try:
        plugins: list[str] = json.loads(_plugins_file(sweep).read_text())
        return [str(name) for name in plugins]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{_plugins_file(sweep)}: expected a list of modules, got a damaged file. Remove it."
        ) from error


def _plugins_file(sweep: Sweep) -> Path:
    return sweep.path / "engine_plugins.json"


def engines(sweep: Sweep) -> list[Engine]:
    """Build, with default settings, all engines that a sweep may have been submitted to.

    Raises:
        UserError: if the user has not named the plugins that the sweep was submitted with.
    """
    require_plugins(_plugins(sweep), str(_plugins_file(sweep)))
    return [build_engine(name)[0] for name in ENGINES.names]


def gone_trials(sweep: Sweep) -> set[int]:
    """Return the trials that are recorded as running but whose job some engine reports as gone."""
    return {index for engine in engines(sweep) for index in engine.gone(sweep)}


def cancel(sweep: Sweep) -> list[str]:
    """Stop a sweep locally and on every engine, and return the ids of the cancelled jobs.

    Running trials save a checkpoint first.
    """
    atomic_write_text(sweep.path / CANCELLED, "")  # first, so that no stopped trial restarts
    for trial in sweep.trials():
        stop_orphan(trial)
    return [job for engine in engines(sweep) for job in engine.cancel(sweep)]
