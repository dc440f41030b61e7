"""Options and arguments that several commands take."""

import click

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
PLUGIN = click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Import a module of yours first.")
TRIAL = click.option(
    "--trial", nargs=2, metavar="SWEEP PARAMETERS", help="Run as a trial of a sweep, with these values (JSON)."
)
