"""The logger of metrics.csv."""

from collections.abc import Mapping

from lightning.pytorch import loggers as lightning

from diffexp.loggers.base import LoggedRun, RunLogger


class CSVLogger(RunLogger):
    """The file metrics.csv in the run's directory."""

    def __init__(self, run: LoggedRun) -> None:
        self.file = lightning.CSVLogger(run.folder, name="", version="", flush_logs_every_n_steps=1)
        for row in run.rows:  # Lightning's logger replaces the file
            self.log_scalars({key: value for key, value in row.items() if key != "step"}, row["step"])

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write a row."""
        self.file.log_metrics(dict(values), step)

    def save(self) -> None:
        """Write the file."""
        self.file.save()
