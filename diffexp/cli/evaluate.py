"""`diffexp evaluate`."""

from dataclasses import replace
from pathlib import Path

import click

from diffexp.cli.options import OVERRIDES, PLUGIN, TRIAL


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@OVERRIDES
@click.option("--table", metavar="FILE", help="What to evaluate: a YAML file or a name; of diffusion, ddim_table.")
@TRIAL
@PLUGIN
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

    Keys: samplers, steps, spacings, count, repeats, seed, weights, extractor.name, reference.split, out, …;
    data.KEY=… if the data has moved. The same command resumes an interrupted table.
    """
    from diffexp.checkpoints.paths import find_checkpoint
    from diffexp.config.load import about_data, amended, load_evaluate_request
    from diffexp.config.plugins import load_plugins
    from diffexp.config.sources import find_config
    from diffexp.config.trial import Trial

    load_plugins(plugins)
    find_checkpoint(Path(run))
    from diffexp.checkpoints.load import load_trained
    from diffexp.commands import evaluate, evaluate_sampler

    trained = load_trained(Path(run))
    data, rest = about_data(overrides)
    trained = replace(trained, experiment=amended(trained.experiment, data))
    of_sweep = Trial.parse(*trial) if trial else None
    request = load_evaluate_request(table, rest, trained.experiment, of_sweep)
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
