"""Goes on with many runs, one after the other, in this process: `python tests/helpers/resumes.py RUN…`.

Started once for every rank, with LOCAL_RANK, MASTER_ADDR and MASTER_PORT set, it trains in several processes.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys

from diffexp.commands.locate import locate_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from diffexp.config.sources import find_config


def resume(run, *overrides, allowed=()):
    experiment = load_experiment(str(run), overrides)
    found = locate_run(experiment, find_config(str(run)), resume=True, allowed=allowed)
    train_run(experiment, found, [], allowed=allowed)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        resume(each)
