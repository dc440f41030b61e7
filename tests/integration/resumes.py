"""Goes on with many runs, one after the other, in this process: `python -m tests.integration.resumes RUN…`.

Started once for every rank, with LOCAL_RANK, MASTER_ADDR and MASTER_PORT set, it trains in several processes.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys

from diffexp.config import load_experiment
from diffexp.config.layers import find_config
from diffexp.starting import resume_run
from diffexp.training import train


def resume(run, *overrides):
    experiment = load_experiment(str(run), overrides)
    train(experiment, resume_run(find_config(str(run)), experiment), [])


if __name__ == "__main__":
    for each in sys.argv[1:]:
        resume(each)
