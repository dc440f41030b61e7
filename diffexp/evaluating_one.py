"""`diffexp evaluate` with one sampler: its scores as a run of their own, for sweeps over samplers."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from diffexp.config.evaluation import EvaluateRequest
from diffexp.config.merging import as_dict, as_yaml
from diffexp.environment import describe_environment
from diffexp.errors import UserError
from diffexp.evaluating import Bench, about_scores, default_out, prepare, score_block
from diffexp.evaluation.table import Cell, Table
from diffexp.files import writable
from diffexp.hardware import out_of_memory_explained
from diffexp.locks import locked
from diffexp.loggers import build_loggers
from diffexp.mirrors import finish
from diffexp.models.precision import sampling_precision
from diffexp.runs import Run, free_run
from diffexp.sampling import SMALLER, fitted_batch_size
from diffexp.signals import end_on_signals
from diffexp.trained import Trained
from diffexp.training import quieten

# How the config.yaml of such a run begins.
_HEAD = "# diffexp evaluate"


def evaluate_one(trained: Trained, request: EvaluateRequest, trial: str | None, plugins: list[str]) -> tuple[Cell, Run]:
    """Score request.sampler; every finished block of images is kept at once, and an interrupted run goes on.

    Its metrics are `score/METRIC`, the means over the blocks so far, `score/METRIC_error`, their spread, and
    `network_calls` and `seconds` for each image; a "step" is a block.

    Args:
        trained: the checkpoint.
        request: whose `sampler` is given.
        trial: names the run's directory below runs/, where no `out` is given: SWEEP/NAME.
        plugins: the modules named by --plugin, for the record.

    Raises:
        UserError: for extractors, references, counts or folders that do not fit, before anything is sampled.
    """
    assert request.sampler is not None
    bench = prepare(trained, request)
    sampler = trained.experiment.model.resolved(request.sampler)
    cell = Cell(sampler, sampler.label(), bench.model.network_calls(sampler))
    about = about_scores(trained, request, sampler.label(), bench)
    table = Table(about, bench.rules.metric("fd"), bench.rules.id, [cell])
    run = _run(trained, request, trial, table)
    writable(run.path, "out")
    with locked(run.path, "out"):
        _take_up_and_score(table, run, bench, trained, request, plugins)
    return cell, run


def _take_up_and_score(
    table: Table, run: Run, bench: Bench, trained: Trained, request: EvaluateRequest, plugins: list[str]
) -> None:
    cell = table.cells[0]
    table.take_up(run.path)
    if run.exists() and not run.config.read_text().startswith(_HEAD):
        raise UserError(f"out: expected a folder without another run, got {run.path}. Give another out.")
    request = replace(request, blocks=max(request.blocks, len(cell.blocks)))  # what is scored stays
    run.describe(
        f"{_HEAD} {trained.path} --table THIS_FILE\n{as_yaml(replace(request, out=None))}",
        describe_environment(plugins),
    )
    end_on_signals()  # what is finished is kept, and the status is told on the way out
    try:
        _score(table, run, bench, trained, request)
    except BaseException as error:
        state = "failed" if isinstance(error, Exception) else "interrupted"
        run.write_status(state, len(cell.blocks), request.blocks, error=repr(error))
        raise


def _run(trained: Trained, request: EvaluateRequest, trial: str | None, table: Table) -> Run:
    if request.out is not None:
        return Run(Path(request.out))
    if trial is not None:
        path = Path("runs") / trial
        return free_run(path.parent, path.name, "out")
    return Run(default_out(trained, table.cells[0].row, table.about))


def _score(table: Table, run: Run, bench: Bench, trained: Trained, request: EvaluateRequest) -> None:
    quieten()
    cell, experiment = table.cells[0], trained.experiment
    with sampling_precision(bench.model, bench.precision):
        request = replace(request, batch_size=fitted_batch_size(bench.model, [cell.sampler], request))
    config = {"training": as_dict(experiment), "checkpoint": table.about["checkpoint"], **as_dict(request)}
    loggers = build_loggers(experiment.loggers, run, 0, request.wandb or experiment.wandb, config)
    total = cell.network_calls * -(-request.count // request.batch_size) * (request.blocks - len(cell.blocks))
    with tqdm(total=total, desc=cell.row, unit="call", mininterval=1, delay=1) as bar:
        for block in range(request.blocks):
            run.write_status("running", block, request.blocks)
            if block == len(cell.blocks):
                images = min(request.batch_size, request.count)
                explained = out_of_memory_explained("batch_size", images, SMALLER)
                with explained, sampling_precision(bench.model, bench.precision):
                    score_block(cell, block, bench, request, bar.update)
                table.write(run.path)
            done = replace(cell, blocks=cell.blocks[: block + 1], seconds=cell.seconds[: block + 1])
            for logger in loggers:
                logger.log_metrics(_metrics(done, bench), step=block + 1)
    for logger in loggers:
        logger.save()
    finish(loggers)
    run.write_status("finished", request.blocks, request.blocks)


def _metrics(cell: Cell, bench: Bench) -> dict[str, float]:
    """The means over the blocks, and what they cost."""
    metrics: dict[str, float] = {}
    for name in cell.measured():
        spread = cell.spread(name)
        metrics[f"score/{bench.rules.metric(name)}"] = fmean(cell.values(name))
        if spread is not None:
            metrics[f"score/{bench.rules.metric(name)}_error"] = spread
    images = bench.rules.count * len(cell.blocks)
    return {**metrics, "network_calls": cell.network_calls, "seconds": sum(cell.seconds) / images}
