"""What can be said of job scripts and arrays without a Slurm."""

import pytest

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.sweeps.engines.base import build_engine
from diffexp.sweeps.engines.slurm import arrays, slurm


def test_arrays_are_split_where_slurm_ends_them():
    (only,) = arrays([0, 1, 2, 3, 7, 9, 10], max_parallel=2)
    assert (only.tasks, only.offset) == ("0-3,7,9-10%2", 0)
    first, second = arrays([*range(5), 8, 9], None, largest=5)
    assert [(first.tasks, first.offset), (second.tasks, second.offset)] == [("0-4", 0), ("3-4", 5)]
    assert arrays([], None) == []


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("1-0", 86_400), ("1-1:30", 91_800), ("2-00:00:10", 172_810)],
)
def test_time_limits_as_slurm_writes_them(time, seconds):
    build_engine("slurm", [f"time={time}", f"grace={(seconds - 1) // 2}"])
    with pytest.raises(UserError, match=f"less than half of the time limit of {seconds} s"):
        build_engine("slurm", [f"time={time}", f"grace={(seconds + 1) // 2}"])


def test_other_limits_are_slurms_to_refuse():
    assert build_engine("slurm", ["time=UNLIMITED"])[0].config.time == "UNLIMITED"


def test_a_cluster_that_cannot_be_reached_is_a_failure_of_the_machine(tmp_path):
    command = tmp_path / "sbatch"
    command.write_text(
        "#!/bin/sh\necho 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2\nexit 1\n"
    )
    command.chmod(0o755)
    with pytest.raises(EnvironmentFailure, match=r"connect failure\)\. Run the command on a login node"):
        slurm([str(command)])
    command.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpus' >&2\nexit 1\n")
    with pytest.raises(UserError, match="invalid partition specified: gpus"):
        slurm([str(command)])
