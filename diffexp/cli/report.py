"""`diffexp report` and `dashboard`. Commands import what they need when they run, so that help is fast."""

from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import PLUGIN
from diffexp.errors import requires_extra

_RUNS = click.argument("paths", metavar="RUN|SWEEP...", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.command()
@_RUNS
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="report.html",
    metavar="FILE",
    show_default=True,
    help="The page to write.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write every plot as SVG and PNG, and every table as Markdown and LaTeX.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@PLUGIN
def report(paths: tuple[Path, ...], out: Path, figures: Path | None, overwrite: bool, plugins: tuple[str, ...]) -> None:
    """Write an HTML report of runs or sweeps.

    The page is self-contained. It shows config differences, scores against network calls, training curves, samples from
    the same noise, noise schedules, cost, and the source of each number.

    \b
    RUN|SWEEP  directories of runs, or of sweeps (all started trials)

    \b
    Example:
      diffexp report runs/digits-1 runs/digits-2 --out digits.html
    """
    from diffexp.config.plugins import load_plugins
    from diffexp.runs.reader import read_runs
    from diffexp.system.files import check_writable, refuse_existing

    load_plugins(plugins)
    runs = read_runs(paths)
    check_writable(out, "--out")
    refuse_existing(out, "--out", overwrite=overwrite)
    with requires_extra("report", "report"), quick_imports():
        from diffexp.reports.page import write_figures, write_page

    written = write_figures(runs, figures, overwrite=overwrite) if figures is not None else []
    write_page(runs, out)
    click.echo(f"{len(runs)} run{'s' * (len(runs) > 1)}: {out}")
    if figures is not None:
        click.echo(f"{len(written)} files: {figures}")


@click.group()
def dashboard() -> None:
    """Save views of runs in W&B.

    \b
    Example:
      diffexp dashboard push runs/digits-1
    """


@dashboard.command()
@_RUNS
@click.option("--name", default="diffexp", show_default=True, help="Name of the view.")
@click.option("--entity", metavar="NAME", help="W&B entity. [default: that of the runs' configs, else yours]")
@click.option("--project", metavar="NAME", help="W&B project. [default: that of the runs' configs]")
def push(paths: tuple[Path, ...], name: str, entity: str | None, project: str | None) -> None:
    """Save a view of the runs' W&B project.

    The view shows loss, scores by sampler, swept keys, samples and config differences. It requires pip
    install 'diffexp[dashboard]' and a W&B login.

    \b
    RUN|SWEEP  directories of runs, or of sweeps (all started trials)

    \b
    Example:
      diffexp dashboard push runs/timesteps --name timesteps
    """
    from diffexp.reports.dashboard import push_view
    from diffexp.runs.reader import read_runs

    click.echo(push_view(read_runs(paths), name, entity, project))
