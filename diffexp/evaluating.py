"""`diffexp evaluate`: many samplers scored from one checkpoint, under one protocol."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import wandb
from tqdm import tqdm

from diffexp.config.evaluation import EvaluateRequest
from diffexp.config.experiment import Experiment
from diffexp.config.merging import as_dict
from diffexp.config.words import Wandb
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet
from diffexp.durations import duration
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Extractor, check_count
from diffexp.evaluation.protocol import Protocol, protocol
from diffexp.evaluation.references import Reference, reference
from diffexp.evaluation.sampling import sample_features, seconds_a_call
from diffexp.evaluation.scores import measure
from diffexp.evaluation.table import Cell, Table, cells
from diffexp.files import sha256, writable
from diffexp.hardware import out_of_memory_explained, precision_for
from diffexp.locks import locked
from diffexp.mirrors import connect_wandb, finish
from diffexp.models.base import GenerativeModel
from diffexp.models.precision import sampling_precision
from diffexp.sampling import SMALLER, fitted_batch_size
from diffexp.trained import Trained, build_trained


@dataclass(frozen=True)
class Bench:
    """What a sampler is scored with.

    Attributes:
        model: with the wanted weights, on its device.
        extractor: on the same device.
        compared: the real images' features.
        rules: what makes the scores comparable.
        precision: in which the model samples.
    """

    model: GenerativeModel
    extractor: Extractor
    compared: Reference
    rules: Protocol
    precision: str


def prepare(trained: Trained, request: EvaluateRequest) -> Bench:
    """Load and check everything that scoring needs.

    Raises:
        UserError: for extractors, references or counts that do not fit.
    """
    experiment = trained.experiment
    shape = (experiment.data.channels, experiment.data.image_size, experiment.data.image_size)
    extractor = build_extractor(request.extractor, shape)
    check_count(request.count, extractor, "count")
    model = build_trained(trained, request.weights, request.accelerator)
    extractor.to(model.device)
    data = ImageDataModule.from_config(experiment.data, 1, experiment.seed)

    def images() -> ImageSet:
        return data.images(request.reference.split)

    compared = reference(experiment.data, images, request.reference, extractor, request.batch_size)
    rules = protocol(request.count, extractor, compared)
    return Bench(model, extractor, compared, rules, precision_for(request.precision, model.device))


def evaluate(trained: Trained, request: EvaluateRequest, name: str) -> tuple[Table, Path]:
    """Make the table, or the rest of one that was interrupted; every finished block of images is kept at once.

    Args:
        trained: the checkpoint.
        request: what to evaluate.
        name: of the table.

    Returns:
        The table, and the folder with table.json, table.csv and table.md.

    Raises:
        UserError: for extractors, references, counts or folders that do not fit, before anything is sampled.
    """
    experiment = trained.experiment
    todo = cells(request, experiment)
    left_out = experiment.model.left_out(request.steps)
    if left_out:
        click.echo(f"steps: {left_out}", err=True)
    bench = prepare(trained, request)
    about = about_scores(trained, request, name, bench)
    table = Table(about, bench.rules.metric("fd"), bench.rules.id, list(todo))
    folder = Path(request.out) if request.out is not None else default_out(trained, name, about)
    writable(folder, "out")
    with locked(folder, "out"):
        table.take_up(folder)
        with sampling_precision(bench.model, bench.precision):
            size = fitted_batch_size(bench.model, [cell.sampler for cell in todo], request)
            request = replace(request, batch_size=size)
            with out_of_memory_explained("batch_size", min(size, request.count), SMALLER):
                _fill(table, todo, folder, bench, request)
    if "wandb" in experiment.loggers:
        _mirror(table, folder, experiment, request.wandb or experiment.wandb)
    return table, folder


def about_scores(trained: Trained, request: EvaluateRequest, name: str, bench: Bench) -> dict[str, Any]:
    """What all scores of one evaluation have in common, and what makes them comparable, as plain data."""
    experiment, rules = trained.experiment, bench.rules
    run = trained.path.parent.parent.name if trained.path.parent.name == "checkpoints" else trained.path.stem
    return {
        "name": f"{run} {name}",
        "run": run,
        "checkpoint": sha256(trained.path),
        "step": trained.step,
        "weights": request.weights,
        "count": request.count,
        "seed": request.seed,
        "dataset": experiment.data.name,
        "reference": str(bench.compared),
        "extractor": rules.extractor,
        "quantisation": rules.details["quantisation"],
        "precision": bench.precision,
        "device": bench.model.device.type,
        "protocol": rules.details,
    }


def default_out(trained: Trained, name: str, about: dict[str, Any]) -> Path:
    """In the run's directory, under a name that says step, weights and count, and by a digest all of `about`."""
    folder = trained.path.parent
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    parts = [trained.path.stem, name, about["weights"], str(about["count"]), digest]
    return (folder.parent if folder.name == "checkpoints" else folder) / "evaluations" / "-".join(parts)


def _fill(table: Table, todo: list[Cell], folder: Path, bench: Bench, request: EvaluateRequest) -> None:
    """Score the blocks that are missing, with a bar over all: one block of every cell first, the cheap ones before."""
    missing = [(block, cell) for block in range(request.blocks) for cell in todo if len(cell.blocks) <= block]
    missing.sort(key=lambda each: (each[0], each[1].network_calls))
    table.write(folder)
    if not missing:
        return
    batches = -(-request.count // request.batch_size)
    total = sum(cell.network_calls * batches for _, cell in missing)
    call = seconds_a_call(bench.model, missing[0][1].sampler, min(request.batch_size, request.count))
    click.echo(
        f"{len(missing)} scores of {request.count} images: {total} network calls on batches of "
        f"{min(request.batch_size, request.count)}, about {duration(total * call)}; to {folder}",
        err=True,
    )
    try:
        with tqdm(total=total, unit="call", mininterval=1) as bar:
            for block, cell in missing:
                bar.set_description(f"{cell.row} {cell.network_calls}")
                score_block(cell, block, bench, request, bar.update)
                table.write(folder)
    except KeyboardInterrupt:
        click.echo(f"\nthe finished scores are in {folder}; the same command goes on from there", err=True)
        raise


def score_block(cell: Cell, block: int, bench: Bench, request: EvaluateRequest, on_call: Callable[[], object]) -> None:
    """Draw one block of images and add its scores to the cell."""
    images = range(block * request.count, (block + 1) * request.count)
    sampled = sample_features(
        bench.model, cell.sampler, bench.extractor, images, request.seed, request.batch_size, on_call
    )
    cell.blocks.append(measure(sampled.gathered, bench.compared))
    cell.seconds.append(sampled.seconds)


def _mirror(table: Table, folder: Path, experiment: Experiment, settings: Wandb) -> None:
    """Log the table, and the distance against network calls, to a W&B run of its own; the same run if made again."""
    key = hashlib.sha256(json.dumps(table.about, sort_keys=True).encode()).hexdigest()[:8]
    logger = connect_wandb(
        settings,
        folder,
        name=settings.name or table.about["name"],
        id=key,
        group=settings.group or table.about["run"],
        job_type="evaluate",
        config={**as_dict(experiment), "evaluation": table.about},
    )
    if logger is None:
        return
    records = table.records()
    columns = [*records[0], table.metric]
    logger.log_table("evaluation", columns, [[*each.values(), each["fd"]] for each in records])
    rows = {
        name: [each for each in records if each["sampler"] == name]
        for name in dict.fromkeys(each["sampler"] for each in records)
    }
    curve = wandb.plot.line_series(
        xs=[[each["network_calls"] for each in row] for row in rows.values()],
        ys=[[each["fd"] for each in row] for row in rows.values()],
        keys=list(rows),
        title=table.metric,
        xname="network calls",
    )
    with logger.tolerance:
        logger.experiment.log({"score_against_network_calls": curve})
    finish([logger])
