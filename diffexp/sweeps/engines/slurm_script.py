"""Job scripts for Slurm, based on observations of a real Slurm.

- A signal during Python's start would kill it, so tasks ignore signals until its handlers are installed.
- Slurm requeues only after a node failure or a preemption, so the script requeues after a crash or a time limit.
- `scontrol requeue` must survive the SIGTERM that a preemption sends to all processes of the job.
- Requeueing a cancelled job would restart it.
- srun waits without limit for the tasks of a node that dies and is back before Slurm notices, also with
  --kill-on-bad-exit.
"""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps.engines.base import AGAIN, plugin_options
from diffexp.sweeps.engines.slurm_environment import KEPT
from diffexp.sweeps.engines.slurm_request import python_command, setup_lines
from diffexp.sweeps.plan import Sweep

# Restarts of a task whose crashes `diffexp sweep trial` could not count because it never started.
_RESTARTS = 10

# Seconds that srun waits for other tasks after the first one has ended. A network file system may hide for up to 60 s
# from a task that the first one has ended.
_WAIT = 90


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
    folder, logs = (shlex.quote(str(path.absolute())) for path in (sweep.path, sweep.logs))
    options = [
        f"--nodes={nodes}",
        f"--ntasks-per-node={devices}",
        f"--signal=USR1@{request.grace}",
        *_options(sweep.file.name, request, log_of(sweep.logs, "slurm-%A_%a.log")),
    ]
    return f"""{_head(f"The trials of the sweep {sweep.file.name}, one per task.", options)}
index=$(( ${{1:-0}} + ${{SLURM_ARRAY_TASK_ID:-0}} ))
cd {shlex.quote(str(sweep.working_directory))} || exit 2
{setup_lines(request, f'| tee -a {logs}/"$(printf %04d.log "$index")"')}
[ -z "${{SLURM_CPUS_PER_TASK:-}}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # not every srun inherits it
# This shell must survive the signals that end the tasks, so that it can requeue the task.
trap : USR1 USR2 TERM
# The tasks ignore signals until their handlers are installed: an earlier signal would kill them.
# The first task is the first to end. If another one is left {_WAIT} s later, its node has died, or died and come back.
code=0
SLURM_WAIT=${{SLURM_WAIT:-{_WAIT}}} srun --kill-on-bad-exit=1 \\
    bash -c 'trap "" USR1 USR2 TERM; exec "$@"' trial \\
    {python_command(request)} -P -m diffexp sweep trial {folder} "$index" {shlex.join(plugin_options(sweep))} || code=$?
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
task=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
case $(scontrol --oneliner show job "$task") in
    *JobState=RUNNING* | *Reason=TimeLimit*) scontrol requeue "$task" ;;
esac
exit $code
"""


def agents_script(sweep: str, request: SlurmEngineConfig, logs: Path) -> str:
    """Return the job script of agents for a sweep that is registered with W&B's server.

    Args:
        sweep: ENTITY/PROJECT/ID.
        request: the resources to request.
        logs: the folder of their output.
    """
    options = [
        "--nodes=1",
        "--ntasks-per-node=1",
        f"--signal=B:TERM@{request.grace}",
        *_options(f"agent-{sweep.rpartition('/')[2]}", request, log_of(logs, "agent-%A_%a.log")),
    ]
    return f"""{_head(f"Agents of the W&B sweep {sweep}.", options)}
{setup_lines(request)}
# The agent's trainings are not Slurm tasks: with these variables they would wait for other tasks or log nothing.
for name in $(compgen -e); do
    case $name in
        {" | ".join(KEPT)}) ;;
        SLURM_* | PMI_*) unset "$name" ;;
    esac
done
# Forwarded signals let a training save a checkpoint and report to W&B that it was preempted.
exec {python_command(request)} -P -m wandb agent --forward-signals {shlex.quote(sweep)}
"""


def _head(title: str, options: Iterable[str]) -> str:
    lines = "\n".join(f"#SBATCH {_quoted(option)}" for option in options)
    return f"#!/bin/bash\n# {title} Written by `diffexp sweep submit`.\n{lines}\n"


def log_of(folder: Path, name: str) -> str:
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
