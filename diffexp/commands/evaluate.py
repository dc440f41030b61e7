"""`diffexp evaluate`: score many samplers from one checkpoint under one protocol."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import click

from diffexp.checkpoints.load import TrainedModel
from diffexp.commands.sample import SMALLER, fitted_batch_size
from diffexp.config.merge import as_dict
from diffexp.config.schemas.common import WandbConfig
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.requests import EvaluateRequest
from diffexp.evaluation.evaluator import Evaluator, default_out
from diffexp.evaluation.sample_scores import seconds_a_call
from diffexp.evaluation.score_entry import ScoreEntry, entries
from diffexp.evaluation.table import ScoreTable
from diffexp.formatting import duration
from diffexp.loggers.base import LoggedRun
from diffexp.loggers.build import check_loggers, start_logger, tracker_names
from diffexp.models.precision import sampling_precision
from diffexp.system.devices import out_of_memory_explained
from diffexp.system.files import check_writable
from diffexp.system.locks import locked
from diffexp.system.terminal import progress_bar


def evaluate(trained: TrainedModel, request: EvaluateRequest, name: str) -> tuple[ScoreTable, Path]:
    """Score a table of samplers, or resume an interrupted one; each finished repeat is saved immediately.

    Args:
        trained: the checkpoint.
        request: the samplers, and how to score them.
        name: the name of the table.

    Returns:
        The table, and the folder with table.json, table.csv and table.md.

    Raises:
        UserError: for an unsuitable extractor, reference, count or folder, or a tracker whose extra is not installed,
            before anything is sampled.
    """
    experiment = trained.experiment
    check_loggers(tracker_names(experiment.loggers))
    todo = entries(request, experiment)
    skipped = experiment.model.skipped_steps(request.steps)
    if skipped:
        click.echo(f"steps: {skipped}", err=True)
    evaluator = Evaluator.prepare(trained, request)
    about = evaluator.about(trained, request, name)
    table = ScoreTable(about, evaluator.protocol.metric("fd"), evaluator.protocol.id, list(todo))
    folder = Path(request.out) if request.out is not None else default_out(trained, name, about)
    check_writable(folder, "out")
    with locked(folder, "out"):
        table.resume(folder, evaluator.metrics.metrics)
        with sampling_precision(evaluator.model, evaluator.precision):
            size = fitted_batch_size(evaluator.model, [entry.sampler for entry in todo], request)
            request = replace(request, batch_size=size)
            with out_of_memory_explained("batch_size", min(size, request.count), SMALLER):
                _fill(table, todo, folder, evaluator, request)
    _log(table, folder, experiment, request.wandb or experiment.wandb)
    return table, folder


def _fill(
    table: ScoreTable, todo: list[ScoreEntry], folder: Path, evaluator: Evaluator, request: EvaluateRequest
) -> None:
    """Score the missing repeats, with one progress bar: a repeat of all entries, cheapest first, then the next one."""
    missing = [(repeat, entry) for repeat in range(request.repeats) for entry in todo if len(entry.repeats) <= repeat]
    missing.sort(key=lambda each: (each[0], each[1].network_calls))
    table.write(folder)
    if not missing:
        click.echo(f"{folder / 'table.md'}: complete, nothing to score", err=True)
        return
    batches = -(-request.count // request.batch_size)
    total = sum(entry.network_calls * batches for _, entry in missing)
    call = seconds_a_call(evaluator.model, missing[0][1].sampler, min(request.batch_size, request.count))
    click.echo(
        f"{len(missing)} scores of {request.count} images: {total} network calls on batches of "
        f"{min(request.batch_size, request.count)}, about {duration(total * call)}; to {folder}",
        err=True,
    )
    try:
        with progress_bar("score", total, "call") as bar:
            for repeat, entry in missing:
                bar.set_description(f"{entry.row} {entry.network_calls}")
                evaluator.score(entry, repeat, request, bar.update)
                table.write(folder)
    except KeyboardInterrupt:
        click.echo(f"\nthe finished scores are in {folder}; the same command resumes from them", err=True)
        raise


def _log(table: ScoreTable, folder: Path, experiment: Experiment, settings: WandbConfig) -> None:
    """Log the table, and the distance against network calls, to a separate run in each tracker."""
    key = hashlib.sha256(json.dumps(table.about, sort_keys=True).encode()).hexdigest()[:8]  # the same in each call
    settings = replace(settings, group=settings.group or table.about["run"], job_type="evaluate")
    config = {**as_dict(experiment), "evaluation": table.about}
    run = LoggedRun(folder, key, settings.name or table.about["name"], config, settings)
    records = [{**each, table.metric: each["fd"]} for each in table.records()]
    lines = {
        name: [(each["network_calls"], each["fd"]) for each in records if each["sampler"] == name]
        for name in dict.fromkeys(each["sampler"] for each in records)
    }
    for name in tracker_names(experiment.loggers):
        logger = start_logger(name, run)
        if logger is not None:
            logger.log_table("evaluation", records)
            logger.log_lines("score_against_network_calls", lines, "network calls")
            logger.finish(0)
