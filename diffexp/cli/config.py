"""`diffexp config show`, `check` and `diff`."""

from typing import Any

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.group()
def config() -> None:
    """Show, validate and compare configs.

    \b
    Example:
      diffexp config diff digits fashion_mnist
    """


@config.command()
@click.argument("config")
@OVERRIDES
@PLUGIN
def show(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Print CONFIG with every key, defaults included.

    \b
    CONFIG     YAML file, run directory, or name of a ready config (digits, …)
    KEY=VALUE  override of a dotted config key

    \b
    Example:
      diffexp config show digits optim.lr=1e-3
    """
    from diffexp.config.merge import as_yaml

    click.echo(as_yaml(_load(config, overrides, plugins)), nl=False)


@config.command()
@click.argument("config")
@OVERRIDES
@click.option("--data", is_flag=True, help="Also read the images, build the model and describe both, as train does.")
@PLUGIN
def check(config: str, overrides: tuple[str, ...], data: bool, plugins: tuple[str, ...]) -> None:
    """Validate CONFIG, look for the files and packages that it names, and list any errors.

    \b
    CONFIG     YAML file, run directory, or name of a ready config (digits, …)
    KEY=VALUE  override of a dotted config key

    \b
    Example:
      diffexp config check digits model.timesteps=100
    """
    from diffexp.config.check import check_experiment

    experiment = _load(config, overrides, plugins)
    check_experiment(experiment)
    if data:
        with quick_imports():
            from diffexp.commands.overview import check_data

        click.echo(check_data(experiment))
    click.echo(f"{config}: valid")


@config.command()
@click.argument("first")
@click.argument("second")
@PLUGIN
def diff(first: str, second: str, plugins: tuple[str, ...]) -> None:
    """Print only the keys in which two configs or runs differ.

    \b
    FIRST, SECOND  YAML file, run directory, or name of a ready config

    \b
    Example:
      diffexp config diff digits runs/digits-1
    """
    from diffexp.config.merge import as_dict, differing

    one, two = (as_dict(_load(each, (), plugins)) for each in (first, second))
    for key, before, after in differing(one, two):
        click.echo(f"{key}: {_shown(before)} → {_shown(after)}")


def _load(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> Any:
    from diffexp.config.load import load_experiment
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    return load_experiment(config, overrides)


def _shown(value: Any) -> str:
    return "null" if value is None else "(none)" if value == "???" else str(value)
