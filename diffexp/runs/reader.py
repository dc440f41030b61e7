"""Read a run directory as plain data, so that runs of other versions or with plugins can be reported, too."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from diffexp.config.load import load_experiment
from diffexp.config.merge import as_dict
from diffexp.config.renamed import with_current_names
from diffexp.config.schemas.requests import estimate_settings
from diffexp.config.sources import read_yaml
from diffexp.errors import UserError
from diffexp.runs.directory import Run, grids
from diffexp.runs.influences import read_influences, table_influences
from diffexp.runs.metrics import read_metrics
from diffexp.runs.records import optional_object, optional_values, typed
from diffexp.runs.validations import RecordedValidation, read_validations
from diffexp.statistics.scores import ScoredBlock
from diffexp.system.locks import in_use

# Metrics that runs are compared by, other than the Fréchet distance.
_OTHERS = ("kd", "precision", "recall")


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
        scored: reads the blocks of a metric, "fd" or one of `others`, with the influences of their images.
        others: the values of the other metrics of the same images that are compared, by name.
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
    scored: Callable[[str], list[ScoredBlock]] = field(compare=False, repr=False)
    others: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = (self.sampler, self.weights, self.metric, self.protocol)
        counts = (self.network_calls, self.step, self.blocks, self.count)
        numbers = (self.value, self.seconds, *(() if self.spread is None else (self.spread,)))
        for values, kinds in ((texts, str), (counts, int), (numbers, (int, float))):
            if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
                raise TypeError(f"expected texts and numbers, got {values}.")


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
        values, _ = read_yaml(self.run.config)
        self.config = with_current_names(values)

    def setting(self, section: str, key: str) -> Any:
        """Return the value of a key of the config, or None without one."""
        values = self.config.get(section)
        return values.get(key) if isinstance(values, dict) else None

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
        kinds: dict[str, tuple[type, ...]] = {"gpus": (list,), "cpus": (int,)}
        return typed(optional_object(self.run.environment), kinds)

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
        training = sorted(self.run.scores.glob("step-*.json"))
        # a trial of a sampling sweep is itself an evaluation directory
        tables = [self.path / "table.json", *sorted(self.path.glob("evaluations/*/table.json"))]
        found = [
            *(each for file in training for each in optional_values(file, partial(self._of_training, file=file))),
            *(each for file in tables for each in optional_values(file, partial(_of_table, file=file))),
        ]
        return sorted(found, key=lambda score: score.step)

    @cached_property
    def validations(self) -> list[RecordedValidation]:
        """The losses on held-out images that training measured, sorted by step."""
        return read_validations(self.run.validation)

    @cached_property
    def likelihoods(self) -> list[tuple[dict[str, Any], dict[str, list[float]], Path]]:
        """(about, bits per dimension of each image by estimate, file) of each evaluation with `metrics=bpd`."""
        files = sorted(self.path.glob("evaluations/*/likelihood.json"))
        return [found for file in files for found in optional_values(file, partial(_likelihood, file=file))]

    @cached_property
    def grids(self) -> dict[str, dict[int, Path]]:
        """The grids that training drew, by sampler and step, all from the same noise."""
        found: dict[str, dict[int, Path]] = {}
        for step, name, file in grids(self.run.samples):
            found.setdefault(name, {})[step] = file
        return found

    def _of_training(self, content: dict[str, Any], file: Path) -> list[RecordedScore]:
        rows = [row for row in self.metrics if _scored_at(row, content["step"])]
        row = rows[-1] if rows else {}
        found = []
        for sampler, each in content["scores"].items():
            prefix = f"score/{each['label']}-{content['weights']}/"
            distance = each["scores"]["fd"]
            # named as in metrics.jsonl: fd_digits_v1_500, fid_50k
            name = next((key for key in row if key.startswith(prefix) and row[key] == distance["value"]), None)
            images = (content["seed"], 0, each["scores"]["count"])
            if name is not None:
                found.append(
                    RecordedScore(
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
                        scored=partial(_of_file, file.with_suffix(".npz"), f"{sampler}/", images, each["scores"]),
                        others=_others([each["scores"]]),
                    )
                )
        return found


def _of_table(content: dict[str, Any], file: Path) -> list[RecordedScore]:
    found = []
    for cell in content["cells"]:
        values = [block["fd"]["value"] for block in cell["blocks"]]
        if not values:
            continue
        error = cell["blocks"][0]["fd"]["error"]
        _ = content["about"]["seed"], [block["fd"]["error"] for block in cell["blocks"]]  # of `scored`, read later
        found.append(
            RecordedScore(
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
                scored=partial(_of_cell, content["about"], cell, file.parent),
                others=_others(cell["blocks"]),
            )
        )
    return found


def _of_file(
    file: Path, prefix: str, images: tuple[int, int, int], scores: dict[str, Any], metric: str
) -> list[ScoredBlock]:
    influence = read_influences(file).get(f"{prefix}{metric}")
    return [ScoredBlock(images, scores[metric]["value"], scores[metric]["error"], influence)]


def _of_cell(about: dict[str, Any], cell: dict[str, Any], folder: Path, metric: str) -> list[ScoredBlock]:
    seed, count = about["seed"], about["count"]
    files = (
        table_influences(folder, cell["row"], cell["network_calls"], repeat) for repeat in range(len(cell["blocks"]))
    )
    return [
        block
        for repeat, (file, scores) in enumerate(zip(files, cell["blocks"], strict=True))
        for block in _of_file(file, "", (seed, repeat * count, count), scores, metric)
    ]


def _others(blocks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the means of the other metrics over blocks of images, of those that each block has."""
    found = {}
    for name in _OTHERS:
        values = [each[name]["value"] for each in blocks if isinstance(each.get(name), dict)]
        if len(values) == len(blocks) and all(isinstance(value, float) for value in values):
            found[name] = fmean(values)
    return found


def _likelihood(content: dict[str, Any], file: Path) -> list[tuple[dict[str, Any], dict[str, list[float]], Path]]:
    about, values = content["about"], content["values"]
    for name, numbers in values.items():
        estimate_settings(name, about)
        math.fsum(numbers) / len(numbers)  # raises unless these are numbers
    _ = about["step"], about["weights"] + "", about["count"], about["likelihood"]["split"]
    return [(about, values, file)]


def full_name(metric: str, distance: str) -> str:
    """Return the full name of a metric of the images of a Fréchet distance: kd_digits_v1_500 for fd_digits_v1_500."""
    if metric == "fd" or distance.startswith("fd_"):
        return distance.replace("fd_", f"{metric}_", 1)
    count = distance.removeprefix("fid")
    return f"kid{count}" if metric == "kd" else f"{metric}_inception_{count}"


def without_steps(label: str) -> str:
    """Return a sampler's label without its steps: ddim-eta0 for ddim-50-eta0."""
    return re.sub(r"^([a-z_]+)-\d+(?=-|$)", r"\1", label)


def read_runs(paths: Sequence[Path]) -> list[RunReader]:
    """Read the runs in these directories; a sweep's directory contributes all its started trials.

    Args:
        paths: the directories; a missing one is also looked for in runs/.

    Raises:
        UserError: if a directory holds neither a run nor a sweep, or a sweep has no started trial.
    """
    found: list[Path] = []
    for path in map(in_runs, paths):
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
        name if names.count(name) == 1 else f"{_parent(path.resolve()).name}/{name}"
        for path, name in zip(found, names, strict=True)
    ]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in found]
    return [RunReader(path, label) for path, label in zip(found, labels, strict=True)]


def _parent(path: Path) -> Path:
    """Return the folder of a run; of a trial, that of its sweep."""
    return path.parent.parent if path.parent.name == "trials" else path.parent


def in_runs(path: Path) -> Path:
    """Return the path, or if it is missing, that in runs/ if there is one."""
    return path if path.exists() or not (Path("runs") / path).exists() else Path("runs") / path


def _scored_at(row: dict[str, Any], step: Any) -> bool:
    return row["step"] == step and any(name.startswith("score/") for name in row)
