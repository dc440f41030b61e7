"""`diffexp reproduce`."""

import sys
from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT|WANDB_RUN")
@OVERRIDES
@click.option(
    "--seeds",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="If the result differs, train N more seeds to measure the spread.",
)
@PLUGIN
def reproduce(run: str, overrides: tuple[str, ...], seeds: int, plugins: tuple[str, ...]) -> None:
    """Repeat a recorded training and compare the results.

    Lists differences in settings, versions and machine first. Exit code 0: equal bit for bit, or within the spread of
    the scores; 1: different. The same command resumes an interrupted reproduction.

    \b
    RUN         run directory
    CHECKPOINT  one of a run's checkpoints
    WANDB_RUN   ENTITY/PROJECT/ID, or the run's URL
    KEY=VALUE   override of a dotted config key

    \b
    Example:
      diffexp reproduce runs/digits-1 --seeds 3
    """
    from diffexp.checkpoints.stored_config import stored_experiment
    from diffexp.config.load import amended
    from diffexp.config.plugins import load_plugins
    from diffexp.reproduction.recorded_name import check_recorded_run
    from diffexp.system.signals import defer_signals, exit_on_signal

    defer_signals()
    load_plugins(plugins)
    check_recorded_run(run)
    experiment = stored_experiment(Path(run))
    if experiment is not None:  # report mistakes before torch is imported
        amended(experiment, overrides)
    with quick_imports():
        from diffexp.commands.reproduce import reproduce as train_again

    exit_on_signal()
    same = train_again(run, overrides, seeds, list(plugins), click.echo)
    sys.exit(0 if same else 1)
