"""`diffexp sweep …`. Commands import what they need when they run, so that help is fast."""

import os
import sys
from pathlib import Path

import click

from diffexp.cli.options import PLUGIN, SWEEP
from diffexp.cli.sweep_extend import extend
from diffexp.cli.sweep_start import check, plan, run, submit
from diffexp.config.plugins import load_plugins


@click.group()
def sweep() -> None:
    """Run many trials from one W&B sweep file.

    Trials run on this machine, on Slurm, or under W&B's server.

    \b
    FILE  sweep file, or name of a ready sweep (timesteps, seeds, …)
    DIR   directory of a planned sweep

    \b
    Example:
      diffexp sweep run timesteps --workers 2
    """


for _command in (check, plan, run, submit, extend):
    sweep.add_command(_command)


@sweep.command()
@SWEEP
@PLUGIN
def status(sweep_file: str, plugins: tuple[str, ...]) -> None:
    """Print the state of each trial of a sweep, its step, and the time left.

    \b
    FILE|DIR  sweep file, name of a ready sweep, or directory of a planned sweep

    \b
    Example:
      diffexp sweep status timesteps
    """
    from diffexp.sweeps.engines.base import gone_trials
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.status import status_text

    load_plugins(plugins)
    opened = open_sweep(sweep_file)
    click.echo(status_text(opened, gone_trials(opened)))


@sweep.command()
@SWEEP
def retry(sweep_file: str) -> None:
    """Reset failed trials to pending.

    `run` or `submit` then tries them again.

    \b
    FILE|DIR  sweep file, name of a ready sweep, or directory of a planned sweep

    \b
    Example:
      diffexp sweep retry timesteps
    """
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.state import retry as again

    opened = open_sweep(sweep_file)
    failed = again(opened)
    named = ", ".join(f"{index:04d}" for index in failed) or "none"
    click.echo(
        f"pending again: {named}" + (f"; run with: diffexp sweep run {opened.path}, or submit" if failed else "")
    )


@sweep.command()
@SWEEP
@PLUGIN
def cancel(sweep_file: str, plugins: tuple[str, ...]) -> None:
    """Stop a sweep, on this machine and on every engine.

    Running trials save a checkpoint; `run` and `submit` resume them.

    \b
    FILE|DIR  sweep file, name of a ready sweep, or directory of a planned sweep

    \b
    Example:
      diffexp sweep cancel timesteps
    """
    from diffexp.sweeps.engines.base import cancel as stop
    from diffexp.sweeps.plan import open_sweep

    load_plugins(plugins)
    opened = open_sweep(sweep_file)
    jobs = stop(opened)
    click.echo(f"{opened.path}: cancelled" + (f", with jobs {', '.join(jobs)}" if jobs else ""))


@sweep.command()
@SWEEP
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="Format of the output.",
)
@click.option("--trials", is_flag=True, help="Print one row per trial, as csv and json always do.")
def results(sweep_file: str, form: str, trials: bool) -> None:
    """Print one row per setting, best first.

    Trials that differ only in seeds are one setting. Its row has the mean over the seeds and the 95 % interval. Bold
    marks the best mean, = the settings that are indistinguishable from it.

    \b
    FILE|DIR  sweep file, name of a ready sweep, or directory of a planned sweep

    \b
    Example:
      diffexp sweep results timesteps --format csv
    """
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.race import race_text
    from diffexp.sweeps.result_tables import as_csv, as_json, as_table, as_trial_table

    table = as_trial_table if trials else as_table
    opened = open_sweep(sweep_file)
    click.echo({"table": table, "csv": as_csv, "json": as_json}[form](opened), nl=False)
    if form == "table" and opened.file.method == "race":
        click.echo(race_text(opened))


@sweep.command()
@SWEEP
@PLUGIN
def best(sweep_file: str, plugins: tuple[str, ...]) -> None:
    """Print the config of the setting with the best mean over seeds.

    A comment in it names the settings that are indistinguishable from the best one.

    `diffexp train` takes it as CONFIG, and `diffexp evaluate --table` as FILE.

    \b
    FILE|DIR  sweep file, name of a ready sweep, or directory of a planned sweep

    \b
    Example:
      diffexp sweep best timesteps > best.yaml
    """
    from diffexp.sweeps.best import best_config
    from diffexp.sweeps.plan import open_sweep

    load_plugins(plugins)
    click.echo(best_config(open_sweep(sweep_file)), nl=False)


@sweep.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("index", type=int)
@click.option("--engine", metavar="NAME", default="slurm", show_default=True, help="Engine that started this job.")
@PLUGIN
def trial(directory: Path, index: int, engine: str, plugins: tuple[str, ...]) -> None:
    """Run one trial of a planned sweep, as each job of an engine does.

    Exit code 0: the trial has ended; 1: it has failed; 75: queue it again.

    \b
    DIR    directory of the planned sweep
    INDEX  number of the trial, from 0

    \b
    Example:
      diffexp sweep trial runs/timesteps 3
    """
    from diffexp.sweeps.engines.base import build_engine
    from diffexp.sweeps.engines.task import run_task
    from diffexp.sweeps.plan import Sweep
    from diffexp.sweeps.state import read_state

    load_plugins(plugins)
    opened = Sweep(directory)
    code = run_task(opened, index, os.environ, build_engine(engine)[0])
    planned = opened.trial(index)
    click.echo(f"trial {index}: {read_state(planned).state}; {planned.log}")
    sys.exit(code)
