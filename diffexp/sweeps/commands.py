"""`diffexp sweep …`. Commands import what they need when they run, so that help is quick."""

import os
import re
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffexp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffexp.sweeps.plan import Sweep

_FILE = click.argument("file", metavar="FILE")
_SWEEP = click.argument("sweep_file", metavar="FILE|DIR")
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
_CONFIG = click.option("--config", metavar="CONFIG|RUN", help="Train this config (or evaluate this run) instead.")
_SEED = click.option("--seed", type=click.IntRange(0), help="Of random and bayes (0).")
_OUT = click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The sweep's directory (runs/NAME).")
_PLUGIN = click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Import a module of yours first.")


@click.group()
def sweep() -> None:
    """Run many trials from one W&B sweep file: here, on Slurm, or under W&B's server.

    FILE is a sweep file; DIR is the directory of a sweep that has been planned.
    """


@sweep.command()
@_FILE
@_OVERRIDES
@_CONFIG
@_PLUGIN
def check(file: str, overrides: tuple[str, ...], config: str | None, plugins: tuple[str, ...]) -> None:
    """Say whether FILE is right, by W&B's rules and ours; what is wrong otherwise."""
    from diffexp.sweeps.checking import metric_of
    from diffexp.sweeps.plan import find_sweep_file, planned

    before, changed = find_sweep_file(file, config, overrides, plugins)
    trials = planned(changed, seed=0)
    told = metric_of(changed, before)
    if told is not None:
        click.echo(told)
    click.echo(f"{file}: is right: {changed.method}, {len(trials) or changed.run_cap} trials")


@sweep.command()
@_FILE
@_OVERRIDES
@_CONFIG
@_SEED
@_OUT
@_PLUGIN
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
@_OVERRIDES
@_CONFIG
@_SEED
@_OUT
@_PLUGIN
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
    from diffexp.sweeps.local import LocalRun, slots
    from diffexp.sweeps.results import as_table

    planned = _planned(sweep_file, overrides, config, seed, out, plugins)
    given = [device.strip() for device in devices.split(",") if device.strip()] if devices is not None else []
    local = LocalRun(planned, slots(workers, given, planned.devices))
    complete = local.run()
    click.echo(as_table(planned))
    click.echo(f"{planned.path}: diffexp sweep results, best, status")
    if not complete and not local.stop.asked:
        click.echo("metric.target is reached: no further trials are begun")
    elif not complete:
        click.echo(f"go on with: diffexp sweep run {planned.path}")
        sys.exit(128 + signal.SIGINT)
    if any(record.state == "failed" for record in local.records()):
        click.echo(f"try the failed ones again with: diffexp sweep retry {planned.path}", err=True)
        sys.exit(1)


@sweep.command()
@click.argument("sweep_file", metavar="FILE|DIR|SWEEP_ID")
@_OVERRIDES
@_CONFIG
@_SEED
@_OUT
@_PLUGIN
@click.option("--slurm", is_flag=True, required=True, help="To Slurm; nothing else is known so far.")
@click.option("--agents", type=click.IntRange(1), metavar="N", help="N jobs of `wandb agent` for ENTITY/PROJECT/ID.")
@click.option("--print", "printed", is_flag=True, help="Show the job script, and submit nothing.")
def submit(
    sweep_file: str,
    overrides: tuple[str, ...],
    config: str | None,
    seed: int | None,
    out: Path | None,
    plugins: tuple[str, ...],
    slurm: bool,
    agents: int | None,
    printed: bool,
) -> None:
    """Submit a sweep as a Slurm job array, one task a trial; tasks that are stopped or crash are queued again.

    Keys: partition, account, qos, constraint, gpus, cpus, mem, time, max_parallel, grace, setup, options are for
    Slurm; others are the config's.
    """
    from dataclasses import fields

    from diffexp.sweeps import slurm as cluster
    from diffexp.sweeps.slurm_script import SlurmRequest, agents_script, load_slurm_request, trials_script

    names = {each.name for each in fields(SlurmRequest)}
    asked = [text for text in overrides if text.partition("=")[0] in names]
    request = load_slurm_request(asked)
    if agents is not None:
        if len(asked) < len(overrides) or config or seed is not None or plugins:
            raise UserError("--agents: the sweep is W&B's; only what Slurm is asked for can be given here")
        if not re.fullmatch(r"[^/\s]+/[^/\s]+/[^/\s]+", sweep_file):
            raise UserError(f"--agents: {sweep_file!r} is not ENTITY/PROJECT/ID, which `wandb sweep FILE` prints")
        folder = out or Path("runs") / f"agents-{sweep_file.rpartition('/')[2]}"
        script = agents_script(sweep_file, agents, request, folder.absolute())
        click.echo(
            script if printed else f"submitted job {cluster.submit_agents(script, folder)}: {agents} agents; {folder}"
        )
        return
    rest = tuple(text for text in overrides if text not in asked)
    for text in rest:
        key = text.partition("=")[0]
        if "." not in key and get_close_matches(key, names, n=1, cutoff=0.7):
            raise UserError(f"command line: {key}: Slurm is not asked for that.{did_you_mean(key, names)}")
    planned = _planned(sweep_file, rest, config, seed, out, plugins)
    if printed:
        click.echo(trials_script(planned, request), nl=False)
        for each in cluster.arrays(cluster.left(planned), request.max_parallel):
            click.echo(f"# submitted by: {' '.join(each.command(Path('trials.sh')))}")
        return
    jobs = cluster.submit_trials(planned, request)
    told = f"submitted job {', '.join(jobs)}" if jobs else "nothing is left to do"
    click.echo(f"{told}; diffexp sweep status {planned.path}")


@sweep.command()
@_SWEEP
def status(sweep_file: str) -> None:
    """How a sweep stands."""
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.results import status_text
    from diffexp.sweeps.slurm import gone_tasks

    opened = open_sweep(sweep_file)
    click.echo(status_text(opened, gone_tasks(opened)))


@sweep.command()
@_SWEEP
def retry(sweep_file: str) -> None:
    """Make failed trials pending again; `run` or `submit` then tries them."""
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.records import retry as again

    opened = open_sweep(sweep_file)
    failed = again(opened)
    named = ", ".join(f"{index:04d}" for index in failed) or "none"
    click.echo(
        f"pending again: {named}" + (f"; go on with diffexp sweep run {opened.path}, or submit" if failed else "")
    )


@sweep.command()
@_SWEEP
def cancel(sweep_file: str) -> None:
    """Stop a sweep, here and on Slurm. Running trials save; `run` and `submit` go on with them."""
    from diffexp.sweeps.plan import open_sweep
    from diffexp.sweeps.slurm import cancel as stop

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
def trial(directory: Path, index: int) -> None:
    """Run one trial of a planned sweep: what a task of a Slurm job array runs.

    Exits with 0 when it is over, 1 when it has failed, and 75 when it is to be tried again.
    """
    from diffexp.sweeps.plan import Sweep
    from diffexp.sweeps.records import read_record
    from diffexp.sweeps.task import run_task

    opened = Sweep(directory)
    code = run_task(opened, index, os.environ)
    click.echo(f"trial {index}: {read_record(opened, index).state}; {opened.log(index)}")
    sys.exit(code)


def _planned(
    file: str,
    overrides: tuple[str, ...],
    config: str | None,
    seed: int | None,
    out: Path | None,
    plugins: tuple[str, ...],
) -> "Sweep":
    """The sweep of a file, planned now if it is not yet, or that of a directory."""
    from diffexp.sweeps.checking import metric_of
    from diffexp.sweeps.plan import Sweep, find_sweep_file, make_plan, usual_directory

    if Path(file).is_dir():
        if overrides or config or plugins or out or seed is not None:
            raise UserError(f"{file}: is planned, and a plan does not change; give the sweep file, and --out")
        return Sweep(Path(file))
    before, changed = find_sweep_file(file, config, overrides, plugins)
    told = metric_of(changed, before)
    if told is not None:
        click.echo(told, err=True)
    return make_plan(changed, seed or 0, out or usual_directory(changed))


def _tell_plan(planned: "Sweep", timed: bool) -> None:
    """Say how many trials there are, what they vary, and what they cost."""
    from diffexp.durations import duration
    from diffexp.sweeps.work import PASSES, seconds_a_pass

    work = planned.plan["work"]
    click.echo(f"{planned.path}: {len(planned)} trials of {planned.file.method} over {', '.join(_swept(planned))}")
    for index in planned.indices[:20]:
        trial = planned.trial(index)
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
