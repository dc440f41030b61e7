"""Job scripts for Slurm, based on observations of a real Slurm.

- A signal during Python's start would kill it, so tasks ignore signals until its handlers are installed.
- Slurm requeues only after a node failure or a preemption, so the script requeues after a crash or a time limit.
- `scontrol requeue` must survive the SIGTERM that a preemption sends to all processes of the job.
- Requeueing a cancelled job would restart it.
"""

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps.engines.base import AGAIN, plugin_options
from diffexp.sweeps.engines.slurm_environment import KEPT
from diffexp.sweeps.plan import Sweep


def check_request(request: SlurmEngineConfig) -> None:
    """Validate a request to Slurm.

    Raises:
        UserError: if an option contains spaces, or the grace period is half of the time limit or more.
    """
    for value in (request.partition, request.account, request.qos, request.constraint, request.mem, request.time):
        if value is not None and any(letter.isspace() for letter in value):
            raise UserError(f"command line: expected an sbatch option without spaces, got {value!r}.")
    limit = _seconds(request.time) if request.time is not None else None
    if limit is not None and limit <= 2 * request.grace:
        raise UserError(
            f"grace: expected less than half of the time limit of {limit} s, got {request.grace} s. "
            "Decrease grace or increase time."
        )


def _seconds(time: str) -> int | None:
    """Parse a Slurm time limit: MIN, MIN:S, H:MIN:S, D-H, D-H:MIN or D-H:MIN:S; None for words such as UNLIMITED."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    hours, minutes, seconds = ([*numbers, 0, 0] if dash else [0, *numbers, 0] if len(numbers) < 3 else numbers)[:3]
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds


# Restarts of a task whose crashes `diffexp sweep trial` could not count because it never started.
_RESTARTS = 10


# --- the scripts ---------------------------------------------------------------------------------


def trials_script(sweep: Sweep, request: SlurmEngineConfig) -> str:
    """Return the job script of the trials.

    Raises:
        UserError: if the requested GPUs differ from the devices of a trial, or trials differ in devices or nodes.
    """
    for key in ("devices", "nodes"):
        if len(sweep.plan[key]) > 1:
            counts = " and ".join(map(str, sweep.plan[key]))
            raise UserError(
                f"{sweep.path}: {key}: expected one number for all trials of a job array, got {counts}. "
                "Plan a sweep for each."
            )
    devices, (nodes,) = sweep.devices, sweep.plan["nodes"]
    if request.gpus is not None and request.gpus != devices:
        raise UserError(
            f"gpus: expected {devices}, the training.devices of a trial, got {request.gpus}. "
            f"Plan the sweep with training.devices={request.gpus}."
        )
    python, folder = shlex.quote(sys.executable), shlex.quote(str(sweep.path.absolute()))
    options = [
        f"--nodes={nodes}",
        f"--ntasks-per-node={devices}",
        f"--signal=USR1@{request.grace}",
        *_options(sweep.file.name, request, _log(sweep.logs, "slurm-%A_%a.log")),
    ]
    return f"""{_head(f"The trials of the sweep {sweep.file.name}, one per task.", options)}
index=$(( ${{1:-0}} + SLURM_ARRAY_TASK_ID ))
cd {shlex.quote(str(sweep.working_directory))} || exit 2
{_setup(request)}
[ -z "${{SLURM_CPUS_PER_TASK:-}}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # not every srun inherits it
# This shell must survive the signals that end the tasks, so that it can requeue the task.
trap : USR1 USR2 TERM
# The tasks ignore signals until their handlers are installed: an earlier signal would kill them.
srun --kill-on-bad-exit=1 \\
    bash -c 'trap "" USR1 USR2 TERM; exec "$@"' trial \\
    {python} -P -m diffexp sweep trial {folder} "$index" {shlex.join(plugin_options(sweep))}
code=$?
case $code in
    0 | 1 | 2) exit $code ;;  # done, or failed permanently
    {AGAIN}) ;;
    126 | 127) exit $code ;;  # the program is missing on this node
    *) [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_RESTARTS} ] || exit $code ;;  # crashed before diffexp could count it
esac

# The task was stopped or crashed. Slurm itself requeues only after a node failure or a preemption, so this script
# does, except for a cancelled job. It must survive the signals that a preemption sends to all processes of the job.
trap '' USR1 USR2 TERM
# not $SLURM_JOB_ID, which for one of the tasks is the id of the entire array
task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
case $(scontrol --oneliner show job "$task") in
    *JobState=RUNNING* | *Reason=TimeLimit*) scontrol requeue "$task" ;;
esac
exit $code
"""


def agents_script(sweep: str, agents: int, request: SlurmEngineConfig, logs: Path) -> str:
    """Return the job script of agents for a sweep that is registered with W&B's server.

    Args:
        sweep: ENTITY/PROJECT/ID.
        agents: the number of agents, one job each.
        request: the resources to request.
        logs: the folder of their output.
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
# The agent's trainings are not Slurm tasks: with these variables they would wait for other tasks or log nothing.
for name in $(compgen -e); do
    case $name in
        {" | ".join(KEPT)}) ;;
        SLURM_* | PMI_*) unset "$name" ;;
    esac
done
# Forwarded signals let a training save a checkpoint and report to W&B that it was preempted.
exec {shlex.quote(sys.executable)} -m wandb agent --forward-signals {shlex.quote(sweep)}
"""


def _head(title: str, options: Iterable[str]) -> str:
    lines = "\n".join(f"#SBATCH {_quoted(option)}" for option in options)
    return f"#!/bin/bash\n# {title} Written by `diffexp sweep submit`.\n{lines}\n"


def _log(folder: Path, name: str) -> str:
    """Return a log's path, with the folder's % escaped, because Slurm expands patterns that start with %."""
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
        "--open-mode=append",  # a new try must not erase the previous output
        "--requeue",
        *(f"--{option}={value}" for option, value in given.items() if value is not None),
        *request.options,
    ]


def _quoted(option: str) -> str:
    """Quote an option as sbatch parses it in a script."""
    return option if re.fullmatch(r"[\w./:,=@%+-]+", option) else '"' + option.replace('"', '\\"') + '"'


def _setup(request: SlurmEngineConfig) -> str:
    return f"{request.setup}\n" if request.setup is not None else ""
