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
    """Run trials on this machine, without a server or an account.

    Keys:
        workers: number of trials that run at the same time; null runs one per group of devices, or one without devices.
        devices: GPUs to distribute; each trial gets training.devices of them. Without any, every trial has access to
            all GPUs.
    """

    name: str = "local"
    workers: int | None = number(None, at_least=1)
    devices: list[str] = field(default_factory=list)


@ENGINES.register("slurm")
@dataclass
class SlurmEngineConfig(EngineConfig):
    """Run trials on a Slurm cluster. A key that is null uses the cluster's default.

    Keys:
        partition: Slurm partition.
        account: Slurm account to charge.
        qos: Slurm quality of service.
        constraint: node features to require.
        gpus: GPUs per trial on each node; must equal training.devices.
        cpus: CPU cores per device.
        mem: memory per node, such as "32G".
        time: time limit of one attempt, such as "04:00:00". A trial that reaches it saves and is requeued.
        max_parallel: largest number of trials that run at the same time; null sets no limit.
        grace: seconds before the time limit at which Slurm signals a trial to save. Slurm may be up to 60 s early.
        setup: shell line to run first, such as "module load cuda"; null runs none.
        options: further options of sbatch, such as "--exclude=node7".
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
