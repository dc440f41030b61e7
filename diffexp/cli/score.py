"""`diffexp score`."""

from pathlib import Path

import click

from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b")
@OVERRIDES
@PLUGIN
def score(a: Path, b: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Score the images A against B.

    A is a .npz, a folder or a zip of images. B is the same, a .npz with mu and sigma, or a CONFIG whose data is
    meant. Keys: extractor.name, count, reference.split, out (a .json), overwrite, …; data.KEY=… changes CONFIG's data.
    """
    from diffexp.config.load import about_data, load_experiment
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    from diffexp.commands import score

    if score.is_images(Path(b)):
        result = score.score(a, Path(b), overrides)
    else:
        data, rest = about_data(overrides)
        result = score.score(a, load_experiment(b, data), rest)
    click.echo(result.text())
