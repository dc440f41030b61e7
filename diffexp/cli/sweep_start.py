"""The commands of `diffexp sweep` that plan a sweep and start it; each imports what it needs when it runs."""

import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffexp.cli.options import OVERRIDES, PLUGIN, SWEEP
from diffexp.config.plugins import load_plugins
from diffexp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffexp.sweeps.engines.base import Engine
    from diffexp.sweeps.plan import Sweep

_FILE = click.argument("file", metavar="FILE")
_CONFIG = click.option("--config", metavar="CONFIG|RUN", help="Train this config (or evaluate this run) instead.")
_SEED = click.option(
    "--seed", type=click.IntRange(0), metavar="N", help="Seed for random and Bayesian search. [default: 0]"
)
_SEEDS = click.option(
    "--seeds", type=click.IntRange(2), metavar="N", help="Train N replicates of each setting, from the config's seed."
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="The sweep's directory. [default: runs/NAME]"
)


@dataclass(frozen=True)
class _PlanOptions:
    """The parameters that plan a sweep, shared by `plan`, `run` and `submit`."""

    overrides: tuple[str, ...]
    config: str | None
    seed: int | None
    seeds: int | None
    out: Path | None
    plugins: tuple[str, ...]

    @property
    def is_given(self) -> bool:
        """Whether the command line has any that changes a plan, as plugins do not."""
        return bool(self.overrides or self.config or self.out or self.seeds) or self.seed is not None


def _plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the parameters of `_PlanOptions` to a command, which gets them as `options`."""

    @wraps(command)
    def gathered(*args: Any, **values: Any) -> None:
        options = _PlanOptions(**{each.name: values.pop(each.name) for each in fields(_PlanOptions)})
        command(*args, options=options, **values)

    for decorate in (PLUGIN, _OUT, _SEED, _SEEDS, _CONFIG, OVERRIDES):  # the last one comes first in the help
        gathered = decorate(gathered)
    return gathered


@click.command()
@_FILE
@OVERRIDES
@_CONFIG
@PLUGIN
def check(file: str, overrides: tuple[str, ...], config: str | None, plugins: tuple[str, ...]) -> None:
    """Validate FILE and list any errors.

    The rules of W&B and of diffexp apply.

    \b
    FILE       sweep file, or name of a ready sweep
    KEY=VALUE  override of a config key, for every trial

    \b
    Example:
      diffexp sweep check timesteps --config fashion_mnist
    """
    from diffexp.sweeps.plan import find_sweep_file, planned
    from diffexp.sweeps.validate import notes

    load_plugins(plugins)
    before, changed = find_sweep_file(file, config, overrides, plugins)
    trials = planned(changed, seed=0)
    for line in notes(changed, before):
        click.echo(line)
    most = "at most " if changed.method == "race" else ""
    click.echo(f"{file}: valid: {changed.method}, {most}{len(trials) or changed.run_cap} trials")


@click.command()
@_FILE
@_plan_options
@click.option("--time", "timed", is_flag=True, help="Measure a trial's network on this machine (imports torch).")
@click.option(
    "--pilot",
    metavar="RUN|SWEEP",
    help="Earlier results, from whose spread the power is computed. [default: the sweep's own finished trials]",
)
def plan(file: str, options: _PlanOptions, timed: bool, pilot: str | None) -> None:
    """Expand FILE into an immutable plan; estimate its cost and the smallest difference that it detects.

    \b
    FILE       sweep file, name of a ready sweep, or directory of a planned sweep
    KEY=VALUE  override of a config key, for every trial

    \b
    Example:
      diffexp sweep plan timesteps --time
    """
    from diffexp.sweeps.pilot import power_text

    planned = _planned(file, options)
    _report_plan(planned, timed)
    click.echo(power_text(planned, pilot))


@click.command()
@SWEEP
@_plan_options
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Trials to run at the same time. [default: one per group of --devices, else 1]",
)
@click.option(
    "--devices",
    metavar="0,1,…",
    help="GPUs to distribute; a trial gets training.devices of them. [default: every trial gets all GPUs]",
)
def run(sweep_file: str, options: _PlanOptions, workers: int | None, devices: str | None) -> None:
    """Run a sweep on this machine. Ctrl-C stops it; the same command resumes it.

    \b
    FILE|DIR   sweep file, name of a ready sweep, or directory of a planned sweep
    KEY=VALUE  override of a config key, for every trial; only with FILE

    \b
    Example:
      diffexp sweep run timesteps --workers 2 training.max_steps=500
    """
    from diffexp.config.schemas.engines import LocalEngineConfig
    from diffexp.sweeps.engines.local import LocalEngine

    planned = _planned(sweep_file, options)
    given = [device.strip() for device in devices.split(",") if device.strip()] if devices is not None else []
    LocalEngine(LocalEngineConfig(workers=workers, devices=given)).submit(planned)
    report_run(planned, "diffexp sweep run")


@click.command()
@click.argument("sweep_file", metavar="FILE|DIR|SWEEP_ID")
@_plan_options
@click.option("--slurm", "engine", flag_value="slurm", default="slurm", help="The same as --engine slurm.")
@click.option("--engine", metavar="NAME", help="slurm, local, or an engine of a plugin. [default: slurm]")
@click.option("--agents", type=click.IntRange(1), metavar="N", help="Submit N jobs of `wandb agent` for SWEEP_ID.")
@click.option("--print", "printed", is_flag=True, help="Print the job script and submit nothing.")
def submit(sweep_file: str, options: _PlanOptions, engine: str, agents: int | None, printed: bool) -> None:
    """Submit a sweep to Slurm or another engine.

    Slurm gets a job array with one task per trial.

    \b
    FILE|DIR   sweep file, name of a ready sweep, or directory of a planned sweep
    SWEEP_ID   ENTITY/PROJECT/ID of a sweep on W&B's server; with --agents
    KEY=VALUE  engine key, below, or override of a config key (only with FILE)

    \b
    Keys of the engines:
      slurm  partition, account, qos, constraint, gpus, cpus, mem, time,
             max_parallel, grace, setup, python, options
      local  workers, devices

    \b
    Example:
      diffexp sweep submit timesteps partition=gpu gpus=1 time=02:00:00
    """
    from diffexp.config.schemas.experiment import Experiment
    from diffexp.config.schemas.requests import EvaluateRequest
    from diffexp.sweeps.engines.base import build_engine, engine_keys, record_plugins

    load_plugins(options.plugins)
    chosen, rest = build_engine(engine, options.overrides)
    of_plan = replace(options, overrides=tuple(rest))
    if agents is not None:
        if replace(of_plan, out=None).is_given or options.plugins or engine != "slurm":
            raise UserError(
                "--agents: expected only keys of slurm, --out and --print, got other options. W&B's server holds the "
                "sweep; set them in the sweep file."
            )
        click.echo(_submit_agents(sweep_file, agents, chosen, options.out, printed=printed))
        return
    names = engine_keys(engine)
    of_config = {each.name for schema in (Experiment, EvaluateRequest) for each in fields(schema)}
    for text in rest:
        key = text.partition("=")[0].partition(".")[0]
        if key not in of_config:
            more = " Give other options of sbatch as options=[--OPTION=VALUE]." if engine == "slurm" else ""
            raise UserError(
                f"command line: {key}: expected a key of the engine {engine} or of the config, got {key}."
                f"{did_you_mean(key, [*names, *of_config])}{more}"
            )
    planned = _planned(sweep_file, of_plan)
    if printed:
        click.echo(chosen.script(planned), nl=False)
        return
    record_plugins(planned, chosen, options.plugins)
    jobs = chosen.submit(planned)
    if chosen.is_blocking:
        report_run(planned, f"diffexp sweep submit --engine {engine}")
        return
    outcome = f"submitted job {', '.join(jobs)}" if jobs else "no trial is left to run"
    click.echo(f"{outcome}; follow it with: diffexp sweep status {planned.path}")


def report_run(planned: "Sweep", command: str) -> None:
    """Print the results, then exit with 130 if trials are left to run, and with 1 if a trial failed.

    Of trials that differ only in the seed, it prints the mean.
    """
    from diffexp.sweeps.plan import Sweep
    from diffexp.sweeps.race import race_text, unfinished
    from diffexp.sweeps.replicates import mean_text
    from diffexp.sweeps.result_tables import as_table
    from diffexp.sweeps.results import is_target_reached, settings
    from diffexp.sweeps.state import read_state

    planned = Sweep(planned.path)  # with the trials that another command may have added meanwhile
    click.echo(as_table(planned), nl=False)
    found, metric = settings(planned), planned.file.metric
    if metric is not None and len(found) == 1 and len(found[0].rows) > 1:
        click.echo(mean_text(metric.name, found[0].values, len(found[0].rows)))
    if planned.file.method == "race":
        click.echo(race_text(planned))
    click.echo(f"{planned.path}: diffexp sweep results, best, status")
    if unfinished(planned):
        if not is_target_reached(planned):
            click.echo(f"resume with: {command} {planned.path}")
            sys.exit(128 + signal.SIGINT)
        click.echo("metric.target is reached: diffexp starts no further trials")
    if any(read_state(trial).state == "failed" for trial in planned.trials()):
        click.echo(f"reset failed trials with: diffexp sweep retry {planned.path}", err=True)
        sys.exit(1)


def _submit_agents(sweep: str, agents: int, engine: "Engine", out: Path | None, *, printed: bool) -> str:
    """Submit agents of a sweep on W&B's server, or with `printed` only write the script; returns the text to print."""
    from diffexp.sweeps.engines.slurm import print_agents, submit_agents
    from diffexp.sweeps.plan import planned_directory

    if planned_directory(sweep) is not None:
        raise UserError(
            f"--agents: expected ENTITY/PROJECT/ID, got the planned sweep {sweep}. Register its sweep.yaml with "
            "`wandb sweep`, where a race is a grid, or submit it without --agents."
        )
    if not re.fullmatch(r"[^/\s]+/[^/\s]+/[^/\s]+", sweep):
        raise UserError(f"--agents: expected ENTITY/PROJECT/ID, got {sweep!r}. `wandb sweep FILE` prints it.")
    folder = out or Path("runs") / f"agents-{sweep.rpartition('/')[2]}"
    if printed:
        return print_agents(sweep, agents, engine.config, folder)
    jobs = submit_agents(sweep, agents, engine.config, folder)
    return f"submitted job {', '.join(jobs)}: {agents} agents; {folder}"


def _planned(file: str, options: _PlanOptions) -> "Sweep":
    """Open the sweep of a directory, or that of a file, which is planned first if it has no plan."""
    from diffexp.sweeps.plan import Sweep, find_sweep_file, make_plan, planned_directory, ready_sweeps, usual_directory
    from diffexp.sweeps.validate import notes

    load_plugins(options.plugins)
    directory = planned_directory(file)
    # a file, a directory, then a ready sweep; at last runs/NAME
    if directory is not None and (directory == Path(file) or file not in ready_sweeps()):
        if directory != Path(file):
            click.echo(f"{file}: found the planned sweep {directory}", err=True)
        if options.is_given:
            raise UserError(
                f"{file}: expected no further options, as a plan is immutable. Add trials with diffexp sweep extend, "
                "or give the sweep file with --out."
            )
        return Sweep(directory)
    before, changed = find_sweep_file(file, options.config, options.overrides, options.plugins, options.seeds)
    for line in notes(changed, before):
        click.echo(line, err=True)
    return make_plan(changed, options.seed or 0, options.out or usual_directory(changed))


def _report_plan(planned: "Sweep", timed: bool) -> None:
    """Print the number of trials, the swept keys, and the cost."""
    from diffexp.formatting import duration
    from diffexp.sweeps.cost import PASSES, seconds_a_pass

    work = planned.plan["work"]
    most = "at most " if planned.file.method == "race" else ""
    keys = ", ".join(_swept(planned))
    click.echo(f"{planned.path}: {most}{len(planned)} trials of {planned.file.method} over {keys}")
    for index in planned.indices[:20]:
        trial = planned.trial(index).trial
        if trial is not None:
            click.echo(f"  {index:04d} {trial.name}")
    if len(planned) > 20:
        click.echo(f"  … to {len(planned) - 1:04d}; plan.json lists all")
    click.echo(
        f"work: {work['training']:,} training images, and {work['sampling']:,} network calls on one image each for "
        "sampling"
    )
    if timed:
        each = seconds_a_pass(planned.typical())
        total = (PASSES * work["training"] + work["sampling"]) * each
        click.echo(
            f"on this machine: about {duration(total)} with one worker, the longest trial "
            f"{duration(work['longest'] * each)}; {each * 1000:.2g} ms per image and forward pass"
        )


def _swept(planned: "Sweep") -> list[str]:
    return [f"{each.key} ({len(each.values)})" if each.values else each.key for each in planned.file.parameters]
