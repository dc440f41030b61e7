"""`diffexp score`."""

from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b")
@OVERRIDES
@PLUGIN
def score(a: Path, b: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
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
    from diffexp.config.load import about_data, load_data
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    with quick_imports():
        from diffexp.commands import score

    if score.is_images(Path(b)):
        result = score.score(a, Path(b), overrides)
    else:
        data, rest = about_data(overrides)
        result = score.score(a, load_data(b, data), rest)
    click.echo(result.text())
