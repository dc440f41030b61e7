"""`diffexp import`."""

from pathlib import Path

import click

from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@OVERRIDES
@PLUGIN
def import_(path: Path, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Take over the model of another library: a diffusers folder, or a checkpoint of the DDPM or DDIM authors' code.

    Keys: data.name (required: what it was trained on), out (a .safetensors), overwrite (true replaces an earlier
    import), image_size (of a checkpoint without a config); model.schedule.name, … where PATH does not tell them.
    """
    from diffexp.config.load import load_import_request
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    request, rest = load_import_request(overrides)
    from diffexp.commands.import_ import import_model

    out, config = import_model(path, request, rest)
    click.echo(f"{out}: use it like a checkpoint, as in: diffexp sample {out}")
    click.echo(f"{config}: says what it is, and trains on from it, as in: diffexp train {config}")
