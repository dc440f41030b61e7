"""`diffexp extractor`."""

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("config")
@OVERRIDES
@PLUGIN
def extractor(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Train a small classifier as an extractor for scores.

    It learns the labels of CONFIG's data; scores use its features.

    \b
    CONFIG     YAML file, run directory, or name of a ready config (digits, …)
    KEY=VALUE  one of the keys below, or data.KEY=… to change CONFIG's data

    \b
    Common keys:
      name      in the names of the metrics, fd_NAME (required)
      features  width of the feature layer [default: 128]
      steps     optimiser steps [default: 1400]
      lr        largest learning rate [default: 0.003]
      out       file to write [default: NAME.safetensors]

    \b
    Example:
      diffexp extractor digits name=mine features=32 steps=600
    """
    from diffexp.config.check import check_data
    from diffexp.config.load import load_extractor_training
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    experiment, wanted = load_extractor_training(config, overrides)
    check_data(experiment)
    with quick_imports():
        from diffexp.commands.train_extractor import train_classifier

    trained = train_classifier(experiment.data, wanted)
    test = "no test split" if trained.test_accuracy is None else f"{trained.test_accuracy:.3f} on the test images"
    click.echo(f"{trained.path}: accuracy {trained.train_accuracy:.3f} on the training images, {test}")
    click.echo(f"use it with: extractor.name=classifier extractor.weights={trained.path}")
