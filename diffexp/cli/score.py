"""`diffexp score`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN

if TYPE_CHECKING:
    from diffexp.config.schemas.experiment import Experiment


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b")
@OVERRIDES
@PLUGIN
def score(a: Path, b: str, overrides: Sequence[str], plugins: tuple[str, ...]) -> None:
    """Score the images A against the reference B.

    \b
    A          .npz, folder or zip of images
    B          the same, .npz with mu and sigma, or a config or run for its data
    KEY=VALUE  key below, or data.KEY=… to change the data of the config B

    \b
    Common keys:
      extractor.name   feature extractor [default: the config's, else inception]
      count            images of A to score [default: all]
      reference.split  split of B's data [default: the config's, else train]
      out              NAME.json for the result [default: none]
      overwrite        true replaces an earlier result [default: false]

    \b
    Example:
      diffexp score samples.npz fashion_mnist out=scores.json
    """
    from diffexp.commands.score_request import checked_request, is_images
    from diffexp.config.load import about_data, load_data
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    second: Path | Experiment = Path(b)
    if not is_images(Path(b)):
        data, overrides = about_data(overrides)
        second = load_data(b, data)
    checked_request(a, second, overrides)  # report mistakes before torch is imported
    with quick_imports():
        from diffexp.commands.score import score as score_images

    click.echo(score_images(a, second, overrides).text())
