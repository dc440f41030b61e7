"""What an engine is: where the trials of a sweep run."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, ClassVar

from diffexp.config.fields import range_problems
from diffexp.config.merge import merge
from diffexp.config.plugins import load_plugins
from diffexp.config.schemas.engines import ENGINES, EngineConfig
from diffexp.config.sources import override_layer
from diffexp.errors import UserError
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.runner import CANCELLED
from diffexp.sweeps.state import stop_orphan
from diffexp.system.files import atomic_write_text

# What a task exits with when its trial is to be tried again (EX_TEMPFAIL of sysexits.h).
AGAIN = 75


class Engine(ABC):
    """Runs the trials of a sweep that have not ended: here, or as jobs that each call `diffexp sweep trial DIR INDEX`.

    Such a job exits with 0 when its trial is over, 1 when it has failed, and `AGAIN` when it is to be queued again.

    Args:
        config: what is asked of the engine.

    Raises:
        UserError: for what cannot be asked of it.
    """

    # Whether `submit` waits until the trials have ended.
    is_blocking: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def submit(self, sweep: Sweep) -> list[str]:
        """Run what is left of a sweep, and return the ids of the jobs; none if nothing is left."""

    def script(self, sweep: Sweep) -> str:
        """Return what `submit` would submit, for people.

        Raises:
            UserError: if this engine submits no script.
        """
        raise UserError(f"--print: the engine {self.config.name} submits no script. Leave it out.")

    def alive(self, sweep: Sweep) -> list[str]:
        """Return the ids of a sweep's jobs that wait or run."""
        return []

    def gone(self, sweep: Sweep) -> set[int]:
        """Return the trials that are on record as running in a job that there is no more."""
        return set()

    def cancel(self, sweep: Sweep) -> list[str]:
        """Cancel a sweep's jobs, and return their ids."""
        return []

    def rank(self, environment: Mapping[str, str]) -> int:
        """Return the number of this process among those that a job has started for one trial."""
        return 0


def build_engine(name: str, overrides: Sequence[str] = ()) -> tuple[Engine, list[str]]:
    """Build an engine, with the overrides that are its own.

    Args:
        name: as in `ENGINES`.
        overrides: ``key=value`` texts, of which those with a key of the engine are its.

    Returns:
        The engine, and the other overrides.

    Raises:
        UserError: for an unknown engine, or anything wrong with its keys.
    """
    schema = ENGINES.schema(name)
    own = [text for text in overrides if text.partition("=")[0] in engine_keys(name)]
    config = merge(schema(), [override_layer(text) for text in own]).config
    assert isinstance(config, EngineConfig)
    for key, problem in range_problems(config):
        raise UserError(f"command line: {key}: {problem}")
    engine = ENGINES.builder(name)(config)
    assert isinstance(engine, Engine)
    return engine, [text for text in overrides if text not in own]


def engine_keys(name: str) -> list[str]:
    """The keys that an engine takes."""
    return ENGINES.own_fields(ENGINES.schema(name))


def record_plugins(sweep: Sweep, plugins: Sequence[str]) -> None:
    """Record which plugins the engine of a sweep needs, for `status` and `cancel`."""
    known = _plugins(sweep)
    if not set(plugins) <= set(known):
        atomic_write_text(_plugins_file(sweep), json.dumps(list(dict.fromkeys([*known, *plugins]))) + "\n")


def _plugins(sweep: Sweep) -> list[str]:
    try:
        plugins: list[str] = json.loads(_plugins_file(sweep).read_text())
    except FileNotFoundError:
        return []
    return plugins


def _plugins_file(sweep: Sweep) -> Path:
    return sweep.path / "engine_plugins.json"


def engines(sweep: Sweep) -> list[Engine]:
    """All engines that a sweep may have been submitted to, with nothing asked of them."""
    if plugins := _plugins(sweep):
        with chdir(sweep.working_directory):  # where a module next to the sweep file is found
            load_plugins(plugins)
    return [build_engine(name)[0] for name in ENGINES.names]


def gone_trials(sweep: Sweep) -> set[int]:
    """The trials that are on record as running, and do not, as far as any engine can tell."""
    return {index for engine in engines(sweep) for index in engine.gone(sweep)}


def cancel(sweep: Sweep) -> list[str]:
    """Stop a sweep, here and on every engine; running trials save where they are. The ids of the jobs cancelled."""
    atomic_write_text(sweep.path / CANCELLED, "")  # first, so that nothing that stops begins again
    for trial in sweep.trials():
        stop_orphan(trial)
    return [job for engine in engines(sweep) for job in engine.cancel(sweep)]
