"""`diffexp import`."""

from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@OVERRIDES
@PLUGIN
def import_(path: Path, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Import a diffusers folder or a DDPM or DDIM checkpoint.

    Writes NAME.safetensors, which every command takes like a checkpoint, and NAME.yaml, a config whose
    training starts from these weights.

    \b
    PATH       diffusers folder, or checkpoint of the DDPM or DDIM authors' code
    KEY=VALUE  one of the keys below, or any config key that PATH does not
               determine, such as model.schedule.name

    \b
    Keys:
      data.name   data that the model was trained on (required)
      out         NAME.safetensors [default: named after PATH]
      overwrite   true replaces an earlier import [default: false]
      image_size  of a checkpoint without a config [default: the size at which its
                  attention is at 16 pixels]

    \b
    Example:
      diffexp import ddpm-cifar10-32 data.name=cifar10
    """
    from diffexp.commands.import_out import check_import
    from diffexp.config.load import load_import_request
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    request, rest = load_import_request(overrides)
    check_import(path, request)  # report mistakes before torch is imported
    with quick_imports():
        from diffexp.commands.import_ import import_model

    out, config = import_model(path, request, rest)
    click.echo(f"{out}: use it like a checkpoint, as in: diffexp sample {out}")
    click.echo(f"{config}: start training from it, as in: diffexp train {config}")
