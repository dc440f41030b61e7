"""Score samples during training: FID, or the Fréchet distance of another extractor, for each named sampler."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import lightning as L

from diffexp.callbacks.ema import EMA
from diffexp.callbacks.periodic import Periodic, StoppedError
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.samplers import check_class_names
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Extractor, check_count
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.protocol import Protocol, protocol
from diffexp.evaluation.reference import Reference, check_reference, reference
from diffexp.evaluation.sample_scores import expected_seconds, score_samples
from diffexp.evaluation.scores import Scores
from diffexp.formatting import duration
from diffexp.loggers.build import update_config
from diffexp.models.base import GenerativeModel
from diffexp.runs.directory import Run
from diffexp.runs.influences import write_influences
from diffexp.runs.records import optional_values
from diffexp.system.best_effort import BestEffort
from diffexp.system.devices import float64_device, out_of_memory_explained
from diffexp.system.files import atomic_write_text, require_folder
from diffexp.system.terminal import progress_bar, say


@dataclass(frozen=True)
class SamplerScores:
    """The scores of one sampler, and their cost.

    Attributes:
        label: the sampler's name, steps and keys.
        network_calls: network calls for each image.
        seconds: time to draw all images and extract their features.
        scores: the scores.
    """

    label: str
    network_calls: int
    seconds: float
    scores: Scores


class ScoreSamples(Periodic):
    """Scores samples from each of the named samplers, every `every` steps and at the end.

    Exactly `count` images are drawn over all processes, each from its own seed. Every scoring thus starts from the same
    noise, and the number of processes changes only rounding. Before training, diffexp prints the expected time of each
    sampler. All results are written to ``step-00001000.json``, the influences of the images to ``step-00001000.npz``.
    Results are also logged:

    - ``score/LABEL-WEIGHTS/METRIC``: LABEL is sampler, steps and keys, METRIC is extractor and count.
    - ``score/LABEL-WEIGHTS/METRIC_best``: the lowest distance so far.
    - ``score/METRIC_best``: the lowest distance of any sampler.

    Scoring is independent of the module, of checkpoints and of the random numbers of training.

    Args:
        folder: an existing folder for the files.
        extractor: the feature extractor.
        reference: builds the reference, after the processes of the training are connected; called in all of them.
        samplers: named sampler configs of the model.
        every: optimiser steps between two scorings.
        count: number of images.
        seed: seed of the images.
        batch_size: images of one batch in each process.
        ema: the callback whose averaged weights are used; None uses the raw ones.
        max_seconds: samplers whose expected time exceeds it are skipped; None is no limit.
        max_time_fraction: a scoring is skipped if it would raise the share of scoring in the time since the start (or
            resumption) of training above this limit; None is no limit.
        should_stop: called after every network call; True interrupts the scoring, because the run is stopping.

    Attributes:
        scored: the latest scores, by name of the sampler.
        scored_step: their step.

    Raises:
        UserError: if `count` is less than the number of features.
    """

    def __init__(
        self,
        folder: str | Path,
        extractor: Extractor,
        reference: Callable[[Extractor], Reference],
        samplers: Mapping[str, Any],
        every: int,
        count: int,
        seed: int = 0,
        batch_size: int = 256,
        ema: EMA | None = None,
        max_seconds: float | None = None,
        max_time_fraction: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(every, should_stop)
        check_count(count, extractor, "score.count")
        self.folder = Path(folder)
        self.extractor = extractor
        self.samplers = dict(samplers)
        self.count = count
        self.seed = seed
        self.batch_size = batch_size
        self.ema = ema
        self.max_seconds = max_seconds
        self.max_time_fraction = max_time_fraction
        self.scored: dict[str, SamplerScores] = {}
        self.scored_step = 0
        self._make_reference = reference
        self._reference: Reference | None = None
        self._metrics: MetricSet | None = None
        self._seconds: dict[str, float] = {}
        self._spent = 0.0
        self._started = time.monotonic()
        self._logging = BestEffort("the score's protocol cannot be logged", Exception)
        self._writing = BestEffort(f"scores cannot be written to {folder}")

    @classmethod
    def from_config(
        cls,
        experiment: Experiment,
        run: Run,
        data: ImageDataModule,
        ema: EMA | None,
        should_stop: Callable[[], bool],
    ) -> Self | None:
        """Build the callback of a config, or return None if it has no scores.

        Raises:
            UserError: if anything that scoring needs is missing, so that the error does not appear hours later.
        """
        wanted = experiment.score
        if wanted is None:
            return None

        def images() -> ImageSet:
            return data.images(wanted.reference.split)

        train = data.images("train")
        check_class_names(wanted.samplers, "score.samplers", train.class_names)
        extractor = build_extractor(wanted.extractor, train.image_shape)
        check_count(wanted.count, extractor, "score.count")
        check_reference(wanted.reference, images, extractor)
        return cls(
            run.scores,
            extractor,
            partial(reference, experiment.data, images, wanted.reference, batch_size=wanted.batch_size),
            {name: sampler for name, sampler in wanted.samplers.items() if sampler is not None},
            wanted.every,
            wanted.count,
            wanted.seed,
            wanted.batch_size,
            ema if wanted.weights == "ema" else None,
            wanted.max_seconds,
            wanted.max_time_fraction,
            should_stop,
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Build the reference before training, so that its errors appear immediately."""
        self._reference = self._make_reference(self.extractor.to(float64_device(pl_module.device)))
        self._metrics = MetricSet.of(self._reference, self.extractor, self.count)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the expected cost."""
        self._started = time.monotonic()
        self._tell_cost(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def file(self, step: int) -> Path:
        """Return the file with the scores of a step."""
        return self.folder / f"step-{step:08d}.json"

    def finished(self, step: int) -> bool:
        """Return whether the scores of a step exist."""
        return self.file(step).is_file()

    def protocol(self) -> Protocol:
        """Return the protocol, which must be equal for scores to be comparable."""
        assert self._reference is not None
        return protocol(self.count, self.extractor, self._reference)

    @property
    def weights(self) -> str:
        """Which weights are scored, "ema" or "raw"."""
        return "raw" if self.ema is None else "ema"

    # --- cost

    def _tell_cost(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time a few network calls of each sampler, print the expected cost of a scoring, and apply max_seconds."""
        assert isinstance(pl_module, GenerativeModel)
        with self._out_of_memory_explained(trainer), trainer.precision_plugin.forward_context():
            seconds = {
                name: expected_seconds(pl_module, sampler, self.count, self.batch_size)
                for name, sampler in self.samplers.items()
            }
        self._seconds = trainer.strategy.broadcast(seconds)  # all processes must agree
        for name, sampler in list(self.samplers.items()):
            cost = f"{pl_module.network_calls(sampler)} network calls × {self.count} images"
            line = f"score {name} ({pl_module.label(sampler)}): {cost}, about {duration(self._seconds[name])}"
            if self.max_seconds is not None and self._seconds[name] > self.max_seconds:
                del self.samplers[name]
                line += f": skipped, because score.max_seconds = {self.max_seconds:g}"
            _say(trainer, line)

    def _too_long(self, trainer: L.Trainer) -> bool:
        """Return whether another scoring would exceed max_time_fraction; the first process decides."""
        if self.max_time_fraction is None:
            return False
        expected = sum(self._seconds.get(name, 0.0) for name in self.samplers)
        elapsed = time.monotonic() - self._started
        too_long = self._spent + expected > self.max_time_fraction * (elapsed + expected)
        return bool(trainer.strategy.broadcast(too_long))

    # --- scoring

    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the samplers. Every process must call it; each draws its share."""
        assert isinstance(pl_module, GenerativeModel)
        if not self._seconds:  # a run that is resumed after its last step
            self._tell_cost(trainer, pl_module)
        started = time.monotonic()
        if self._too_long(trainer):
            _say(
                trainer,
                f"step {trainer.global_step}: skipped the scores, which would exceed score.max_time_fraction = "
                f"{self.max_time_fraction}",
            )
            return
        scored = {}
        try:
            weights = self.ema.applied(pl_module) if self.ema is not None else nullcontext()
            with weights, trainer.precision_plugin.forward_context():
                for name, sampler in self.samplers.items():
                    scored[name] = self._score(trainer, pl_module, name, sampler)
        except StoppedError:
            return
        self._spent += time.monotonic() - started
        self.scored, self.scored_step = scored, trainer.global_step
        self._publish(trainer)
        with self._writing:
            require_folder(self.folder.parent)
            for logger in trainer.loggers:
                logger.save()
            self._write(trainer, scored)  # last, because this file marks the scores as complete and logged

    def _score(self, trainer: L.Trainer, model: GenerativeModel, name: str, sampler: Any) -> SamplerScores:
        assert self._metrics is not None
        share = -(-self.count // trainer.world_size)
        calls = model.network_calls(sampler) * -(-share // self.batch_size)
        quiet = not trainer.is_global_zero
        with (
            self._out_of_memory_explained(trainer),
            progress_bar(f"score {name}", calls, "call", leave=False, delay=1, disable=quiet) as bar,
        ):
            sampled = score_samples(
                model,
                sampler,
                self._metrics,
                range(self.count),
                self.seed,
                self.batch_size,
                self.watch(trainer, bar.update),
            )
        return SamplerScores(model.label(sampler), sampled.network_calls, sampled.seconds, sampled.scores)

    def _out_of_memory_explained(self, trainer: L.Trainer) -> AbstractContextManager[None]:
        images = min(self.batch_size, -(-self.count // trainer.world_size))
        return out_of_memory_explained("score.batch_size", images, "Set a smaller score.batch_size.")

    def _publish(self, trainer: L.Trainer) -> None:
        rules, step = self.protocol(), trainer.global_step
        best = self._best(step, rules)
        metrics: dict[str, float] = {}
        for scored in self.scored.values():
            prefix = f"score/{scored.label}-{self.weights}"
            values = scored.scores.scalars()
            metrics |= {f"{prefix}/{rules.metric(name)}": value for name, value in values.items()}
            lowest = min(best.get(scored.label, values["fd"]), values["fd"])
            metrics[f"{prefix}/{rules.metric('fd')}_best"] = lowest
            _say(trainer, f"step {step}: {scored.scores.one_line(scored.label, rules)}")
            best[scored.label] = lowest
        if best:
            metrics[f"score/{rules.metric('fd')}_best"] = min(best.values())
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if trainer.is_global_zero:
            with self._logging:
                update_config(trainer.loggers, {"score_protocol": rules.id})

    def _best(self, step: int, rules: Protocol) -> dict[str, float]:
        """Return the lowest distance by label at earlier steps, under the same protocol and with the same weights."""
        best: dict[str, float] = {}
        for file in sorted(self.folder.glob("step-*.json")):
            for label, value in optional_values(file, partial(self._distances, step=step, rules=rules)):
                best[label] = min(best.get(label, value), value)
        return best

    def _distances(self, content: dict[str, Any], step: int, rules: Protocol) -> list[tuple[str, float]]:
        if content["step"] >= step or (content["protocol"], content["weights"]) != (rules.id, self.weights):
            return []
        return [(each["label"], float(each["scores"]["fd"]["value"])) for each in content["scores"].values()]

    def _write(self, trainer: L.Trainer, scored: dict[str, SamplerScores]) -> None:
        if not trainer.is_global_zero:
            return
        rules = self.protocol()
        influences = {
            f"{name}/{metric}": influence
            for name, each in scored.items()
            for metric, influence in each.scores.influences().items()
        }
        write_influences(self.file(trainer.global_step).with_suffix(".npz"), influences)
        content = {
            "step": trainer.global_step,
            "weights": self.weights,
            "seed": self.seed,
            "protocol": rules.id,
            "scores": {name: {**vars(each), "scores": each.scores.as_dict()} for name, each in scored.items()},
            "details": rules.details,
        }
        atomic_write_text(self.file(trainer.global_step), json.dumps(content, indent=1) + "\n")


def _say(trainer: L.Trainer, line: str) -> None:
    if trainer.is_global_zero:
        say(line)
