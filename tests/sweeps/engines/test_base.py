"""An engine of a plugin runs a sweep: the one that docs/guides/extending.md shows."""

import re
import time
from pathlib import Path

import pytest

from diffexp.errors import UserError
from diffexp.sweeps.engines.base import build_engine, cancel, gone_trials
from diffexp.sweeps.engines.local import LocalEngine
from diffexp.sweeps.engines.slurm import SlurmEngine
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.state import read_state
from tests.helpers.small import SMALL, diffexp

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "extending.md"
SWEEP = """
method: grid
parameters:
  seed: {values: [0, 1]}
command: [diffexp, train, digits, --trial, two, "${args_json}"]
"""

ASKED = """
    def gone(self, sweep):
        print("asked", file=sys.stderr)
        return set()

"""


@pytest.mark.slow
def test_the_engine_of_the_page_runs_a_sweep(tmp_path):
    (code,) = (
        text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "my_engine.py" in text
    )
    (tmp_path / "my_engine.py").write_text(code)
    (tmp_path / "two.yaml").write_text(SWEEP)
    words = ["two.yaml", *SMALL, "training.max_steps=2", "--engine", "processes", "--plugin", "my_engine"]
    done = diffexp("sweep", "submit", *words, cwd=tmp_path)
    assert "submitted job " in done.stdout
    sweep = Sweep(tmp_path / "runs" / "two")
    deadline = time.monotonic() + 120
    while [read_state(trial).state for trial in sweep.trials()] != ["done", "done"]:
        assert time.monotonic() < deadline, [trial.log.read_text() for trial in sweep.trials()]
        time.sleep(0.5)
    again = ["runs/two", "--engine", "processes", "--plugin", "my_engine"]
    assert "no trial is left to run" in diffexp("sweep", "submit", *again, cwd=tmp_path).stdout
    (tmp_path / "my_engine.py").write_text(code.replace("    def submit(", ASKED + "    def submit("))
    for command in ("status", "cancel"):
        refused = diffexp("sweep", command, "runs/two", cwd=tmp_path, expect=2).stderr
        assert "engine_plugins.json: names the plugin my_engine" in refused
    assert "asked" in diffexp("sweep", "status", "runs/two", "--plugin", "my_engine", cwd=tmp_path).stderr
    (sweep.path / "engine_plugins.json").unlink()  # of a module that this process cannot import
    assert gone_trials(sweep) == set()
    assert cancel(sweep) == []


def test_an_engine_takes_its_own_keys():
    engine, rest = build_engine("slurm", ["gpus=2", "optim.lr=1", "time=01:00:00"])
    assert isinstance(engine, SlurmEngine)
    assert (engine.config.gpus, engine.config.time, rest) == (2, "01:00:00", ["optim.lr=1"])
    assert (engine.rank({}), engine.rank({"SLURM_PROCID": "3"})) == (0, 3)
    local, _ = build_engine("local", ["workers=3"])
    assert isinstance(local, LocalEngine)
    assert (local.config.workers, local.is_blocking) == (3, True)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("slrum", [], "got 'slrum'.*Did you mean 'slurm'"),
        ("slurm", ["gpus=0"], "command line: gpus: expected an integer >= 1"),
        ("slurm", ["partition=a b"], "expected an sbatch option without spaces, got 'a b'"),
        ("slurm", ["time=00:02:00"], "grace: expected less than half of the time limit of 120 s, got 120 s"),
    ],
)
def test_what_is_wrong_is_refused(name, overrides, message):
    with pytest.raises(UserError, match=message):
        build_engine(name, overrides)
