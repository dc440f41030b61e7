"""The MLflow logger (pip install 'diffexp[mlflow]')."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from PIL import Image

from diffexp.config.trial import leaves
from diffexp.loggers.base import LoggedRun, RunLogger

_LONGEST = 6000  # characters of a parameter's value


class MLflowLogger(RunLogger):
    """A run in the MLflow experiment named by the config's project.

    MLFLOW_TRACKING_URI sets the server or database; MLflow's default is mlflow.db in the current folder, which
    `mlflow ui` shows.
    """

    def __init__(self, run: LoggedRun) -> None:
        uri = mlflow.get_tracking_uri()
        local = uri.removeprefix("sqlite:///")
        # the lock stops concurrent trials from all creating the database or the experiment
        with FileLock(f"{local}.lock") if local != uri else nullcontext():
            self.client = MlflowClient(uri)
            experiment_id = self._experiment(run.settings.project_name())
        found = self.client.search_runs([experiment_id], f"tags.diffexp_run = '{run.id}'", max_results=1)
        if found:
            self.id = found[0].info.run_id
            self.client.update_run(self.id, "RUNNING")
            return
        tags = {"diffexp_run": run.id, "group": run.settings.group or "", "job_type": run.settings.job_type or ""}
        self.id = self.client.create_run(experiment_id, tags=tags, run_name=run.name).info.run_id
        params = [Param(".".join(path), str(value)[:_LONGEST]) for path, value in leaves(run.config)]
        self.client.log_batch(self.id, params=params)

    def _experiment(self, project: str) -> str:
        """Return the id of a project's experiment, which is created if missing."""
        found = self.client.get_experiment_by_name(project)
        if found is None:
            try:
                return str(self.client.create_experiment(project))
            except Exception:  # another process may have created it on a server meanwhile
                found = self.client.get_experiment_by_name(project)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(name, value, now, step) for name, value in values.items()])

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB images by name."""
        for name, picture in images.items():
            self.client.log_image(self.id, picture, key=name, step=step)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table as an artifact."""
        self.client.log_dict(self.id, {"rows": [dict(row) for row in rows]}, f"{name}.json")

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add values to the run's tags, because MLflow's parameters are immutable."""
        for name, value in values.items():
            self.client.set_tag(self.id, name, str(value))

    def finish(self, exit_code: int) -> None:
        """Finish the run."""
        status = {0: "FINISHED", 1: "FAILED"}.get(exit_code, "KILLED")
        self.client.set_terminated(self.id, status)
