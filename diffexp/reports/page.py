"""Write one self-contained HTML page about runs, which needs no network and supports light, dark and print."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

import diffexp
from diffexp.errors import writing
from diffexp.formatting import Table
from diffexp.reports.figure import Drawing, slug
from diffexp.reports.groups import differing_keys, grouped
from diffexp.reports.images import strips
from diffexp.reports.plots import noise_schedules, score_plots, training_curves
from diffexp.reports.schedules import schedules, terminal_signals
from diffexp.reports.tables import comparable, cost, environments, likelihoods, overview
from diffexp.reports.validation_plots import validation_plots
from diffexp.runs.reader import RunReader
from diffexp.system.files import atomic_write, atomic_write_text, refuse_existing


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, then plots, then tables."""

    title: str
    plots: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


def sections(runs: Sequence[RunReader]) -> list[Section]:
    """Return the sections about these runs that have any recorded content."""
    groups, curves = comparable(runs), schedules(runs)
    bits = likelihoods(runs)
    found = [
        Section("What differs" if len(runs) > 1 else "The run", (), [overview(runs)]),
        *(Section(f"Scores, {group.title}", score_plots(group, runs), [group.table(runs)]) for group in groups),
        Section("Curves", training_curves(runs)),
        Section("Held-out loss", validation_plots(runs)),
        *([Section("Likelihood", (), [bits])] if bits else []),
        *([Section("Noise schedules", [noise_schedules(curves)], [terminal_signals(curves)])] if curves else []),
        Section("Cost", (), [cost(runs)]),
        Section("Versions and machines", (), [environments(runs)]),
    ]
    return [each for each in found if each.plots or each.tables]


def write_page(runs: Sequence[RunReader], out: Path) -> None:
    """Write the page.

    Raises:
        UserError: if it cannot be written.
        EnvironmentFailure: if the disk is full or failing.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    here = files("diffexp.reports")
    grids, omitted = strips(runs)
    settings = grouped(runs)
    text = environment.from_string((here / "page.html").read_text("utf-8")).render(
        style=Markup((here / "page.css").read_text("utf-8")),
        script=Markup((here / "page.js").read_text("utf-8")),
        runs=runs,
        settings=settings,
        setting_of={index: number for number, each in enumerate(settings) for index in each.indices},
        same=len(runs) > 1 and not differing_keys(runs),
        sections=sections(runs),
        strips=[(strip, strip.data()) for strip in grids],
        steps=sorted({step for strip in grids for step, _ in strip.pictures}),
        omitted=omitted,
        configs=[run.run.config.read_text() for run in runs],
        version=diffexp.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        svg=lambda plot: Markup(plot.svg()),
        slug=slug,
    )
    with writing(f"out: {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, text)


def write_figures(runs: Sequence[RunReader], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every plot as SVG and PNG and every table as Markdown and LaTeX, and return the files.

    Raises:
        UserError: if a file exists and `overwrite` is false, before any is written, or if one cannot be written.
        EnvironmentFailure: if the disk is full or failing.
    """
    contents: dict[Path, bytes] = {}
    for section in sections(runs):
        for plot in section.plots:
            contents |= {folder / f"{slug(plot.title)}.{suffix}": content for suffix, content in plot.files().items()}
        for table in section.tables:
            name = slug(table.title)
            contents |= {
                folder / f"{name}.md": table.markdown().encode(),
                folder / f"{name}.tex": table.latex().encode(),
            }
    for path in contents:
        refuse_existing(path, "--figures", overwrite=overwrite)
    with writing(f"figures: {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            with atomic_write(path) as file:
                file.write(content)
    return list(contents)
