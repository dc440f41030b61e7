"""The environment variables of Slurm that trials keep."""

from collections.abc import Mapping

from diffexp.runs.directory import RUN_VARIABLE

# Ids of the job are kept for the record. With the others, Lightning would assume that it is a task of an srun: it
# would wait for the other tasks or, as the child of a second task, log nothing.
KEPT = (
    *("SLURM_CONF", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
    *("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURMD_NODENAME"),
)


def without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that identify a process as a Slurm task."""
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT or not name.startswith(("SLURM_", "PMI_", RUN_VARIABLE))
    }
