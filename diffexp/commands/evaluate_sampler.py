"""`diffexp evaluate` with one sampler: a separate run of its scores, for sweeps over samplers."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from diffexp.checkpoints.load import TrainedModel
from diffexp.commands.sample import SMALLER, fitted_batch_size
from diffexp.commands.trainer import quieten
from diffexp.config.merge import as_dict, as_yaml
from diffexp.config.schemas.requests import EvaluateRequest
from diffexp.errors import UserError
from diffexp.evaluation.evaluator import Evaluator, default_out
from diffexp.evaluation.score_entry import ScoreEntry
from diffexp.evaluation.table import ScoreTable
from diffexp.loggers.build import build_loggers, check_loggers, finish_loggers
from diffexp.models.precision import sampling_precision
from diffexp.runs.directory import Run, free_run
from diffexp.runs.environment import describe_environment
from diffexp.system.devices import out_of_memory_explained
from diffexp.system.files import check_writable
from diffexp.system.locks import locked
from diffexp.system.signals import exit_on_signal
from diffexp.system.terminal import progress_bar

# The start of such a run's config.yaml.
_HEAD = "# diffexp evaluate"


def evaluate_one(
    trained: TrainedModel, request: EvaluateRequest, trial: str | None, plugins: list[str]
) -> tuple[ScoreEntry, Run]:
    """Score `request.sampler`, or resume an interrupted run; each finished repeat is saved immediately.

    The run's metrics are `score/METRIC`, the mean over the repeats so far, `score/METRIC_error`, their spread, and
    `network_calls` and `seconds` per image. A "step" is a repeat.

    Args:
        trained: the checkpoint.
        request: a request with a `sampler`.
        trial: the run's directory in runs/ if the request has no `out`: SWEEP/NAME.
        plugins: the modules named by --plugin, for the record.

    Returns:
        The entry with all scores, and the run.

    Raises:
        UserError: for an unsuitable extractor, reference, count or folder, or a logger whose extra is not installed,
            before anything is sampled.
    """
    assert request.sampler is not None
    check_loggers(trained.experiment.loggers)
    evaluator = Evaluator.prepare(trained, request)
    sampler = trained.experiment.model.resolve(request.sampler)
    entry = ScoreEntry(sampler, sampler.label(), evaluator.model.network_calls(sampler))
    about = evaluator.about(trained, request, sampler.label())
    table = ScoreTable(about, evaluator.protocol.metric("fd"), evaluator.protocol.id, [entry])
    run = _run(trained, request, trial, table)
    check_writable(run.path, "out")
    with locked(run.path, "out"):
        _resume_and_score(table, run, evaluator, trained, request, plugins)
    return entry, run


def _resume_and_score(
    table: ScoreTable,
    run: Run,
    evaluator: Evaluator,
    trained: TrainedModel,
    request: EvaluateRequest,
    plugins: list[str],
) -> None:
    entry = table.entries[0]
    table.resume(run.path, evaluator.metrics.metrics)
    if run.exists() and not run.config.read_text().startswith(_HEAD):
        raise UserError(f"out: expected a folder without another run, got {run.path}. Give another out.")
    request = replace(request, repeats=max(request.repeats, len(entry.repeats)))  # never drop finished repeats
    run.describe(
        f"{_HEAD} {trained.path} --table THIS_FILE\n{as_yaml(replace(request, out=None))}",
        describe_environment(plugins),
    )
    exit_on_signal()  # finished repeats are saved, and the handler below writes the status
    try:
        _score(table, run, evaluator, trained, request)
    except BaseException as error:
        state = "failed" if isinstance(error, Exception) else "interrupted"
        run.write_status(state, len(entry.repeats), request.repeats, error=repr(error))
        raise


def _run(trained: TrainedModel, request: EvaluateRequest, trial: str | None, table: ScoreTable) -> Run:
    if request.out is not None:
        return Run(Path(request.out))
    if trial is not None:
        path = Path("runs") / trial
        return free_run(path.parent, path.name, "out")
    return Run(default_out(trained, table.entries[0].row, table.about))


def _score(table: ScoreTable, run: Run, evaluator: Evaluator, trained: TrainedModel, request: EvaluateRequest) -> None:
    quieten()
    entry, experiment = table.entries[0], trained.experiment
    with sampling_precision(evaluator.model, evaluator.precision):
        request = replace(request, batch_size=fitted_batch_size(evaluator.model, [entry.sampler], request))
    config = {"training": as_dict(experiment), "checkpoint": table.about["checkpoint"], **as_dict(request)}
    loggers = build_loggers(experiment.loggers, run, 0, request.wandb or experiment.wandb, config)
    total = entry.network_calls * -(-request.count // request.batch_size) * (request.repeats - len(entry.repeats))
    try:
        with progress_bar(entry.row, total, "call", delay=1) as bar:
            for repeat in range(request.repeats):
                run.write_status("running", repeat, request.repeats)
                if repeat == len(entry.repeats):
                    images = min(request.batch_size, request.count)
                    explained = out_of_memory_explained("batch_size", images, SMALLER)
                    with explained, sampling_precision(evaluator.model, evaluator.precision):
                        evaluator.score(entry, repeat, request, bar.update)
                    table.write(run.path)
                done = replace(entry, repeats=entry.repeats[: repeat + 1], seconds=entry.seconds[: repeat + 1])
                for logger in loggers:
                    logger.log_metrics(_metrics(done, evaluator), step=repeat + 1)
        for logger in loggers:
            logger.save()
    except Exception:
        finish_loggers(loggers, failed=True)
        raise
    finish_loggers(loggers)
    run.write_status("finished", request.repeats, request.repeats)


def _metrics(entry: ScoreEntry, evaluator: Evaluator) -> dict[str, float]:
    """Return the means over the repeats, their spread and their cost."""
    metrics: dict[str, float] = {}
    for name in entry.measured():
        spread = entry.spread(name)
        metrics[f"score/{evaluator.protocol.metric(name)}"] = fmean(entry.values(name))
        if spread is not None:
            metrics[f"score/{evaluator.protocol.metric(name)}_error"] = spread
    images = evaluator.protocol.count * len(entry.repeats)
    return {**metrics, "network_calls": entry.network_calls, "seconds": sum(entry.seconds) / images}
