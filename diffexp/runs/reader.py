"""Read a run directory as plain data, so that runs of other versions or with plugins can be reported, too."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import stdev
from typing import Any

from diffexp.config.load import load_experiment
from diffexp.config.merge import as_dict
from diffexp.config.renamed import with_current_names
from diffexp.config.sources import parse_yaml
from diffexp.errors import UserError
from diffexp.runs.directory import Run, grids
from diffexp.runs.metrics import read_metrics
from diffexp.system.locks import in_use


@dataclass(frozen=True)
class RecordedScore:
    """The Fréchet distance of one sampler's images; lower is better.

    Attributes:
        sampler: the sampler's name and keys, without the steps.
        network_calls: network calls per image.
        step: the training step.
        weights: "ema" or "raw".
        metric: the name of the distance, with extractor and count.
        protocol: the id of the protocol; scores of different protocols are not comparable.
        value: the distance, or its mean over several blocks of images.
        spread: the standard deviation over the blocks; for a single block its standard error, or None without one.
        blocks: the number of blocks.
        count: images per block.
        seconds: seconds per block.
        source: the file that the score was read from.
    """

    sampler: str
    network_calls: int
    step: int
    weights: str
    metric: str
    protocol: str
    value: float
    spread: float | None
    blocks: int
    count: int
    seconds: float
    source: Path


class RunReader:
    """A recorded run.

    Args:
        path: the run directory.
        label: the run's name in reports.

    Raises:
        UserError: if the directory holds no run, or its config cannot be read.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self.label = label
        self.run = Run(path)
        if not self.run.exists():
            raise UserError(f"{path}: expected a run directory, got one without config.yaml. Give another directory.")
        values, _ = parse_yaml(self.run.config.read_text(), str(self.run.config))
        self.config = with_current_names(values)

    @cached_property
    def completed(self) -> dict[str, Any]:
        """The config with this version's defaults for missing keys; unchanged if this version cannot load it."""
        try:
            return as_dict(load_experiment(str(self.run.config)))
        except UserError:
            return self.config

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json, or {} without one."""
        return _json(self.run.environment)

    @cached_property
    def status(self) -> dict[str, Any]:
        """The content of status.json, or {} without one; the state is "lost" if the process died while "running"."""
        status = self.run.read_status()
        dead = status.get("state") == "running" and not in_use(self.path)
        return {**status, "state": "lost"} if dead else status

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return read_metrics(self.run.metrics)

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) for each row that has the metric."""
        return [(row["step"], row[name]) for row in self.metrics if name in row]

    def names(self) -> list[str]:
        """Return the names of all logged metrics."""
        return list(dict.fromkeys(name for row in self.metrics for name in row if name != "step"))

    @cached_property
    def scores(self) -> list[RecordedScore]:
        """The scores of training and of `diffexp evaluate`, sorted by step."""
        found = [*self._of_training(), *self._of_tables()]
        return sorted(found, key=lambda score: score.step)

    @cached_property
    def likelihoods(self) -> list[tuple[dict[str, Any], dict[str, list[float]], Path]]:
        """(about, bits per dimension of each image by estimate, file) of each evaluation with `metrics=bpd`."""
        files = sorted(self.path.glob("evaluations/*/likelihood.json"))
        return [
            (content["about"], content["values"], file)
            for file, content in ((file, _json(file)) for file in files)
            if content
        ]

    @cached_property
    def grids(self) -> dict[str, dict[int, Path]]:
        """The grids that training drew, by sampler and step, all from the same noise."""
        found: dict[str, dict[int, Path]] = {}
        for step, name, file in grids(self.run.samples):
            found.setdefault(name, {})[step] = file
        return found

    def _of_training(self) -> Iterator[RecordedScore]:
        for file in sorted(self.run.scores.glob("step-*.json")):
            content = _json(file)
            row = next((row for row in reversed(self.metrics) if _scored_at(row, content.get("step"))), None)
            for each in content.get("scores", {}).values() if row is not None else ():
                assert row is not None
                prefix = f"score/{each['label']}-{content['weights']}/"
                distance = each["scores"]["fd"]
                # named as in metrics.jsonl: fd_digits_v1_500, fid_50k
                name = next((key for key in row if key.startswith(prefix) and row[key] == distance["value"]), None)
                if name is not None:
                    yield RecordedScore(
                        sampler=without_steps(each["label"]),
                        network_calls=each["network_calls"],
                        step=content["step"],
                        weights=content["weights"],
                        metric=name.removeprefix(prefix),
                        protocol=content["protocol"],
                        value=distance["value"],
                        spread=distance["error"],
                        blocks=1,
                        count=each["scores"]["count"],
                        seconds=each["seconds"],
                        source=file,
                    )

    def _of_tables(self) -> Iterator[RecordedScore]:
        # a trial of a sampling sweep is itself an evaluation directory
        for file in [self.path / "table.json", *sorted(self.path.glob("evaluations/*/table.json"))]:
            content = _json(file)
            for cell in content.get("cells", ()):
                values = [block["fd"]["value"] for block in cell["blocks"]]
                if not values:
                    continue
                error = cell["blocks"][0]["fd"]["error"]
                yield RecordedScore(
                    sampler=cell["row"],
                    network_calls=cell["network_calls"],
                    step=content["about"]["step"],
                    weights=content["about"]["weights"],
                    metric=content["metric"],
                    protocol=content["protocol"],
                    value=sum(values) / len(values),
                    spread=stdev(values) if len(values) > 1 else error,
                    blocks=len(values),
                    count=content["about"]["count"],
                    seconds=sum(cell["seconds"]) / len(cell["seconds"]),
                    source=file,
                )


def without_steps(label: str) -> str:
    """Return a sampler's label without its steps: ddim-eta0 for ddim-50-eta0."""
    return re.sub(r"^([a-z_]+)-\d+(?=-|$)", r"\1", label)


def read_runs(paths: Sequence[Path]) -> list[RunReader]:
    """Read the runs in these directories; a sweep's directory contributes all its started trials.

    Raises:
        UserError: if a directory holds neither a run nor a sweep, or a sweep has no started trial.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "plan.json").is_file():
            trials = [each for each in sorted((path / "trials").glob("*")) if Run(each).exists()]
            if not trials:
                raise UserError(f"{path}: expected a sweep with a started trial, got one without. Run the sweep first.")
            found += trials
        elif Run(path).exists():
            found.append(path)
        else:
            raise UserError(
                f"{path}: expected the directory of a run (with config.yaml) or of a sweep (with plan.json), got "
                "neither. Give another directory."
            )
    found = list(dict.fromkeys(found))
    names = [path.resolve().name for path in found]
    labels = [
        name if names.count(name) == 1 else f"{path.resolve().parent.name}/{name}"
        for path, name in zip(found, names, strict=True)
    ]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in found]
    return [RunReader(path, label) for path, label in zip(found, labels, strict=True)]


def _scored_at(row: dict[str, Any], step: Any) -> bool:
    return row["step"] == step and any(name.startswith("score/") for name in row)


def _json(file: Path) -> dict[str, Any]:
    """Return a file's JSON object, or {} if the file is missing or damaged; reports then lack its numbers."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
