"""`diffexp compare`."""

import click

from diffexp.cli.options import PLUGIN


@click.command()
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@click.option("--metric", metavar="NAME", help="Measure of the verdict. [default: the sweep's metric, else a score]")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@PLUGIN
def compare(groups: tuple[str, ...], metric: str | None, as_json: bool, plugins: tuple[str, ...]) -> None:
    """Compare runs, groups of seeds, or sweeps, and say which is better.

    Tables show what differs: configs, scores, cost and versions. Another one has the measures that all groups share,
    with differences, 95 % intervals and p-values. The last sentence says better, worse, or not distinguishable, and how
    many seeds or images would decide it. Differences are paired by seed, or by image with one seed each.

    The exit code is 0 for each verdict.

    \b
    GROUP  one of
             directory of a run
             runs that differ only in seeds: RUN,RUN,… or a wildcard in quotes
             directory of a sweep; two sweeps are compared setting by setting,
             one alone by its settings

    \b
    Example:
      diffexp compare runs/digits-1 runs/digits-2
    """
    from diffexp.commands.compare import compare_groups
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    comparison = compare_groups(groups, metric)
    click.echo(comparison.json() if as_json else comparison.text(), nl=False)
