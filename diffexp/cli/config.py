"""`diffexp config list`, `show`, `check` and `diff`."""

from collections.abc import Iterable
from typing import Any

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.group()
def config() -> None:
    """List, show, validate and compare configs.

    \b
    Example:
      diffexp config diff digits fashion_mnist
    """


@config.command(name="list")
@PLUGIN
def list_(plugins: tuple[str, ...]) -> None:
    """List the ready configs, tables and sweeps, and the components that configs choose by name.

    \b
    Example:
      diffexp config list
    """
    from diffexp.config.plugins import load_plugins
    from diffexp.config.schemas.data import DATA
    from diffexp.config.schemas.extractors import EXTRACTORS
    from diffexp.config.schemas.loggers import LOGGERS
    from diffexp.config.schemas.models.base import MODELS
    from diffexp.config.schemas.networks import AUTOREGRESSIVE_NETWORKS, NETWORKS
    from diffexp.config.schemas.samplers import SAMPLERS
    from diffexp.config.schemas.schedules import SCHEDULES
    from diffexp.config.schemas.weightings import WEIGHTINGS
    from diffexp.config.sources import description, ready_configs
    from diffexp.sweeps.plan import shipped_sweeps

    load_plugins(plugins)
    described = {name: description(file) for name, file in ready_configs().items()}
    tables = {name: text for name, text in described.items() if name.startswith("evaluate/")}
    bases = {name: text for name, text in described.items() if text.startswith("Shared by")}
    configs = {name: text for name, text in described.items() if name not in {**tables, **bases}}
    sweeps = {file.stem: description(file) for file in sorted(shipped_sweeps().glob("*.yaml"))}
    registries = (
        *(DATA, MODELS, SCHEDULES, NETWORKS, AUTOREGRESSIVE_NETWORKS, WEIGHTINGS, SAMPLERS, EXTRACTORS, LOGGERS),
    )
    _list("Ready configs (diffexp train NAME)", configs.items())
    _list("Bases of configs (base: [NAME])", bases.items())
    _list("Tables (diffexp evaluate RUN --table NAME)", tables.items())
    _list("Ready sweeps (diffexp sweep run NAME)", sweeps.items())
    _list("Components (the values of name:)", ((each.group, ", ".join(each.names)) for each in registries))


def _list(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print a title and a list of names and their descriptions, wrapped to the terminal."""
    formatter = click.get_current_context().make_formatter()
    with formatter.section(title):
        formatter.write_dl(list(rows), col_max=38)
    click.echo(formatter.getvalue())


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
@click.option(
    "--data",
    is_flag=True,
    help="Also read the images, build the model and measure a few steps; describe them as train does.",
)
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

    A config may lack required keys, such as data.path; its values are then shown unchecked.

    \b
    FIRST, SECOND  YAML file, run directory, or name of a ready config

    \b
    Example:
      diffexp config diff digits runs/digits-1
    """
    from diffexp.config.load import load_values
    from diffexp.config.merge import differing
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    for key, before, after in differing(load_values(first), load_values(second)):
        click.echo(f"{key}: {_shown(before)} → {_shown(after)}")


def _load(config: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> Any:
    from diffexp.config.load import load_experiment
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    return load_experiment(config, overrides)


def _shown(value: Any) -> str:
    return "null" if value is None else "(none)" if value == "???" else str(value)
