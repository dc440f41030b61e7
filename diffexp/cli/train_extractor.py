"""`diffexp extractor`."""

import click

from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("config")
@OVERRIDES
@PLUGIN
def extractor(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Train a small classifier on the labels of CONFIG's data, to score small images with.

    Keys: name (required), features, steps, lr, …; data.KEY=… changes CONFIG's data.
    """
    from diffexp.config.load import load_extractor_training
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    experiment, wanted = load_extractor_training(config, overrides)
    from diffexp.commands.train_extractor import train_classifier

    trained = train_classifier(experiment.data, wanted)
    test = "no test split" if trained.test_accuracy is None else f"{trained.test_accuracy:.3f} of the test images"
    click.echo(f"{trained.path}: right about {trained.train_accuracy:.3f} of the training images, {test}")
    click.echo(f"use it with: extractor.name=classifier extractor.weights={trained.path}")
