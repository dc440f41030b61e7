"""`diffexp reproduce`."""

import sys

import click

from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT|WANDB_RUN")
@OVERRIDES
@click.option(
    "--seeds", type=click.IntRange(0), default=0, metavar="N", help="If it differs, measure the spread of N more seeds."
)
@PLUGIN
def reproduce(run: str, overrides: tuple[str, ...], seeds: int, plugins: tuple[str, ...]) -> None:
    """Repeat a recorded training and compare the results.

    List first what differs in settings, versions and machine. Exit code 0: equal bit for bit, or within the spread of
    the scores; 1: different. WANDB_RUN is ENTITY/PROJECT/ID, or its address.
    """
    from diffexp.config.plugins import load_plugins
    from diffexp.system.signals import defer_signals, exit_on_signal

    defer_signals()
    load_plugins(plugins)
    from diffexp.commands.reproduce import reproduce as train_again

    exit_on_signal()
    same = train_again(run, overrides, seeds, list(plugins), click.echo)
    sys.exit(0 if same else 1)
