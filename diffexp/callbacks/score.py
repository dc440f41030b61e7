"""Scores while training: FID, or the distance of another extractor, of samples from each of the named samplers."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import lightning as L
from tqdm import tqdm

from diffexp.callbacks.ema import EMA
from diffexp.callbacks.periodic import Periodic, StoppedError
from diffexp.callbacks.progress import Stderr, calls_bar
from diffexp.config.schemas.experiment import Experiment
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
from diffexp.system.best_effort import BestEffort
from diffexp.system.devices import out_of_memory_explained
from diffexp.system.files import atomic_write_text, require_folder


@dataclass(frozen=True)
class SamplerScores:
    """One sampler's scores, and what they cost.

    Attributes:
        label: of the sampler, its steps and keys.
        network_calls: for each image.
        seconds: for drawing all images and extracting their features.
        scores: the scores.
    """

    label: str
    network_calls: int
    seconds: float
    scores: Scores


class ScoreSamples(Periodic):
    """Every so many steps, and at the end, scores samples from each of the named samplers.

    Exactly `count` images are drawn over all processes, each by its own seed, so that every scoring starts from the
    same noise and the number of processes changes nothing but rounding. The scores go to every logger as
    ``score/LABEL-WEIGHTS/METRIC``, where LABEL says sampler, steps and keys and METRIC extractor and count;
    ``METRIC_best`` beside it is the lowest distance so far, and ``score/METRIC_best`` the lowest of any
    sampler. All of it is written to ``step-00001000.json``. It prints the expected time of each
    sampler before training starts.

    Nothing of this is part of the module, of checkpoints or of the training's randomness.

    Args:
        folder: where the files go, in one that exists.
        extractor: whose features.
        reference: makes the reference, once the processes of the training know each other; called in all of them.
        samplers: named samplers of the model's `sample` (for diffusion: sampler configs).
        every: steps between two scorings.
        count: images.
        seed: of the images.
        batch_size: images at once in each process.
        ema: the callback whose averaged weights to use; None uses the raw ones.
        max_seconds: samplers that are expected to take longer are skipped.
        max_time_fraction: a scoring that would bring the time for scores above this share of the time since training
            started (or was resumed) is skipped.
        should_stop: asked after every network call whether to stop, because the run is to.

    Attributes:
        scored: by name, the last scores.
        scored_step: the step they belong to.

    Raises:
        UserError: if the count is less than the extractor's features.
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
        """The scores that a config asks for, or None.

        Raises:
            UserError: if anything that they need is not there: a lack must not show hours later.
        """
        wanted = experiment.score
        if wanted is None:
            return None

        def images() -> ImageSet:
            return data.images(wanted.reference.split)

        extractor = build_extractor(wanted.extractor, data.images("train").image_shape)
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
        """Have the reference before training starts: what is wrong with it shows now."""
        self._reference = self._make_reference(self.extractor.to(pl_module.device))
        self._metrics = MetricSet.of(self._reference, self.extractor, self.count)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the cost."""
        self._started = time.monotonic()
        self._tell_cost(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def file(self, step: int) -> Path:
        """The file with the scores of a step."""
        return self.folder / f"step-{step:08d}.json"

    def finished(self, step: int) -> bool:
        """Whether the scores of a step are there."""
        return self.file(step).is_file()

    def protocol(self) -> Protocol:
        """What makes these scores comparable with others."""
        assert self._reference is not None
        return protocol(self.count, self.extractor, self._reference)

    @property
    def weights(self) -> str:
        """Which weights are scored."""
        return "raw" if self.ema is None else "ema"

    # --- cost

    def _tell_cost(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time a few network calls of each sampler, tell what a scoring will cost, and apply max_seconds."""
        assert isinstance(pl_module, GenerativeModel)
        with self._out_of_memory_explained(trainer), trainer.precision_plugin.forward_context():
            seconds = {
                name: expected_seconds(pl_module, sampler, self.count, self.batch_size)
                for name, sampler in self.samplers.items()
            }
        self._seconds = trainer.strategy.broadcast(seconds)  # all processes must decide the same
        for name, sampler in list(self.samplers.items()):
            cost = f"{pl_module.network_calls(sampler)} network calls × {self.count} images"
            line = f"score {name} ({pl_module.label(sampler)}): {cost}, about {duration(self._seconds[name])}"
            if self.max_seconds is not None and self._seconds[name] > self.max_seconds:
                del self.samplers[name]
                line += f": skipped, score.max_seconds is {self.max_seconds:g}"
            _say(trainer, line)

    def _too_long(self, trainer: L.Trainer) -> bool:
        """Whether another scoring would exceed max_time_fraction; the first process decides."""
        if self.max_time_fraction is None:
            return False
        expected = sum(self._seconds.get(name, 0.0) for name in self.samplers)
        elapsed = time.monotonic() - self._started
        too_long = self._spent + expected > self.max_time_fraction * (elapsed + expected)
        return bool(trainer.strategy.broadcast(too_long))

    # --- scoring

    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score. Every process must call it; each draws its share."""
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
            self._write(trainer, scored)  # last: this file says that the scores are there, and logged

    def _score(self, trainer: L.Trainer, model: GenerativeModel, name: str, sampler: Any) -> SamplerScores:
        assert self._metrics is not None
        share = -(-self.count // trainer.world_size)
        calls = model.network_calls(sampler) * -(-share // self.batch_size)
        quiet = not trainer.is_global_zero
        with (
            self._out_of_memory_explained(trainer),
            calls_bar(f"score {name}", calls, disable=quiet) as bar,
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
        """By label, the lowest distance at earlier steps, under the same protocol and with the same weights."""
        best: dict[str, float] = {}
        for file in sorted(self.folder.glob("step-*.json")):
            try:
                content = json.loads(file.read_text())
            except (OSError, ValueError):  # it can do without
                continue
            if content["step"] < step and (content["protocol"], content["weights"]) == (rules.id, self.weights):
                for each in content["scores"].values():
                    value = each["scores"]["fd"]["value"]
                    best[each["label"]] = min(best.get(each["label"], value), value)
        return best

    def _write(self, trainer: L.Trainer, scored: dict[str, SamplerScores]) -> None:
        if not trainer.is_global_zero:
            return
        rules = self.protocol()
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
        tqdm.write(line, file=Stderr())
