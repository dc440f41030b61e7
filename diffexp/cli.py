"""The command line. Commands import what is heavy when they run, so that help and config checks are quick."""

import logging
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffexp import __version__
from diffexp.errors import PASSING, OutsideError, UserError
from diffexp.reports.commands import compare, dashboard, report
from diffexp.sweeps.commands import sweep

if TYPE_CHECKING:
    from diffexp.callbacks.score import Score
    from diffexp.training import Outcome

_PLUGIN = click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Import a module of yours first.")
_TRIAL = click.option(
    "--trial", nargs=2, metavar="SWEEP PARAMETERS", help="Run as a trial of a sweep, with these values (JSON)."
)
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="diffexp")
def cli() -> None:
    """Experiments with diffusion models, from one config."""


for _command in (sweep, report, compare, dashboard):
    cli.add_command(_command)


@cli.command()
@click.argument("config")
@_OVERRIDES
@click.option("--resume", is_flag=True, help="Go on with the run in CONFIG's directory (or run_dir).")
@_TRIAL
@_PLUGIN
def train(
    config: str,
    overrides: tuple[str, ...],
    resume: bool,
    trial: tuple[str, str] | None,
    plugins: tuple[str, ...],
) -> None:
    """Train what CONFIG describes.

    CONFIG is a YAML file, a run's directory, or the name of a ready config (digits, fashion_mnist, …).
    Overrides are dotted keys: optim.lr=1e-3 model.schedule.name=linear.
    """
    from diffexp.config import load_experiment
    from diffexp.config.layers import find_config
    from diffexp.config.plugins import load_plugins
    from diffexp.config.trials import Trial
    from diffexp.signals import end_on_signals, note_signals

    note_signals()
    load_plugins(plugins)
    experiment = load_experiment(config, overrides, Trial.parse(*trial) if trial else None)
    from diffexp import starting, training

    end_on_signals()  # until training listens itself
    experiment = starting.located(experiment)
    run = starting.resume_run(find_config(config), experiment) if resume else starting.start_run(experiment)
    outcome = training.train(experiment, run, list(plugins))
    if not outcome.is_main:
        return  # the exit code is the first process's to give; for another one than 0, Lightning would kill it
    with suppress(OSError):
        _report(outcome, plugins)
    if outcome.stopped_by is not None:
        sys.exit(128 + outcome.stopped_by)


@cli.command()
@click.argument("run", metavar="RUN|CHECKPOINT|WANDB_RUN")
@_OVERRIDES
@click.option(
    "--seeds", type=click.IntRange(0), default=0, metavar="N", help="If it differs, measure the spread of N more seeds."
)
@_PLUGIN
def reproduce(run: str, overrides: tuple[str, ...], seeds: int, plugins: tuple[str, ...]) -> None:
    """Train again what is recorded, and say whether the result is the same.

    First what differs in settings, versions and machine is told. Exit code 0: the same, bit for bit or within the
    spread of its scores; 1: another. WANDB_RUN is ENTITY/PROJECT/ID, or its address.
    """
    from diffexp.config.plugins import load_plugins
    from diffexp.signals import end_on_signals, note_signals

    note_signals()
    load_plugins(plugins)
    from diffexp.reproduction.again import reproduce as train_again

    end_on_signals()
    same = train_again(run, overrides, seeds, list(plugins), click.echo)
    sys.exit(0 if same else 1)


@cli.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@_OVERRIDES
@_PLUGIN
def sample(run: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Draw images with a trained model.

    Keys: sampler.name, sampler.steps, sampler.eta, …; count, seed, weights (ema or raw), batch_size, and out:
    a .png (grid), an .npz or a folder of PNGs. Without out, the grid goes to the run's drawings/. overwrite=true
    replaces an earlier drawing.
    """
    from diffexp.config import load_sample_request
    from diffexp.config.plugins import load_plugins
    from diffexp.runs import find_checkpoint

    load_plugins(plugins)
    find_checkpoint(Path(run))
    from diffexp import sampling
    from diffexp.trained import build_trained, load_trained

    trained = load_trained(Path(run))
    request = load_sample_request(overrides, trained.experiment)
    out = Path(request.out) if request.out is not None else sampling.default_out(trained, request)
    sampling.check_out(out, overwrite=request.overwrite)
    model = build_trained(trained, request.weights, request.accelerator)
    sampling.save(sampling.draw(model, request), out, overwrite=request.overwrite)
    click.echo(f"{request.count} images: {out}")


@cli.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@_OVERRIDES
@_PLUGIN
def export(run: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Write a trained model's weights as safetensors, with its config inside: to hand over, to sample and to score.

    With format=diffusers, as a folder that diffusers' pipelines load.

    Keys: format (safetensors or diffusers), weights (ema or raw), out (a .safetensors, or a folder), overwrite (true
    replaces an earlier export).
    """
    from diffexp.config import load_export_request
    from diffexp.config.plugins import load_plugins
    from diffexp.runs import find_checkpoint

    load_plugins(plugins)
    find_checkpoint(Path(run))
    from diffexp.config.diffusion import DiffusionConfig
    from diffexp.exporting import export as write_export
    from diffexp.foreign.diffusers import how_to_load
    from diffexp.trained import load_trained

    trained = load_trained(Path(run))
    request = load_export_request(overrides, trained.experiment)
    out = write_export(trained, request)
    if request.format == "diffusers":
        assert isinstance(trained.experiment.model, DiffusionConfig)
        click.echo(f"{out}: {how_to_load(trained.experiment.model, out)}")
    else:
        click.echo(f"{out}: use it like a checkpoint, as in: diffexp sample {out}")


@cli.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@_OVERRIDES
@_PLUGIN
def import_(path: Path, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Take over the model of another library: a diffusers folder, or a checkpoint of the DDPM or DDIM authors' code.

    Keys: data.name (required: what it was trained on), out (a .safetensors), overwrite (true replaces an earlier
    import), image_size (of a checkpoint without a config); model.schedule.name, … where PATH does not tell them.
    """
    from diffexp.config import load_import_request
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    request, rest = load_import_request(overrides)
    from diffexp.importing import import_model

    out, config = import_model(path, request, rest)
    click.echo(f"{out}: use it like a checkpoint, as in: diffexp sample {out}")
    click.echo(f"{config}: says what it is, and trains on from it, as in: diffexp train {config}")


@cli.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@_OVERRIDES
@click.option("--table", metavar="FILE", help="What to evaluate: a YAML file or a name; of diffusion, ddim_table.")
@_TRIAL
@_PLUGIN
def evaluate(
    run: str,
    overrides: tuple[str, ...],
    table: str | None,
    trial: tuple[str, str] | None,
    plugins: tuple[str, ...],
) -> None:
    """Score many samplers from one checkpoint: the table of the DDIM paper.

    With sampler.name=… it scores that one, as a run of its own; with metrics=bpd it estimates the bits per dimension of
    real images instead.

    Keys: samplers, steps, spacings, count, blocks, seed, weights, extractor.name, reference.split, out, …;
    data.KEY=… where the data lies elsewhere now. An interrupted table is continued by the same command.
    """
    from diffexp.config import about_data, amended, load_evaluate_request
    from diffexp.config.layers import find_config
    from diffexp.config.plugins import load_plugins
    from diffexp.config.trials import Trial
    from diffexp.runs import find_checkpoint

    load_plugins(plugins)
    find_checkpoint(Path(run))
    from diffexp import evaluating, evaluating_one
    from diffexp.trained import load_trained

    trained = load_trained(Path(run))
    data, rest = about_data(overrides)
    trained = replace(trained, experiment=amended(trained.experiment, data))
    of_sweep = Trial.parse(*trial) if trial else None
    request = load_evaluate_request(table, rest, trained.experiment, of_sweep)
    if request.metrics == "bpd":
        from diffexp.likelihoods import evaluate_likelihood

        likelihood, folder = evaluate_likelihood(trained, request)
        click.echo(likelihood.markdown())
        click.echo(f"likelihood.json and likelihood.md: {folder}")
        return
    if request.sampler is not None:
        of_trial = f"{of_sweep.sweep}/{of_sweep.name}" if of_sweep else None
        cell, single = evaluating_one.evaluate_one(trained, request, of_trial, list(plugins))
        click.echo(f"{cell.row}, {cell.network_calls} network calls: fd {cell.mean('fd'):.4g}: {single.path}")
        return
    name = find_config(table or trained.experiment.model.usual_table).stem
    made, folder = evaluating.evaluate(trained, request, name)
    click.echo(made.markdown())
    click.echo(f"table.json, table.csv and table.md: {folder}")


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b")
@_OVERRIDES
@_PLUGIN
def score(a: Path, b: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Score the images A against B.

    A is a .npz, a folder or a zip of images. B is the same, a .npz with mu and sigma, or a CONFIG whose data is
    meant. Keys: extractor.name, count, reference.split, out (a .json), overwrite, …; data.KEY=… changes CONFIG's data.
    """
    from diffexp.config import about_data, load_experiment
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    from diffexp import scoring

    if scoring.is_images(Path(b)):
        result = scoring.score(a, Path(b), overrides)
    else:
        data, rest = about_data(overrides)
        result = scoring.score(a, load_experiment(b, data), rest)
    click.echo(result.text())


@cli.command()
@click.argument("config")
@_OVERRIDES
@_PLUGIN
def extractor(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Train a small classifier on the labels of CONFIG's data, to score small images with.

    Keys: name (required), features, steps, lr, …; data.KEY=… changes CONFIG's data.
    """
    from diffexp.config import load_extractor_training
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    experiment, wanted = load_extractor_training(config, overrides)
    from diffexp.evaluation.extractors.training import train_classifier

    trained = train_classifier(experiment.data, wanted)
    test = "no test split" if trained.test_accuracy is None else f"{trained.test_accuracy:.3f} of the test images"
    click.echo(f"{trained.path}: right about {trained.train_accuracy:.3f} of the training images, {test}")
    click.echo(f"use it with: extractor.name=classifier extractor.weights={trained.path}")


@cli.group()
def config() -> None:
    """Show, check and compare configs."""


@config.command()
@click.argument("config")
@_OVERRIDES
@_PLUGIN
def show(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Print CONFIG with every key written out."""
    from diffexp.config.merging import as_yaml

    click.echo(as_yaml(_load(config, overrides, plugins)), nl=False)


@config.command()
@click.argument("config")
@_OVERRIDES
@_PLUGIN
def check(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Say whether CONFIG is right; what is wrong otherwise."""
    _load(config, overrides, plugins)
    click.echo(f"{config}: is right")


@config.command()
@click.argument("first")
@click.argument("second")
@_PLUGIN
def diff(first: str, second: str, plugins: tuple[str, ...]) -> None:
    """Print just the keys in which two configs or runs differ."""
    from diffexp.config.merging import as_dict, differing

    one, two = (as_dict(_load(each, (), plugins)) for each in (first, second))
    for key, before, after in differing(one, two):
        click.echo(f"{key}: {_shown(before)} → {_shown(after)}")


def _load(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> Any:
    from diffexp.config import load_experiment
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    return load_experiment(config, overrides)


def _shown(value: Any) -> str:
    return "null" if value is None else "(none)" if value == "???" else str(value)


def _report(outcome: "Outcome", plugins: tuple[str, ...]) -> None:
    """Say where to look, what sampling cost, and how to go on."""
    run = outcome.run
    click.echo(f"\n{outcome.step} of {outcome.steps} steps done: {run.path}")
    if outcome.drawn:
        click.echo(f"\n{'sampler':<12} {'calls':>6} {'images':>7} {'seconds':>8}")
        for name, drawn in outcome.drawn.items():
            click.echo(f"{name:<12} {drawn.network_calls:>6} {drawn.images:>7} {drawn.seconds:>8.1f}")
        click.echo(f"\nlook at {run.samples / f'step-{outcome.step:08d}.png'}")
    if outcome.score is not None and outcome.score.scored:
        _report_scores(outcome.score)
    if outcome.stopped_by is not None:
        again = "".join(f" --plugin {module}" for module in plugins)
        click.echo(f"go on with: diffexp train {run.path} --resume{again}")


def _report_scores(score: "Score") -> None:
    """A table of the last scores, and what is needed to read them."""
    rules, scored = score.protocol(), list(score.scored.values())
    click.echo(f"\n{'scored sampler':<24} {'images':>7} {'seconds':>8}  {rules.metric('fd')}")
    for each in scored:
        fd = each.scores.fd
        row = f"{each.label:<24} {each.scores.count:>7} {each.seconds:>8.1f}"
        click.echo(f"{row}  {fd.value:.3g} ± {fd.error:.2g}")
    click.echo(
        f"\nstep {score.scored_step}, {score.weights} weights; lower is better, and a perfect generator would have "
        f"about {scored[0].scores.floor:.2g}; protocol {rules.id}"
    )


def main() -> None:
    """Run the command line; a user's mistake is one message and exit code 2, a failure around us one and 1."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        cli(standalone_mode=False)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OutsideError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in PASSING:
            raise
        click.echo(f"error: {error.filename or 'the disk'}: {error.strerror}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(128 + signal.SIGINT)
