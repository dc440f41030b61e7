"""The job scripts for Slurm: what is in them, and why, was measured on a real one.

- A signal that comes while Python starts would kill it, so signals are ignored until its handlers are there.
- Slurm requeues for a dead node or a preemption only, so the script does for a crash and a time limit.
- `scontrol requeue` must not die of the SIGTERM that a preemption sends to the whole job.
- A cancelled job would come back if it were requeued.
"""

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps.engines.base import AGAIN
from diffexp.sweeps.engines.slurm_environment import KEPT
from diffexp.sweeps.plan import Sweep


def check_request(request: SlurmEngineConfig) -> None:
    """Refuse what Slurm could not be asked for.

    Raises:
        UserError: naming it.
    """
    for value in (request.partition, request.account, request.qos, request.constraint, request.mem, request.time):
        if value is not None and any(letter.isspace() for letter in value):
            raise UserError(f"command line: {value!r}: an option of sbatch has no spaces")
    limit = _seconds(request.time) if request.time is not None else None
    if limit is not None and limit <= 2 * request.grace:
        raise UserError(
            f"grace: {request.grace} s before a limit of {limit} s leave too little; take less, or more time"
        )


def _seconds(time: str) -> int | None:
    """A time limit as Slurm writes them: MIN, MIN:S, H:MIN:S, D-H, D-H:MIN, D-H:MIN:S; None for words as UNLIMITED."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    hours, minutes, seconds = ([*numbers, 0, 0] if dash else [0, *numbers, 0] if len(numbers) < 3 else numbers)[:3]
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds


# Restarts of a task whose crashes `diffexp sweep trial` could not count, because it never began.
_RESTARTS = 10


# --- the scripts ---------------------------------------------------------------------------------


def trials_script(sweep: Sweep, request: SlurmEngineConfig) -> str:
    """The job script of the trials.

    Raises:
        UserError: if the GPUs asked for are not the devices that a trial uses, or the trials differ in them.
    """
    for key in ("devices", "nodes"):
        if len(sweep.plan[key]) > 1:
            told = " or ".join(map(str, sweep.plan[key]))
            raise UserError(f"{sweep.path}: a trial takes {told} {key}, but a job array asks for the same for all")
    devices, (nodes,) = sweep.devices, sweep.plan["nodes"]
    if request.gpus is not None and request.gpus != devices:
        raise UserError(
            f"gpus: {request.gpus}, but a trial uses training.devices = {devices}; "
            f"plan the sweep with training.devices={request.gpus}"
        )
    python, folder = shlex.quote(sys.executable), shlex.quote(str(sweep.path.absolute()))
    options = [
        f"--nodes={nodes}",
        f"--ntasks-per-node={devices}",
        f"--signal=USR1@{request.grace}",
        *_options(sweep.file.name, request, _log(sweep.logs, "slurm-%A_%a.log")),
    ]
    return f"""{_head(f"The trials of the sweep {sweep.file.name}, one a task.", options)}
index=$(( ${{1:-0}} + SLURM_ARRAY_TASK_ID ))
cd {shlex.quote(str(sweep.working_directory))} || exit 2
{_setup(request)}
[ -z "${{SLURM_CPUS_PER_TASK:-}}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # not every srun takes it over
# This shell must outlive the signals that end the tasks, to ask for another try.
trap : USR1 USR2 TERM
# The tasks ignore signals until their own handlers are there: one that came earlier would kill them.
srun --kill-on-bad-exit=1 \\
    bash -c 'trap "" USR1 USR2 TERM; exec "$@"' trial \\
    {python} -m diffexp sweep trial {folder} "$index"
code=$?
case $code in
    0 | 1 | 2) exit $code ;;  # it is done, or has failed for good
    {AGAIN}) ;;
    126 | 127) exit $code ;;  # there is no such program on this node
    *) [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_RESTARTS} ] || exit $code ;;  # it crashed before anybody could count that
esac

# It was stopped, or it crashed. Slurm itself begins again only for a dead node or a preemption, so we ask; not if the
# job was cancelled. The question must not die of the signals that a preemption sends to the whole job.
trap '' USR1 USR2 TERM
# not $SLURM_JOB_ID: of one task, that is the id of the whole array
task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
case $(scontrol --oneliner show job "$task") in
    *JobState=RUNNING* | *Reason=TimeLimit*) scontrol requeue "$task" ;;
esac
exit $code
"""


def agents_script(sweep: str, agents: int, request: SlurmEngineConfig, logs: Path) -> str:
    """The job script of agents for a sweep that is registered with W&B's server.

    Args:
        sweep: ENTITY/PROJECT/ID.
        agents: how many jobs.
        request: what to ask for.
        logs: folder of their output.
    """
    options = [
        "--nodes=1",
        "--ntasks-per-node=1",
        f"--array=1-{agents}" + (f"%{request.max_parallel}" if request.max_parallel is not None else ""),
        f"--signal=B:TERM@{request.grace}",
        *_options(f"agent-{sweep.rpartition('/')[2]}", request, _log(logs, "agent-%A_%a.log")),
    ]
    return f"""{_head(f"Agents of the W&B sweep {sweep}.", options)}
{_setup(request)}
# The trainings that the agent starts are no tasks of Slurm's: they would wait for others, or log nothing.
for name in $(compgen -e); do
    case $name in
        {" | ".join(KEPT)}) ;;
        SLURM_* | PMI_*) unset "$name" ;;
    esac
done
# Forwarded signals let a training save, and tell W&B that it was preempted.
exec {shlex.quote(sys.executable)} -m wandb agent --forward-signals {shlex.quote(sweep)}
"""


def _head(title: str, options: Iterable[str]) -> str:
    lines = "\n".join(f"#SBATCH {_quoted(option)}" for option in options)
    return f"#!/bin/bash\n# {title} Written by `diffexp sweep submit`.\n{lines}\n"


def _log(folder: Path, name: str) -> str:
    """A log's path, in which Slurm replaces what follows a %."""
    return f"{str(folder.absolute()).replace('%', '%%')}/{name}"


def _options(name: str, request: SlurmEngineConfig, log: str) -> list[str]:
    given = {
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "gpus-per-node": request.gpus,
        "cpus-per-task": request.cpus,
        "mem": request.mem,
        "time": request.time,
    }
    return [
        f"--job-name={name}",
        f"--output={log}",
        "--open-mode=append",  # a new try must not erase what the last one printed
        "--requeue",
        *(f"--{option}={value}" for option, value in given.items() if value is not None),
        *request.options,
    ]


def _quoted(option: str) -> str:
    """An option as sbatch reads it in a script."""
    return option if re.fullmatch(r"[\w./:,=@%+-]+", option) else '"' + option.replace('"', '\\"') + '"'


def _setup(request: SlurmEngineConfig) -> str:
    return f"{request.setup}\n" if request.setup is not None else ""
