"""What passes between Slurm's job scripts and the processes in them."""

from collections.abc import Mapping

from diffexp.runs.directory import RUN_VARIABLE

# Ids of the job stay, for the record. The rest makes Lightning take itself for one of the tasks of an srun: it would
# wait for the others, or, as a second task's child, log nothing.
KEPT = (
    *("SLURM_CONF", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
    *("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURMD_NODENAME"),
)


def without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what makes a process take itself for a task of Slurm's."""
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT or not name.startswith(("SLURM_", "PMI_", RUN_VARIABLE))
    }
