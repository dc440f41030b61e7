"""The Slurm engine: submits, cancels and queries job arrays with one task per trial."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.sweeps.engines.base import Engine
from diffexp.sweeps.engines.slurm_script import check_request, trials_script
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.runner import CANCELLED
from diffexp.sweeps.state import left, read_state
from diffexp.system.files import atomic_write_text

_USUAL_ARRAY_SIZE = 1001  # Slurm's default MaxArraySize


@dataclass(frozen=True)
class Array:
    """A job array.

    Attributes:
        tasks: the value of sbatch's --array.
        offset: added to a task's number to give the trial's index.
    """

    tasks: str
    offset: int

    def command(self, script: Path) -> list[str]:
        """Return the command that submits the array."""
        return ["sbatch", "--parsable", f"--array={self.tasks}", str(script), str(self.offset)]


def arrays(indices: Sequence[int], max_parallel: int | None, largest: int = _USUAL_ARRAY_SIZE) -> list[Array]:
    """Return the arrays that run these trials: several if one would exceed Slurm's MaxArraySize."""
    groups = len({index // largest for index in indices})
    # the arrays run concurrently and share the limit
    limit = f"%{max(1, max_parallel // groups)}" if max_parallel is not None and groups else ""
    return [
        Array(_ranges([index - part * largest for index in group]) + limit, part * largest)
        for part, group in groupby(sorted(indices), key=lambda index: index // largest)
    ]


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
        todo = [trial.index for trial in left(sweep)]
        sweep.check_unchanged(todo)
        script = sweep.path / "slurm" / "trials.sh"
        atomic_write_text(script, trials_script(sweep, self.config))
        sweep.logs.mkdir(parents=True, exist_ok=True)
        jobs: list[str] = []
        for each in arrays(todo, self.config.max_parallel, _largest_array()):
            jobs.append(slurm(each.command(script)).strip().partition(";")[0])  # ID, or ID;CLUSTER
            known = [*_jobs(sweep), jobs[-1]]
            atomic_write_text(_jobs_file(sweep), json.dumps(known) + "\n")  # after each, as the next may fail
        return jobs

    def script(self, sweep: Sweep) -> str:
        """Return the job script and, as comments, the commands that submit it."""
        submitted = arrays([trial.index for trial in left(sweep)], self.config.max_parallel)
        commands = [f"# submit with: {' '.join(each.command(Path('trials.sh')))}\n" for each in submitted]
        return trials_script(sweep, self.config) + "".join(commands)

    def alive(self, sweep: Sweep) -> list[str]:
        """Return the ids of a sweep's jobs that are queued or running in Slurm."""
        jobs = _jobs(sweep)
        if not jobs:
            return []
        # squeue fails on an id that Slurm has forgotten, so list all jobs of the user
        listed = slurm(["squeue", "--noheader", "--me", "--format=%F"]).split()
        return [job for job in jobs if job in listed]

    def gone(self, sweep: Sweep) -> set[int]:
        """Return the trials recorded as running in a task that Slurm no longer has; none if Slurm cannot be asked."""
        records = {trial.index: read_state(trial) for trial in sweep.trials()}
        running = {index: each.job for index, each in records.items() if each.state == "running" and each.job}
        if not running:
            return set()
        try:
            alive = slurm(["squeue", "--noheader", "--me", "--format=%A"]).split()
        except (UserError, EnvironmentFailure):
            return set()
        return {index for index, job in running.items() if job not in alive}

    def cancel(self, sweep: Sweep) -> list[str]:
        """Cancel a sweep's jobs and return their ids."""
        jobs = self.alive(sweep)
        if jobs:
            slurm(["scancel", *jobs])
        return jobs

    def rank(self, environment: Mapping[str, str]) -> int:
        """Return the rank of this task among those of a trial on several devices."""
        return int(environment.get("SLURM_PROCID", "0"))


def submit_agents(script: str, folder: Path) -> str:
    """Submit W&B agents and return the id of the job.

    Raises:
        UserError: if Slurm rejects the job.
    """
    path = folder / "agents.sh"
    atomic_write_text(path, script)
    return slurm(["sbatch", "--parsable", str(path)]).strip()


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
    """Run a Slurm command and return its output.

    Raises:
        UserError: if the command is missing, fails, or does not answer within 60 s.
        EnvironmentFailure: if Slurm's controller cannot be reached.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise UserError(
            f"{command[0]}: Slurm is not installed on this machine. Pass --print to see the job script."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]}: Slurm did not answer within 60 s. Try again later.") from error
    except subprocess.CalledProcessError as error:
        message = f"{' '.join(command)}: {error.stderr.strip() or error.returncode}"
        if "contact slurm controller" in error.stderr:
            raise EnvironmentFailure(f"{message}. Run the command on a login node of the cluster.") from error
        raise UserError(message) from error
