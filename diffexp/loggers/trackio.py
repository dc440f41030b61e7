"""The logger of trackio, a local tracker with W&B's interface (pip install 'diffexp[trackio]')."""

from collections.abc import Mapping, Sequence
from typing import Any

import trackio
from PIL import Image

from diffexp.loggers.base import LoggedRun, RunLogger


class TrackioLogger(RunLogger):
    """A run in a trackio project: `trackio show` opens the dashboard. TRACKIO_DIR sets the folder of the projects."""

    def __init__(self, run: LoggedRun) -> None:
        settings = run.settings
        # trackio resumes by name, and several runs may share one
        name = f"{run.name}-{run.id}"
        self.run = trackio.init(
            settings.project_name(), name=name, group=settings.group, config=run.config, resume="allow", embed=False
        )

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self.run.log(dict(values), step)

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB images by name."""
        self.run.log({name: trackio.Image(picture) for name, picture in images.items()}, step)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table."""
        if rows:
            data = [list(row.values()) for row in rows]
            self.run.log({name: trackio.Table(columns=list(rows[0]), data=data)}, 0)

    def finish(self, exit_code: int) -> None:
        """Finish the run."""
        self.run.finish()  # type: ignore[no-untyped-call]
