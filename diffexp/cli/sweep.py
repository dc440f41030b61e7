"""`diffexp sweep …`. Commands import what they need when they run, so that help is quick."""

import os
import re
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffexp.cli.options import OVERRIDES, PLUGIN
from diffexp.config.plugins import load_plugins
from diffexp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffexp.sweeps.engines.base import Engine
    from diffexp.sweeps.plan import Sweep

_FILE = click.argument("file", metavar="FILE")
_SWEEP = click.argument("sweep_file", metavar="FILE|DIR")
_CONFIG = click.option("--config", metavar="CONFIG|RUN", help="Train this config (or evaluate this run) instead.")
_SEED = click.option("--seed", type=click.IntRange(0), help="Of random and bayes (0).")
_OUT = click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The sweep's directory (runs/NAME).")


@click.group()
def sweep() -> None:
    """Run many trials from one W&B sweep file: here, on Slurm, or under W&B's server.

    FILE is a sweep file; DIR is the directory of a sweep that has been planned.
    """


@sweep.command()
@_FILE
@OVERRIDES
@_CONFIG
@PLUGIN
def check(file: str, overrides: tuple[str, ...], config: str | None, plugins: tuple[str, ...]) -> None:
    """Say whether FILE is right, by W&B's rules and ours; what is wrong otherwise."""
    from diffexp.sweeps.plan import find_sweep_file, planned
    from diffexp.sweeps.validate import metric_of

    before, changed = find_sweep_file(file, config, overrides, plugins)
    trials = planned(changed, seed=0)
    replaced = metric_of(changed, before)
    if replaced is not None:
        click.echo(replaced)
    click.echo(f"{file}: is right: {changed.method}, {len(trials) or changed.run_cap} trials")


@sweep.command()
@_FILE
@OVERRIDES
@_CONFIG
@_SEED
@_OUT
@PLUGIN
@click.option("--time", "timed", is_flag=True, help="Measure how long a trial takes on this machine (imports torch).")
def plan(
    file: str,
    overrides: tuple[str, ...],
    config: str | None,
    seed: int | None,
    out: Path | None,
    plugins: tuple[str, ...],
    timed: bool,
) -> None:
    """Write down the trials of FILE, never to be changed, and say what they cost."""
    planned = _planned(file, overrides, config, seed, out, plugins)
    _tell_plan(planned, timed)


@sweep.command()
@_SWEEP
@OVERRIDES
@_CONFIG
@_SEED
@_OUT
@PLUGIN
@click.option("--workers", type=click.IntRange(1), help="Trials at the same time (1, or one for each device).")
@click.option("--devices", metavar="0,1,…", help="GPUs to share out; a trial gets as many as training.devices.")
def run(
    sweep_file: str,
    overrides: tuple[str, ...],
    config: str | None,
    seed: int | None,
    out: Path | None,
    plugins: tuple[str, ...],
    workers: int | None,
    devices: str | None,
) -> None:
    """Run a sweep on this machine. Ctrl-C stops it; the same command goes on."""
    from diffexp.config.schemas.engines import LocalEngineConfig
    from diffexp.sweeps.engines.local import LocalEngine

    planned = _planned(sweep_file, overrides, config, seed, out, plugins)
    given = [device.strip() for device in devices.split(",") if device.strip()] if devices is not None else []
    LocalEngine(LocalEngineConfig(workers=workers, devices=given)).submit(planned)
    _report_run(planned, "diffexp sweep run")


@sweep.command()
@click.argument("sweep_file", metavar="FILE|DIR|SWEEP_ID")
@OVERRIDES
@_CONFIG
@_SEED
@_OUT
@PLUGIN
@click.option("--slurm", "engine", flag_value="slurm", default="slurm", help="To Slurm, as --engine slurm.")
@click.option("--engine", metavar="NAME", help="To this engine; a plugin may add some. [default: slurm]")
@click.option("--agents", type=click.IntRange(1), metavar="N", help="N jobs of `wandb agent` for ENTITY/PROJECT/ID.")
@click.option("--print", "printed", is_flag=True, help="Show the job script, and submit nothing.")
def submit(
    sweep_file: str,
    overrides: tuple[str, ...],
    config: str | None,
    seed: int | None,
    out: Path | None,
    plugins: tuple[str, ...],
    engine: str,
    agents: int | None,
    printed: bool,
) -> None:
    """Submit a sweep to an engine: by default as a Slurm job array, one task for each trial.

    An override with one of these keys configures the engine; all others are the config's.
    Slurm: partition, account, qos, constraint, gpus, cpus, mem, time, max_parallel, grace, setup, options.
    local: workers, devices.
    """
    from diffexp.sweeps.engines.base import build_engine, engine_keys, record_plugins

    load_plugins(plugins)
    chosen, rest = build_engine(engine, overrides)
    if agents is not None:
        if rest or config or seed is not None or plugins or engine != "slurm":
            raise UserError("--agents: the sweep is W&B's; only what Slurm is asked for can be given here")
        click.echo(_submit_agents(sweep_file, agents, chosen, out, printed=printed))
        return
    names = engine_keys(engine)
    for text in rest:
        key = text.partition("=")[0]
        if "." not in key and get_close_matches(key, names, n=1, cutoff=0.7):
            raise UserError(f"command line: {key}: {engine} is not asked for that.{did_you_mean(key, names)}")
    # a plan does not change: to one that exists, a plugin brings the engine alone
    of_plan = () if Path(sweep_file).is_dir() else plugins
    planned = _planned(sweep_file, tuple(rest), config, seed, out, of_plan)
    if printed:
        click.echo(chosen.script(planned), nl=False)
        return
    record_plugins(planned, plugins)
    jobs = chosen.submit(planned)
    if chosen.is_blocking:
        _report_run(planned, f"diffexp sweep submit --engine {engine}")
        return
    outcome = f"submitted job {', '.join(jobs)}" if jobs else "nothing is left to do"
    click.echo(f"{outcome}; diffexp sweep status {planned.path}")


@sweep.command()
@_SWEEP
def status(sweep_file: str) -> None:
    """How a sweep stands."""
    from diffexp.sweeps.engines.base import gone_trials
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.results import status_text

    opened = open_sweep(sweep_file)
    click.echo(status_text(opened, gone_trials(opened)))


@sweep.command()
@_SWEEP
def retry(sweep_file: str) -> None:
    """Make failed trials pending again; `run` or `submit` then tries them."""
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.state import retry as again

    opened = open_sweep(sweep_file)
    failed = again(opened)
    named = ", ".join(f"{index:04d}" for index in failed) or "none"
    click.echo(
        f"pending again: {named}" + (f"; go on with diffexp sweep run {opened.path}, or submit" if failed else "")
    )


@sweep.command()
@_SWEEP
def cancel(sweep_file: str) -> None:
    """Stop a sweep, on this machine and on every engine.

    Running trials save a checkpoint; `run` and `submit` resume them.
    """
    from diffexp.sweeps.engines.base import cancel as stop
    from diffexp.sweeps.plan import open_sweep

    opened = open_sweep(sweep_file)
    jobs = stop(opened)
    click.echo(f"{opened.path}: cancelled" + (f", with the jobs {', '.join(jobs)}" if jobs else ""))


@sweep.command()
@_SWEEP
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def results(sweep_file: str, form: str) -> None:
    """Print a row for each trial, those of the setting with the best mean over its seeds first."""
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.results import as_csv, as_json, as_table

    click.echo({"table": as_table, "csv": as_csv, "json": as_json}[form](open_sweep(sweep_file)), nl=False)


@sweep.command()
@_SWEEP
def best(sweep_file: str) -> None:
    """Print the config of the setting with the best mean over its seeds, for `diffexp train` or evaluate --table."""
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.results import best_config

    click.echo(best_config(open_sweep(sweep_file)), nl=False)


@sweep.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("index", type=int)
@click.option("--engine", metavar="NAME", default="slurm", show_default=True, help="Which engine has started this.")
@PLUGIN
def trial(directory: Path, index: int, engine: str, plugins: tuple[str, ...]) -> None:
    """Run one trial of a planned sweep: what a job of an engine runs.

    Exits with 0 when it is over, 1 when it has failed, and 75 when it is to be tried again.
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


def _report_run(planned: "Sweep", command: str) -> None:
    """Show the results of a run that has ended, and exit with 1 if a trial failed and 130 if some are left."""
    from diffexp.sweeps.results import as_table, is_target_reached
    from diffexp.sweeps.state import left, read_state

    click.echo(as_table(planned))
    click.echo(f"{planned.path}: diffexp sweep results, best, status")
    if left(planned):
        if not is_target_reached(planned):
            click.echo(f"resume with: {command} {planned.path}")
            sys.exit(128 + signal.SIGINT)
        click.echo("metric.target is reached: diffexp starts no further trials")
    if any(read_state(trial).state == "failed" for trial in planned.trials()):
        click.echo(f"try the failed ones again with: diffexp sweep retry {planned.path}", err=True)
        sys.exit(1)


def _submit_agents(sweep: str, agents: int, engine: "Engine", out: Path | None, *, printed: bool) -> str:
    """Submit agents of a sweep that W&B's server has, or only say how; what was done."""
    from diffexp.sweeps.engines.slurm import submit_agents
    from diffexp.sweeps.engines.slurm_script import agents_script

    if not re.fullmatch(r"[^/\s]+/[^/\s]+/[^/\s]+", sweep):
        raise UserError(f"--agents: {sweep!r} is not ENTITY/PROJECT/ID, which `wandb sweep FILE` prints")
    folder = out or Path("runs") / f"agents-{sweep.rpartition('/')[2]}"
    script = agents_script(sweep, agents, engine.config, folder.absolute())
    return script if printed else f"submitted job {submit_agents(script, folder)}: {agents} agents; {folder}"


def _planned(
    file: str,
    overrides: tuple[str, ...],
    config: str | None,
    seed: int | None,
    out: Path | None,
    plugins: tuple[str, ...],
) -> "Sweep":
    """The sweep of a file, planned now if it is not yet, or that of a directory."""
    from diffexp.sweeps.plan import Sweep, find_sweep_file, make_plan, usual_directory
    from diffexp.sweeps.validate import metric_of

    if Path(file).is_dir():
        if overrides or config or plugins or out or seed is not None:
            raise UserError(f"{file}: is planned, and a plan does not change; give the sweep file, and --out")
        return Sweep(Path(file))
    before, changed = find_sweep_file(file, config, overrides, plugins)
    replaced = metric_of(changed, before)
    if replaced is not None:
        click.echo(replaced, err=True)
    return make_plan(changed, seed or 0, out or usual_directory(changed))


def _tell_plan(planned: "Sweep", timed: bool) -> None:
    """Say how many trials there are, what they vary, and what they cost."""
    from diffexp.formatting import duration
    from diffexp.sweeps.cost import PASSES, seconds_a_pass

    work = planned.plan["work"]
    click.echo(f"{planned.path}: {len(planned)} trials of {planned.file.method} over {', '.join(_swept(planned))}")
    for index in planned.indices[:20]:
        trial = planned.trial(index).trial
        if trial is not None:
            click.echo(f"  {index:04d} {trial.name}")
    if len(planned) > 20:
        click.echo(f"  … to {len(planned) - 1:04d}; all of them are in plan.json")
    click.echo(
        f"work: {work['training']:,} images to train on, and {work['sampling']:,} network calls on one image each for "
        "samples"
    )
    if timed:
        each = seconds_a_pass(planned.typical())
        total = (PASSES * work["training"] + work["sampling"]) * each
        click.echo(
            f"on this machine about {duration(total)} of one worker, the longest trial "
            f"{duration(work['longest'] * each)}; {each * 1000:.2g} ms for an image's pass through the network"
        )


def _swept(planned: "Sweep") -> list[str]:
    return [f"{each.key} ({len(each.values)})" if each.values else each.key for each in planned.file.parameters]
