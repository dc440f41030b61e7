"""Schemas of the engines that sweeps run on."""

from dataclasses import dataclass, field
from typing import ClassVar

from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry


@dataclass
class EngineConfig(Component):
    """An engine. Its builder gets the config and returns a `diffexp.sweeps.engines.base.Engine`."""

    # Keys whose texts on the command line are taken as they are, not as YAML. A list gets one entry each time.
    verbatim: ClassVar[tuple[str, ...]] = ()


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
        time: time limit of one attempt, such as 90 (minutes), 4:00:00 or 1-12:00:00. A trial that reaches it saves and
            is requeued.
        max_parallel: largest number of trials that run at the same time; null sets no limit.
        grace: seconds before the time limit at which Slurm signals a trial to save. Slurm may be up to 60 s early.
        setup: shell lines to run first, such as "module load cuda". Give the key once for each line. A line that fails
            ends the job.
        python: command of the Python interpreter, such as "python" for that of the environment that `setup` activates,
            or "apptainer exec --nv image.sif python"; null is the interpreter that submits.
        options: further options of sbatch, such as "--exclude=node7".
    """

    verbatim: ClassVar[tuple[str, ...]] = ("constraint", "setup", "python")

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
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    options: list[str] = field(default_factory=list)
