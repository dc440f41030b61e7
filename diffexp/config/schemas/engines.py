"""Schemas of the engines that sweeps run on."""

from dataclasses import dataclass, field

from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry


@dataclass
class EngineConfig(Component):
    """An engine. Its builder gets the config and returns a `diffexp.sweeps.engines.base.Engine`."""


ENGINES = Registry("engine", EngineConfig, "diffexp.sweeps.engines.{name}:{schema}")


@ENGINES.register("local")
@dataclass
class LocalEngineConfig(EngineConfig):
    """This machine, with no server and no account.

    Keys:
        workers: trials at the same time; null is one for each group of devices, or one.
        devices: the GPUs to share out; a trial gets as many as training.devices. None leaves all to every trial.
    """

    name: str = "local"
    workers: int | None = number(None, at_least=1)
    devices: list[str] = field(default_factory=list)


@ENGINES.register("slurm")
@dataclass
class SlurmEngineConfig(EngineConfig):
    """A Slurm cluster; everything that is not asked for is its default.

    Keys:
        gpus: for each trial on each node; must be training.devices.
        cpus: for each device.
        mem: for each node, as "32G".
        time: limit of one try, as "04:00:00"; a trial that reaches it saves and is queued again.
        max_parallel: trials at the same time.
        grace: seconds before the time limit at which Slurm signals a trial to save. Slurm may be up to 60 s early.
        setup: a shell line run first, as "module load cuda".
        options: further options of sbatch, as "--exclude=node7".
    """

    name: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = number(None, at_least=1)
    cpus: int | None = number(None, at_least=1)
    mem: str | None = None
    time: str | None = None
    max_parallel: int | None = number(None, at_least=1)
    grace: int = number(120, at_least=1)
    setup: str | None = None
    options: list[str] = field(default_factory=list)
