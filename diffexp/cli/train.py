"""`diffexp train`."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN, TRIAL
from diffexp.errors import UserError

if TYPE_CHECKING:
    from diffexp.callbacks.score import ScoreSamples
    from diffexp.commands.train import Outcome


@click.command()
@click.argument("config")
@OVERRIDES
@click.option(
    "--resume", is_flag=True, help="Resume the run in CONFIG's directory (or run_dir) from its latest checkpoint."
)
@click.option(
    "--allow-change",
    "allowed",
    multiple=True,
    metavar="KEY",
    help="With --resume, allow this key to change the result, such as optim.lr; repeatable. It is recorded.",
)
@click.option(
    "--seeds", type=click.IntRange(2), metavar="N", help="Train N replicates that differ only in the seed, as a sweep."
)
@TRIAL
@PLUGIN
def train(
    config: str,
    overrides: tuple[str, ...],
    resume: bool,
    allowed: tuple[str, ...],
    seeds: int | None,
    trial: tuple[str, str] | None,
    plugins: tuple[str, ...],
) -> None:
    """Train the model that CONFIG describes.

    \b
    CONFIG     YAML file, run directory, or name of a ready config (digits, …)
    KEY=VALUE  override of a dotted config key; `diffexp config show` lists all

    \b
    Example:
      diffexp train digits optim.lr=1e-3 model.schedule.name=linear
    """
    from diffexp.config.check import check_experiment
    from diffexp.config.load import load_experiment
    from diffexp.config.plugins import load_plugins
    from diffexp.config.sources import find_config
    from diffexp.config.trial import Trial
    from diffexp.system.signals import defer_signals, exit_on_signal

    if seeds is not None:
        if trial or allowed:
            got = "--trial" if trial else "--allow-change"
            raise UserError(f"--seeds: expected neither --trial nor --allow-change with it, got {got}. Remove one.")
        _train_replicates(config, overrides, seeds, plugins, resume=resume)
        return
    defer_signals()
    load_plugins(plugins)
    experiment = load_experiment(config, overrides, Trial.parse(*trial) if trial else None)
    if not resume:  # a run that continues no longer needs the weights that it started from
        check_experiment(experiment)
    with quick_imports():
        from diffexp.commands.locate import locate_run, located
        from diffexp.commands.train import train_run
        from diffexp.system.srun_start import all_tasks

    exit_on_signal()  # until training installs its own handlers
    with all_tasks() as ready:
        experiment = located(experiment)
        run = locate_run(experiment, find_config(config), resume=resume, allowed=allowed)
        outcome = train_run(experiment, run, list(plugins), allowed=allowed, ready=ready)
    if not outcome.is_main:
        return  # rank 0 sets the exit code; Lightning would kill it if this process exited with another than 0
    with suppress(OSError):
        _report(outcome, plugins)
    if outcome.stopped_by is not None:
        sys.exit(128 + outcome.stopped_by)


def _train_replicates(
    config: str, overrides: tuple[str, ...], seeds: int, plugins: tuple[str, ...], *, resume: bool
) -> None:
    """Train replicates one after the other, and print the mean of their metric."""
    from diffexp.cli.sweep_start import report_run
    from diffexp.config.plugins import load_plugins
    from diffexp.config.schemas.engines import LocalEngineConfig
    from diffexp.sweeps.engines.local import LocalEngine
    from diffexp.sweeps.plan import make_plan
    from diffexp.sweeps.plan_file import PLAN
    from diffexp.sweeps.replicates import replicates_of

    load_plugins(plugins)
    sweep, folder = replicates_of(config, overrides, plugins, seeds)
    if resume and not (folder / PLAN).exists():
        raise UserError(f"--resume: expected replicates in {folder}, got none. Remove --resume to train them.")
    if not resume and folder.exists():
        raise UserError(
            f"--seeds: expected no {folder}, which exists. Give --resume to train what is left of it, or another name."
        )
    planned = make_plan(sweep, 0, folder)
    LocalEngine(LocalEngineConfig(workers=1)).submit(planned)
    report_run(planned, "diffexp sweep run")


def _report(outcome: "Outcome", plugins: tuple[str, ...]) -> None:
    """Print the run directory, the cost of sampling, and how to resume."""
    run = outcome.run
    click.echo(f"\n{outcome.step} of {outcome.steps} steps done: {run.path}")
    if outcome.ended_early is not None:
        click.echo(outcome.ended_early)
    if outcome.drawn:
        click.echo(f"\n{'sampler':<12} {'calls':>6} {'images':>7} {'seconds':>8}")
        for name, drawn in outcome.drawn.items():
            click.echo(f"{name:<12} {drawn.network_calls:>6} {drawn.images:>7} {drawn.seconds:>8.1f}")
        click.echo(f"\nlook at {run.samples / f'step-{outcome.step:08d}.png'}")
    if outcome.score is not None and outcome.score.scored:
        _report_scores(outcome.score)
    if outcome.stopped_by is not None:
        again = "".join(f" --plugin {module}" for module in plugins)
        click.echo(f"resume with: diffexp train {run.path} --resume{again}")


def _report_scores(score: "ScoreSamples") -> None:
    """Print a table of the last scores, with the step, weights and protocol that they belong to."""
    rules, scored = score.protocol(), list(score.scored.values())
    click.echo(f"\n{'scored sampler':<24} {'images':>7} {'seconds':>8}  {rules.metric('fd')}")
    for each in scored:
        fd = each.scores["fd"]
        row = f"{each.label:<24} {each.scores.count:>7} {each.seconds:>8.1f}"
        click.echo(f"{row}  {fd.value:.3g} ± {fd.error:.2g}")
    click.echo(
        f"\nstep {score.scored_step}, {score.weights} weights; lower is better, and a perfect generator would have "
        f"about {scored[0].scores['fd'].expected:.2g}; protocol {rules.id}"
    )
