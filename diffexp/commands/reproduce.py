"""`diffexp reproduce`: repeat a recorded training and report how the result compares."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from diffexp.checkpoints.file import latest_valid_checkpoint
from diffexp.checkpoints.paths import list_checkpoints, step_of
from diffexp.commands.locate import located, resume_run, start_run
from diffexp.commands.train import train_run
from diffexp.config.load import experiment_from_text
from diffexp.config.merge import as_dict, differing
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.formatting import Table
from diffexp.reports.groups import shown
from diffexp.reports.tables import environment_facts
from diffexp.reproduction.compare import compare_checkpoints, compare_metrics, compare_pictures
from diffexp.reproduction.recorded_run import RecordedRun, find_recorded_run
from diffexp.reproduction.scores import compare_scores, is_same, scores_table, verdict
from diffexp.reproduction.segments import Segment, segments
from diffexp.runs.directory import Run
from diffexp.runs.environment import describe_environment
from diffexp.runs.metrics import read_metrics

# Keys of the place and the recording of a run, which do not change the result.
_RECORDING = ("name", "runs_dir", "run_dir", "wandb.", "loggers")


class _StopAt(L.Callback):
    """Stop training at the step that the recorded run reached."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


def reproduce(
    name: str, overrides: Sequence[str], seeds: int, plugins: list[str], tell: Callable[[str], object]
) -> bool:
    """Repeat a recorded training and compare the results, or resume an interrupted reproduction.

    Args:
        name: a run directory, a checkpoint or a W&B run; see `find_recorded_run`.
        overrides: ``key=value`` texts.
        seeds: the number of further trainings, which differ only in the seed, to measure the spread of scores.
        plugins: the modules named by --plugin.
        tell: called with each text to print.

    Returns:
        Whether the result is the same: bit for bit, or within the spread of the scores.

    Raises:
        SystemExit: 128 + n if signal n stopped it.
        UserError: if there is nothing to compare with, a plugin is missing, or the config is invalid.
    """
    recording = find_recorded_run(name)
    _check_plugins(recording, plugins)
    parts = segments(recording, overrides)
    experiment = parts[-1].experiment
    before = experiment_from_text(recording.trained or recording.config, recording.source)
    changed = _changed(before, experiment)
    if changed.rows:
        tell(f"settings that differ:\n\n{changed.markdown()}")
    else:
        tell("settings: the same")
    versions = _versions(recording, plugins)
    if versions.rows:
        tell(f"versions and machine that differ:\n\n{versions.markdown()}")
    elif recording.environment:
        tell("versions and machine: the same")
    for part in parts[:-1]:
        keys = ", ".join(each["key"] for each in recording.changes if each["step"] == part.until)
        tell(f"from step {part.until} on, as in the recorded run, with other values of: {keys}")
    run = _trained(recording, parts, changed, 0, plugins, tell)
    more = []
    if not _bitwise(recording, before, run, tell):
        for number in range(1, seeds + 1):
            other = _trained(recording, parts, changed, number, plugins, tell)
            more.append(read_metrics(other.metrics))
        return _by_scores(recording, run, more, tell)
    tell("the result is the same, bit for bit")
    return True


def _check_plugins(recording: RecordedRun, plugins: Sequence[str]) -> None:
    missing = [each for each in recording.environment.get("plugins", []) if each not in plugins]
    if missing:
        given = " ".join(f"--plugin {each}" for each in missing)
        raise UserError(f"{recording.source}: expected {given}, as in its training. Add it if you trust the module.")


def _changed(before: Experiment, now: Experiment) -> Table:
    rows = [
        [key, shown(one), shown(two)]
        for key, one, two in differing(as_dict(before), as_dict(now))
        if not key.startswith(_RECORDING)
    ]
    return Table("Settings", ["key", "then", "now"], rows)


def _versions(recording: RecordedRun, plugins: list[str]) -> Table:
    then, now = environment_facts(recording.environment), environment_facts(describe_environment(plugins))
    rows = [
        [key, value, now.get(key, "–")]
        for key, value in then.items()
        if now.get(key) != value and key not in ("precision", "host")
    ]
    source = ""
    if then.get("git.dirty") == "true":
        source = "The recorded checkout had uncommitted changes, which diffexp does not record."
    return Table("Versions", ["", "then", "now"], rows, source)


def _trained(
    recording: RecordedRun,
    parts: Sequence[Segment],
    changed: Table,
    seed: int,
    plugins: list[str],
    tell: Callable[[str], object],
) -> Run:
    """Train the parts with their seed plus `seed` up to the recorded step; exit with 128 + n on signal n."""
    keys = [each["key"] for each in recording.changes]
    for part in parts:
        experiment = _placed(recording, part, changed, seed)
        assert experiment.run_dir is not None
        run = Run(Path(experiment.run_dir))
        saved = list_checkpoints(run.checkpoints)
        if part is not parts[-1] and saved and step_of(saved[-1]) >= part.until:
            continue  # an interrupted reproduction has done this part
        run = resume_run(run.config, experiment, keys) if run.exists() else start_run(experiment)
        outcome = train_run(experiment, run, plugins, [_StopAt(part.until)], keys)
        if outcome.stopped_by is not None:
            tell("interrupted; the same command resumes")
            sys.exit(128 + outcome.stopped_by)
    return run


def _placed(recording: RecordedRun, part: Segment, changed: Table, seed: int) -> Experiment:
    """Return the config of a part with its seed plus `seed`, the recorded precision and the repetition's directory."""
    experiment = part.experiment
    if experiment.training.precision == "auto" and part.precision is not None:
        experiment = replace(experiment, training=replace(experiment.training, precision=part.precision))
    if seed:
        experiment = replace(experiment, seed=experiment.seed + seed)
    if experiment.run_dir is None or seed:
        folder = str(_folder(recording, experiment, changed)) + (f"-seed{experiment.seed}" if seed else "")
        experiment = replace(experiment, run_dir=folder)
    return located(experiment)


def _folder(recording: RecordedRun, experiment: Experiment, changed: Table) -> Path:
    """Return the reproduction's directory: the same in each call, to resume it, and another for other settings."""
    digest = hashlib.sha256(changed.markdown().encode()).hexdigest()[:8]
    more = f"-reproduced-{digest}" if changed.rows else "-reproduced"
    if recording.run is not None:
        return recording.run.path.with_name(recording.run.path.resolve().name + more)
    return Path(experiment.runs_dir) / (experiment.name + more)


def _bitwise(recording: RecordedRun, before: Experiment, run: Run, tell: Callable[[str], object]) -> bool:
    latest = latest_valid_checkpoint(run.checkpoints)
    rows = [row for row in read_metrics(run.metrics) if row["step"] <= recording.step]
    parts = []
    if recording.checkpoint is not None and latest is not None:
        parts.append(compare_checkpoints(recording.checkpoint, latest[1]))
        if recording.checkpoint.get("data") != latest[1].get("data"):
            tell("the training images differ from those of the recorded run")
    if recording.metrics:
        parts.append(compare_metrics(recording.metrics, rows))
    if recording.run is not None and recording.run.samples.is_dir():
        samplers = before.sample_grid.samplers if before.sample_grid is not None else {}
        drawn = [name for name, sampler in samplers.items() if sampler is not None]
        parts.append(compare_pictures(recording.run.samples, run.samples, recording.step, drawn))
    for part in parts:
        tell(str(part))
    return not any(part.difference for part in parts)


def _by_scores(recording: RecordedRun, run: Run, seeds: list[Any], tell: Callable[[str], object]) -> bool:
    compared = compare_scores(recording.metrics, read_metrics(run.metrics), seeds, (recording.run, run))
    if not compared:
        tell("the result differs, and the runs share no score that measures by how much")
        return False
    tell(f"\n{scores_table(compared).markdown()}")
    tell(verdict(compared))
    same = is_same(compared)
    spread = f"the spread of {len(seeds) + 1} seeds" if seeds else "the spread of the scores"
    tell(f"the result is not the same bit for bit, and {'within' if same else 'outside'} {spread}")
    return same
