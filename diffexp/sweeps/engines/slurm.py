"""The Slurm engine: submits, cancels and queries job arrays with one task per trial."""

import json
import math
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.sweeps.engines.base import Engine
from diffexp.sweeps.engines.slurm_request import check_request
from diffexp.sweeps.engines.slurm_script import agents_script, log_of, trials_script
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.race import unfinished
from diffexp.sweeps.runner import CANCELLED
from diffexp.sweeps.state import read_state
from diffexp.system.files import atomic_write_text

_USUAL_ARRAY_SIZE = 1001  # Slurm's default MaxArraySize


@dataclass(frozen=True)
class Batch:
    """The trials of one sbatch: a job array, or a single job.

    Attributes:
        tasks: the value of sbatch's --array; None for a single job.
        offset: added to a task's number to give the trial's index, which it is for a single job.
        after: how many batches before this one is the batch that must end first; None if it may start at once.
    """

    tasks: str | None
    offset: int
    after: int | None = None

    def command(self, script: Path, logs: Path, jobs: Sequence[str]) -> list[str]:
        """Return the command that submits the batch, given the ids of the earlier ones."""
        options = [f"--array={self.tasks}"] if self.tasks is not None else [f"--output={log_of(logs, '%j')}"]
        if self.after is not None:
            options.append(f"--dependency=afterany:{_id(jobs[-self.after])}")
        return ["sbatch", "--parsable", *options, str(script), str(self.offset)]


def batches(indices: Sequence[int], max_parallel: int | None, largest: int = _USUAL_ARRAY_SIZE) -> list[Batch]:
    """Return the batches that run these trials.

    One array, or several if one would exceed Slurm's MaxArraySize. With `max_parallel`, each waits for the one before,
    as Slurm limits only the tasks of one array. Without arrays, a job waits for the job `max_parallel` before it.

    Args:
        indices: the trials.
        max_parallel: largest number of trials that run at the same time; None sets no limit.
        largest: MaxArraySize, which is above the largest number of a task; 0 if the cluster has no arrays.
    """
    if largest < 2:
        return [
            Batch(None, index, max_parallel if max_parallel is not None and place >= max_parallel else None)
            for place, index in enumerate(sorted(indices))
        ]
    limit = f"%{max_parallel}" if max_parallel is not None else ""
    parts = groupby(sorted(indices), key=lambda index: index // largest)
    return [
        Batch(
            _ranges([index - part * largest for index in group]) + limit,
            part * largest,
            1 if max_parallel is not None and place > 0 else None,
        )
        for place, (part, group) in enumerate(parts)
    ]


def _batches(sweep: Sweep, todo: Sequence[int], most: int | None, largest: int = _USUAL_ARRAY_SIZE) -> list[Batch]:
    """Return the batches that run these trials of a sweep.

    Those of a race wait for each other, as later trials depend on earlier ones: after the first round, one batch for
    each round of a race that no setting leaves. If some leave, a batch has several rounds. A task that starts too early
    is queued again.
    """
    if sweep.file.method != "race":
        return batches(todo, most, largest)
    settings = math.prod(len(parameter.values) for parameter in sweep.file.parameters)
    found: list[Batch] = []
    for _, group in groupby(sorted(todo), key=lambda index: max(1, index // settings)):
        start = len(found)
        for place, each in enumerate(batches([*group], most, largest)):
            found.append(replace(each, after=each.after or place + 1) if start else each)
    return found


def _ranges(numbers: list[int]) -> str:
    """Format numbers as ranges: ``0-3,7`` for 0, 1, 2, 3, 7."""
    texts = []
    for _, group in groupby(enumerate(numbers), key=lambda each: each[1] - each[0]):
        members = [value for _, value in group]
        texts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(texts)


class SlurmEngine(Engine):
    """Runs a sweep as job arrays with one task per trial; tasks that stop early or crash are requeued.

    Args:
        config: the resources to request from Slurm.

    Raises:
        UserError: if the request is invalid.
    """

    def __init__(self, config: SlurmEngineConfig) -> None:
        super().__init__(config)
        check_request(config)

    def submit(self, sweep: Sweep) -> list[str]:
        """Submit the unfinished trials of a sweep and return the ids of the jobs.

        Raises:
            UserError: if Slurm rejects the job or already has jobs of the sweep.
        """
        running = self.alive(sweep)
        if running:
            raise UserError(
                f"{sweep.path}: expected no jobs of this sweep in Slurm, got {', '.join(running)}. "
                "Wait for them, or run diffexp sweep cancel."
            )
        (sweep.path / CANCELLED).unlink(missing_ok=True)
        todo = [trial.index for trial in unfinished(sweep)]
        sweep.check_unchanged(todo)
        script = sweep.path / "slurm" / "trials.sh"
        atomic_write_text(script, trials_script(sweep, self.config))
        sweep.logs.mkdir(parents=True, exist_ok=True)
        jobs = []
        for job in _submitted(_batches(sweep, todo, self.config.max_parallel, _largest_array()), script, sweep.logs):
            jobs.append(job)
            atomic_write_text(_jobs_file(sweep), json.dumps([*_jobs(sweep), job]) + "\n")  # each, as the next may fail
        return jobs

    def script(self, sweep: Sweep) -> str:
        """Return the job script and, as comments, the commands that submit it."""
        todo = [trial.index for trial in unfinished(sweep)]
        commands = _as_comments(_batches(sweep, todo, self.config.max_parallel), "trials.sh", sweep.logs)
        return trials_script(sweep, self.config) + commands

    def alive(self, sweep: Sweep) -> list[str]:
        """Return the ids of a sweep's jobs that are queued or running in Slurm."""
        jobs = _jobs(sweep)
        listed = {cluster: _listed("%F", cluster) for cluster in set(map(_cluster, jobs))}
        return [job for job in jobs if _id(job) in listed[_cluster(job)]]

    def gone(self, sweep: Sweep) -> set[int]:
        """Return the trials recorded as running in a task that Slurm no longer has; none if Slurm cannot be asked."""
        records = {trial.index: read_state(trial) for trial in sweep.trials()}
        running = {index: each.job for index, each in records.items() if each.state == "running" and each.job}
        if not running:
            return set()
        try:
            alive = set[str]().union(*(_listed("%A", each) for each in {"", *map(_cluster, _jobs(sweep))}))
        except (UserError, EnvironmentFailure):
            return set()
        return {index for index, job in running.items() if job not in alive}

    def cancel(self, sweep: Sweep) -> list[str]:
        """Cancel a sweep's jobs and return their ids."""
        jobs = self.alive(sweep)
        for cluster in sorted(set(map(_cluster, jobs))):
            slurm(["scancel", *_on(cluster), *(_id(job) for job in jobs if _cluster(job) == cluster)])
        return jobs

    def rank(self, environment: Mapping[str, str]) -> int:
        """Return the rank of this task among those of a trial on several devices."""
        return int(environment.get("SLURM_PROCID", "0"))


def submit_agents(sweep: str, agents: int, request: SlurmEngineConfig, folder: Path) -> list[str]:
    """Submit agents of a sweep on W&B's server and return the ids of the jobs.

    Args:
        sweep: ENTITY/PROJECT/ID.
        agents: the number of agents, one task each.
        request: the resources to request.
        folder: the folder of the script and of the agents' output.

    Raises:
        UserError: if Slurm rejects the job.
    """
    path = folder / "agents.sh"
    atomic_write_text(path, agents_script(sweep, request, folder))
    return [*_submitted(batches(range(agents), request.max_parallel, _largest_array()), path, folder)]


def print_agents(sweep: str, agents: int, request: SlurmEngineConfig, folder: Path) -> str:
    """Return the script that `submit_agents` would submit and, as comments, the commands that submit it."""
    commands = _as_comments(batches(range(agents), request.max_parallel), "agents.sh", folder)
    return agents_script(sweep, request, folder) + commands


def _as_comments(wanted: Sequence[Batch], script: str, logs: Path) -> str:
    """Return the commands that submit a script, as comments of it."""
    jobs = [f"JOB_{number}" for number in range(len(wanted))]
    commands = [each.command(Path(script), logs, jobs[:number]) for number, each in enumerate(wanted)]
    return "".join(f"# submit with: {' '.join(command)}\n" for command in commands)


def _jobs_file(sweep: Sweep) -> Path:
    return sweep.path / "slurm" / "jobs.json"


def _jobs(sweep: Sweep) -> list[str]:
    try:
        jobs = json.loads(_jobs_file(sweep).read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        jobs = None
    if not isinstance(jobs, list) or not all(isinstance(job, str) for job in jobs):
        raise UserError(
            f"{_jobs_file(sweep)}: expected a list of jobs, got a damaged file. Cancel the sweep's jobs with scancel "
            "(squeue --me lists them), then remove the file."
        )
    return jobs


def _largest_array() -> int:
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", slurm(["scontrol", "show", "config"]), re.MULTILINE)
    return int(found[1]) if found is not None else _USUAL_ARRAY_SIZE


# --- jobs: ID, or ID;CLUSTER after `options=[--clusters=…]` --------------------------------------


def _submitted(wanted: Sequence[Batch], script: Path, logs: Path) -> Iterator[str]:
    """Submit batches of a script; yield each job at once, as the next may fail."""
    jobs: list[str] = []
    for each in wanted:
        jobs.append(job_of(each.command(script, logs, jobs)))
        yield jobs[-1]


def job_of(command: list[str]) -> str:
    """Run sbatch --parsable and return the job: ID, or ID;CLUSTER.

    Raises:
        UserError: if Slurm rejects the job.
        EnvironmentFailure: if it does not say which job it has queued.
    """
    output = slurm(command)
    lines = output.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if not re.fullmatch(r"\d+(;[\w.-]+)?", last):  # a site's wrapper may print more lines before
        raise EnvironmentFailure(
            f"{shlex.join(command)}: expected a job id in the last line, got {output.strip()!r}. The job may be "
            "queued: look for it with squeue --me, and cancel it with scancel before you submit again."
        )
    return last


def _id(job: str) -> str:
    return job.partition(";")[0]


def _cluster(job: str) -> str:
    return job.partition(";")[2]


def _on(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _listed(form: str, cluster: str) -> set[str]:
    """Return the ids of the user's jobs on a cluster, by squeue's format; a site may print further lines."""
    # squeue fails on an id that Slurm has forgotten, so list all jobs of the user
    lines = slurm(["squeue", *_on(cluster), "--noheader", "--me", f"--format={form}"]).splitlines()
    return {line.strip() for line in lines if line.strip().isdigit()}


def slurm(command: list[str]) -> str:
    """Run a Slurm command and return its output.

    Raises:
        UserError: if the command is missing or fails.
        EnvironmentFailure: if Slurm's controller cannot be reached, or does not answer within 60 s.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise UserError(
            f"{command[0]}: Slurm is not installed on this machine. Pass --print to see the job script."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFailure(
            f"{command[0]}: Slurm did not answer within 60 s. Look with squeue --me for what it has queued, and try "
            "again later."
        ) from error
    except subprocess.CalledProcessError as error:
        message = f"{' '.join(command)}: {error.stderr.strip() or error.returncode}"
        if "contact slurm controller" in error.stderr:
            raise EnvironmentFailure(f"{message}. Run the command on a login node of the cluster.") from error
        raise UserError(message) from error
