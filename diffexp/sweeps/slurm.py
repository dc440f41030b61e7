"""A sweep on a Slurm cluster: job arrays with one task a trial, submitted, cancelled, and told of."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from diffexp.errors import UserError
from diffexp.files import write_text
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.records import ENDED, read_record, stop_orphan
from diffexp.sweeps.slurm_script import SlurmRequest, trials_script
from diffexp.sweeps.trial import CANCELLED

_USUAL_ARRAY_SIZE = 1001  # Slurm's MaxArraySize where it does not say


@dataclass(frozen=True)
class Array:
    """A job array.

    Attributes:
        tasks: as sbatch's --array has them.
        offset: what is added to a task's number to get the trial's.
    """

    tasks: str
    offset: int

    def command(self, script: Path) -> list[str]:
        """What submits it."""
        return ["sbatch", "--parsable", f"--array={self.tasks}", str(script), str(self.offset)]


def arrays(indices: Sequence[int], max_parallel: int | None, largest: int = _USUAL_ARRAY_SIZE) -> list[Array]:
    """The arrays that run these trials: several where there are more than Slurm's MaxArraySize allows in one."""
    groups = len({index // largest for index in indices})
    # the arrays run beside each other, and share the limit
    limit = f"%{max(1, max_parallel // groups)}" if max_parallel is not None and groups else ""
    return [
        Array(_ranges([index - part * largest for index in group]) + limit, part * largest)
        for part, group in groupby(sorted(indices), key=lambda index: index // largest)
    ]


def _ranges(numbers: list[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    texts = []
    for _, group in groupby(enumerate(numbers), key=lambda each: each[1] - each[0]):
        members = [value for _, value in group]
        texts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(texts)


def submit_trials(sweep: Sweep, request: SlurmRequest) -> list[str]:
    """Submit what is left of a sweep.

    Returns:
        The ids of the jobs; none if nothing is left.

    Raises:
        UserError: if Slurm refuses, or has jobs of the sweep already.
    """
    running = live_jobs(sweep)
    if running:
        raise UserError(f"{sweep.path}: Slurm has its jobs {', '.join(running)} already; wait, or diffexp sweep cancel")
    (sweep.path / CANCELLED).unlink(missing_ok=True)
    todo = left(sweep)
    script = sweep.path / "slurm" / "trials.sh"
    write_text(script, trials_script(sweep, request))
    sweep.logs.mkdir(parents=True, exist_ok=True)
    sweep.check_unchanged(todo)
    jobs = []
    for each in arrays(todo, request.max_parallel, _largest_array()):
        jobs.append(slurm(each.command(script)).strip().partition(";")[0])  # ID, or ID;CLUSTER
        write_text(_jobs_file(sweep), json.dumps([*_jobs(sweep), jobs[-1]]) + "\n")  # at once: the next may fail
    return jobs


def left(sweep: Sweep) -> list[int]:
    """The trials that have not ended."""
    return [index for index in sweep.indices if read_record(sweep, index).state not in ENDED]


def submit_agents(script: str, folder: Path) -> str:
    """Submit agents; the id of the job.

    Raises:
        UserError: if Slurm refuses.
    """
    path = folder / "agents.sh"
    write_text(path, script)
    return slurm(["sbatch", "--parsable", str(path)]).strip()


def cancel(sweep: Sweep) -> list[str]:
    """Stop a sweep, here and on Slurm; running trials save where they are. The ids of the jobs cancelled."""
    write_text(sweep.path / CANCELLED, "")  # first, so that nothing that stops begins again
    for index in sweep.indices:
        stop_orphan(sweep, index)
    jobs = live_jobs(sweep)
    if jobs:
        slurm(["scancel", *jobs])
    return jobs


def live_jobs(sweep: Sweep) -> list[str]:
    """The jobs of a sweep that Slurm still has, waiting or running."""
    jobs = _jobs(sweep)
    if not jobs:
        return []
    # an id that Slurm has forgotten makes squeue fail, so ask for all of the user's
    listed = slurm(["squeue", "--noheader", "--me", "--format=%F"]).split()
    return [job for job in jobs if job in listed]


def gone_tasks(sweep: Sweep) -> set[int]:
    """The trials that are on record as running in a task that Slurm has no more; none where there is no Slurm."""
    records = {index: read_record(sweep, index) for index in sweep.indices}
    running = {index: record.job for index, record in records.items() if record.state == "running" and record.job}
    if not running:
        return set()
    try:
        alive = slurm(["squeue", "--noheader", "--me", "--format=%A"]).split()
    except UserError:
        return set()
    return {index for index, job in running.items() if job not in alive}


def _jobs_file(sweep: Sweep) -> Path:
    return sweep.path / "slurm" / "jobs.json"


def _jobs(sweep: Sweep) -> list[str]:
    try:
        jobs: list[str] = json.loads(_jobs_file(sweep).read_text())
    except FileNotFoundError:
        return []
    return jobs


def _largest_array() -> int:
    for line in slurm(["scontrol", "show", "config"]).splitlines():
        if line.startswith("MaxArraySize"):
            return int(line.partition("=")[2])
    return _USUAL_ARRAY_SIZE


def slurm(command: list[str]) -> str:
    """What a command of Slurm's prints.

    Raises:
        UserError: if there is no Slurm here, or it refuses.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: there is no Slurm on this machine; --print shows the job script") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]}: Slurm does not answer") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(command)}: {error.stderr.strip() or error.returncode}") from error
