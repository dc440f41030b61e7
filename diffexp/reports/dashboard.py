"""Save a view of a W&B project that shows runs as the HTML reports do."""

from collections.abc import Sequence

import wandb

from diffexp.config.schemas.common import WandbConfig
from diffexp.errors import EnvironmentFailure, UserError, requires_extra
from diffexp.loggers.wandb import STEP_IN_WANDB
from diffexp.reports.groups import differing_settings, grouped
from diffexp.runs.reader import RunReader


def push_view(runs: Sequence[RunReader], name: str, entity: str | None, project: str | None) -> str:
    """Save a view with sections for loss, scores, swept keys, samples and configs, and return its URL.

    If some of the runs differ only in seeds, the view groups the runs by all other differing keys. Its plots then show
    the mean of each group and a band of its standard error; W&B has no t-interval.

    Args:
        runs: the runs; the view shows their metrics, samplers and differing keys, and if they share one W&B group, only
            that group.
        name: the name of the view.
        entity: the W&B entity; None for that of the runs' configs, else the user's.
        project: the W&B project; None for that of the runs' configs.

    Raises:
        UserError: if the extra is not installed, or the runs belong to several projects.
        EnvironmentFailure: if W&B cannot save the view.
    """
    with requires_extra("dashboard", "dashboard"):
        import wandb_workspaces.expr as expressions
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as views
    project = project or _project(runs)
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.names()))
    distances = [m for m in metrics if m.startswith("score/") and m.split("/")[-1].startswith(("fd_", "fid"))]
    curves = [m for m in distances if "_error_" not in m and "_floor_" not in m and not m.endswith("_best")]
    best = [m for m in distances if m.endswith("_best") and m.count("/") == 1]
    samplers = list(dict.fromkeys(f"samples/{sampler}" for run in runs for sampler in run.grids))
    step = STEP_IN_WANDB
    settings = differing_settings(runs)
    swept = [panels.ParallelCoordinatesPlotColumn(panels.Config(key)) for key in settings]
    swept += [panels.ParallelCoordinatesPlotColumn(panels.SummaryMetric(each)) for each in best]
    replicated = len(grouped(runs)) < len(runs)
    # runs of one setting have one dataset, by which they form one group
    keys = list(settings) or ["data.name"]
    over_seeds = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"} if replicated else {}
    losses = [
        panels.LinePlot(title=title, x=step, y=names, log_y=True, **over_seeds)
        for title, names in (
            ("Training loss", [m for m in metrics if m == "train/loss"]),
            ("by quarter of t", [m for m in metrics if m.startswith("train/loss_q")]),
        )
        if names
    ]
    scores = [panels.LinePlot(title=each.split("/")[1], x=step, y=[each], log_y=True, **over_seeds) for each in curves]
    sections = [
        ("Loss", losses),
        ("Scores by sampler", scores),
        ("Swept keys", [panels.ParallelCoordinatesPlot(columns=swept)] if len(swept) > 1 else []),
        ("Samples", [panels.MediaBrowser(media_keys=[each], num_columns=2) for each in samplers]),
        ("Configs", [panels.RunComparer(diff_only="split")]),
    ]
    groups = {run.setting("wandb", "group") for run in runs}
    group = groups.pop() if len(groups) == 1 else None
    try:
        view = views.Workspace(
            entity=entity or _entity(runs) or wandb.Api().default_entity or "",
            project=project,
            name=name,
            sections=[views.Section(title, found, is_open=True) for title, found in sections if found],
            runset_settings=views.RunsetSettings(
                filters=f"Group == '{group}'" if group else "",
                groupby=[expressions.Config(key) for key in keys] if replicated else [],
            ),
        )
        view.save()
        return str(view.url)
    except Exception as error:  # of its client, the network, the server
        raise EnvironmentFailure(
            f"dashboard: W&B cannot save the view: {error}. Check the login and the connection."
        ) from error


def _project(runs: Sequence[RunReader]) -> str:
    found = {run.setting("wandb", "project") for run in runs} - {None} or {WandbConfig().project_name()}
    if len(found) != 1:
        raise UserError(f"dashboard: expected runs of one W&B project, got {len(found)} projects. Give --project.")
    return str(found.pop())


def _entity(runs: Sequence[RunReader]) -> str | None:
    found = {run.setting("wandb", "entity") for run in runs} - {None}
    return str(found.pop()) if len(found) == 1 else None
