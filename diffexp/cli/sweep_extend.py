"""`diffexp sweep extend`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from diffexp.cli.options import OVERRIDES, PLUGIN, SWEEP
from diffexp.config.plugins import load_plugins
from diffexp.errors import UserError

if TYPE_CHECKING:
    from diffexp.sweeps.extend import Extension


@click.command()
@SWEEP
@OVERRIDES
@click.option("--seeds", type=click.IntRange(2), metavar="N", help="Seeds of each setting, existing ones included.")
@click.option(
    "--trials", type=click.IntRange(1), metavar="N", help="Trials of a search (run_cap), existing ones included."
)
@click.option("--print", "printed", is_flag=True, help="Print what the command would add, and add nothing.")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@PLUGIN
def extend(
    sweep_file: str,
    overrides: tuple[str, ...],
    seeds: int | None,
    trials: int | None,
    printed: bool,
    yes: bool,
    plugins: tuple[str, ...],
) -> None:
    """Add seeds, values or trials to a planned sweep.

    Existing trials and their results stay. `run` or `submit` then trains only the new ones.

    \b
    FILE|DIR   sweep file, name of a ready sweep, or directory of a planned sweep
    KEY=VALUE  further values of a swept key, separated by commas

    \b
    Example:
      diffexp sweep extend runs/timesteps --seeds 5 model.timesteps=2000
    """
    from diffexp.sweeps.extend import Growth, extension
    from diffexp.sweeps.extend import extend as add
    from diffexp.sweeps.plan import open_sweep

    load_plugins(plugins)
    growth = Growth(seeds, trials, _values(overrides))
    if growth == Growth():
        raise UserError("diffexp sweep extend: expected --seeds, --trials or KEY=V1,V2, got none. Give one.")
    opened = open_sweep(sweep_file)
    found = extension(opened, growth)
    click.echo(_described(found))
    if printed or not found.count:
        return
    if sys.stdin.isatty() and not yes and not click.confirm("add them?"):
        return
    extended = add(opened, growth)
    click.echo(
        f"{extended.path}: {len(extended)} trials; train the new ones with: diffexp sweep run {extended.path}, "
        "or submit. A `diffexp sweep run` that is running includes them."
    )


def _values(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Parse KEY=V1,V2."""
    from diffexp.config.sources import parse_value

    found: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        values = parse_value(f"[{listed}]", key)[0] if key and listed else None
        if not isinstance(values, list):
            raise UserError(f"command line: expected KEY=V1,V2 with a swept key, got {text!r}.")
        found.setdefault(key, []).extend(values)
    return found


def _described(found: "Extension") -> str:
    """Describe what an extension adds, and what it costs."""
    from diffexp.sweeps.state import ENDED, read_state

    sweep = found.sweep
    ended = sum(read_state(trial).state in ENDED for trial in sweep.trials())
    if not found.count:
        return f"{sweep.path}: adds nothing: its {len(sweep)} trials include all of these ({ended} have ended)"
    new = "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in found.new_values().items())
    work = found.content()["work"]
    return (
        f"{sweep.path}: adds {found.count} trials to {len(sweep)}{': ' if new else ''}{new}; {ended} of the "
        f"{len(sweep)} have ended\nwork: {work['training']:,} training images, and {work['sampling']:,} network calls "
        "on one image each for sampling"
    )
