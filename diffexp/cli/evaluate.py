"""`diffexp evaluate`."""

from dataclasses import replace
from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN, TRIAL


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@OVERRIDES
@click.option(
    "--table",
    metavar="FILE",
    help="Table to evaluate: a YAML file or a ready config. [default: evaluate/eta for diffusion, evaluate/eta_latent "
    "for latent diffusion, evaluate/usual for other models]",
)
@TRIAL
@PLUGIN
def evaluate(
    run: str,
    overrides: tuple[str, ...],
    table: str | None,
    trial: tuple[str, str] | None,
    plugins: tuple[str, ...],
) -> None:
    """Score many samplers from one checkpoint.

    The table has samplers as rows and numbers of steps as columns, as in the DDIM paper. The same command
    resumes an interrupted table. sampler.name=… scores that sampler alone, in a separate run. metrics=bpd estimates the
    bits per dimension of real images instead.

    \b
    RUN|CHECKPOINT  run directory (latest checkpoint), checkpoint or exported file
    KEY=VALUE       key below, or data.KEY=… if the data has moved

    \b
    Common keys:
      samplers, steps, spacings
                       rows and columns of the table [default: those of --table]
      count            images per score [default: 1000]
      repeats          scores per sampler, of disjoint images [default: 3]
      seed             seed of the starting noise [default: 0]
      weights          ema or raw [default: ema]
      extractor.name   feature extractor [default: the training's, else inception]
      reference.split  split of real images [default: the training's, else train]
      out              folder [default: evaluations/NAME in the run's directory]

    \b
    Example:
      diffexp evaluate runs/digits-1 count=1000 repeats=3
    """
    from diffexp.checkpoints.paths import find_checkpoint
    from diffexp.checkpoints.stored_config import stored_experiment
    from diffexp.config.check import check_request
    from diffexp.config.load import about_data, amended, load_evaluate_request
    from diffexp.config.plugins import load_plugins
    from diffexp.config.schemas.samplers import check_class_names
    from diffexp.config.sources import find_config
    from diffexp.config.trial import Trial

    load_plugins(plugins)
    find_checkpoint(Path(run))
    data, rest = about_data(overrides)
    of_sweep = Trial.parse(*trial) if trial else None
    stored = stored_experiment(Path(run))
    if stored is not None:  # report mistakes before torch is imported
        stored = amended(stored, data)
        check_request(load_evaluate_request(table, rest, stored, of_sweep), stored)
    with quick_imports():
        from diffexp.checkpoints.load import load_trained
        from diffexp.commands import evaluate, evaluate_sampler

    trained = load_trained(Path(run))
    trained = replace(trained, experiment=amended(trained.experiment, data))
    request = load_evaluate_request(table, rest, trained.experiment, of_sweep)
    check_class_names({"sampler": request.sampler}, "", trained.class_names)
    check_class_names(request.samplers, "samplers", trained.class_names)
    if request.metrics == "bpd":
        from diffexp.commands.likelihood import evaluate_likelihood

        likelihood, folder = evaluate_likelihood(trained, request)
        click.echo(likelihood.markdown())
        click.echo(f"likelihood.json and likelihood.md: {folder}")
        return
    if request.sampler is not None:
        of_trial = f"{of_sweep.sweep}/{of_sweep.name}" if of_sweep else None
        entry, single = evaluate_sampler.evaluate_one(trained, request, of_trial, list(plugins))
        click.echo(f"{entry.row}, {entry.network_calls} network calls: fd {entry.mean('fd'):.4g}: {single.path}")
        return
    name = find_config(table or trained.experiment.model.default_table).stem
    made, folder = evaluate.evaluate(trained, request, name)
    click.echo(made.markdown())
    click.echo(f"table.json, table.csv and table.md: {folder}")
