"""Options and arguments that several commands share."""

import click

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
PLUGIN = click.option(
    "--plugin", "plugins", multiple=True, metavar="MODULE", help="Import this Python module first; repeatable."
)
TRIAL = click.option(
    "--trial", nargs=2, metavar="SWEEP PARAMETERS", help="Run as a trial of SWEEP, with these values (a JSON object)."
)
SWEEP = click.argument("sweep_file", metavar="FILE|DIR")
