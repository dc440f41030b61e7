"""`diffexp export`."""

from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@OVERRIDES
@PLUGIN
def export(run: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Export a trained model as one file or as a diffusers folder.

    The safetensors file holds the weights and the config; every command takes it like a checkpoint. diffusers'
    pipelines load the folder that format=diffusers writes.

    \b
    RUN|CHECKPOINT  run directory (latest checkpoint), checkpoint or exported file
    KEY=VALUE       one of the keys below

    \b
    Keys:
      format     safetensors or diffusers [default: safetensors]
      weights    ema or raw [default: ema]
      out        NAME.safetensors, or a folder [default: in the run's directory]
      overwrite  true replaces an earlier export [default: false]

    \b
    Example:
      diffexp export runs/digits-1 out=digits.safetensors
    """
    from diffexp.checkpoints.paths import find_checkpoint
    from diffexp.checkpoints.stored_config import stored_experiment
    from diffexp.commands.export_out import check_export
    from diffexp.config.load import load_export_request
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    find_checkpoint(Path(run))
    experiment = stored_experiment(Path(run))
    if experiment is not None:  # report mistakes before torch is imported
        check_export(experiment, load_export_request(overrides, experiment))
    with quick_imports():
        from diffexp.checkpoints.load import load_trained
        from diffexp.commands.export import export as write_export
        from diffexp.config.schemas.models.diffusion import DiffusionConfig
        from diffexp.convert.diffusers import how_to_load

    trained = load_trained(Path(run))
    request = load_export_request(overrides, trained.experiment)
    out = write_export(trained, request)
    if request.format == "diffusers":
        assert isinstance(trained.experiment.model, DiffusionConfig)
        click.echo(f"{out}: {how_to_load(trained.experiment.model, out)}")
    else:
        click.echo(f"{out}: use it like a checkpoint, as in: diffexp sample {out}")
