"""The schema of an experiment: the complete input of `diffexp train`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.common import Accelerator, Precision, WandbConfig, Weights
from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.logged import training_metrics
from diffexp.config.schemas.loggers import LOGGERS
from diffexp.config.schemas.models.base import ModelConfig
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.samplers import SamplerConfig
from diffexp.config.schemas.scoring import ScoreConfig
from diffexp.config.schemas.validation import ValidationConfig


@dataclass
class OptimConfig:
    """Adam, or AdamW with weight_decay > 0.

    Keys:
        lr: learning rate after the warm-up.
        betas: decay rates of Adam's averages of the gradient and its square.
        eps: constant added to Adam's denominator.
        weight_decay: AdamW's decoupled weight decay.
        warmup_steps: steps over which the learning rate rises linearly to lr.
        decay: cosine lowers the learning rate to 0 between the warm-up and training.max_steps; none keeps it constant.
        skip_nonfinite: largest number of consecutive steps to skip because their loss or gradient is not finite. A
            skipped step changes no weight. One more such step stops the run; with 0, the first one does.
    """

    lr: float = number(2e-4, above=0)
    betas: list[float] = number([0.9, 0.999], at_least=0, below=1)
    eps: float = number(1e-8, above=0)
    weight_decay: float = number(0.0, at_least=0)
    warmup_steps: int = number(0, at_least=0)
    decay: Literal["none", "cosine"] = "none"
    skip_nonfinite: int = number(0, at_least=0)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if len(self.betas) != 2:
            yield "betas", f"expected two numbers, got {len(self.betas)}."


@dataclass
class EMAConfig:
    """Exponential moving average of the weights.

    Keys:
        half_life: number of images (not steps) after which a weight's contribution to the average has halved.
        rampup: upper bound of the half-life as a fraction of the images seen so far; null sets no bound.
    """

    half_life: float = number(500_000, above=0)
    rampup: float | None = number(0.05, above=0)


@dataclass
class TrainingConfig:
    """Length, batch size, precision and hardware of the training.

    Keys:
        max_steps: optimiser steps of the entire run (never epochs).
        batch_size: images per optimiser step, summed over all devices, nodes and accumulated batches.
        accumulate_grad_batches: batches whose gradients are summed for one optimiser step.
        gradient_clip_val: largest norm of the gradient; null disables clipping.
        precision: precision of the network. auto uses bf16-mixed on hardware that computes in bfloat16, else 32-true.
        compile: compile the network's training step with torch.compile. Each start takes minutes; then training is
            faster on most GPUs and slower on CPUs. Results differ by rounding, on a GPU also between two starts.
        channels_last: store feature maps with the channels last, the layout of a GPU's matrix units. Results differ by
            rounding.
        cuda_graphs: replay CUDA graphs of the network to draw the sample grids and scores during training.
        deterministic: use torch's deterministic algorithms, which are slower. On a GPU, a resumed run is then identical
            bit for bit.
        accelerator: hardware to train on; auto uses a CUDA GPU if there is one, gpu also Apple's.
        devices: processes per node, each with its own device (on a CPU, an equal share of the cores).
        num_nodes: machines that train together.
        log_every_n_steps: steps between two logged points of a curve.
    """

    max_steps: int = number(10_000, at_least=1)
    batch_size: int = number(128, at_least=1)
    accumulate_grad_batches: int = number(1, at_least=1)
    gradient_clip_val: float | None = number(1.0, above=0)
    precision: Precision = "auto"
    compile: bool = False
    channels_last: bool = False
    cuda_graphs: bool = False
    deterministic: bool = False
    accelerator: Accelerator = "auto"
    devices: int = number(1, at_least=1)
    num_nodes: int = number(1, at_least=1)
    log_every_n_steps: int = number(50, at_least=1)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        parts = self.devices * self.num_nodes * self.accumulate_grad_batches
        if self.batch_size % parts:
            yield (
                "batch_size",
                f"expected a multiple of devices · num_nodes · accumulate_grad_batches = {parts}, "
                f"got {self.batch_size}. Set batch_size to {max(self.batch_size // parts, 1) * parts}, for example.",
            )
        if self.accelerator == "cpu" and self.precision == "16-mixed":
            yield "precision", "expected bf16-mixed, 32-true or auto with accelerator: cpu, got 16-mixed."


@dataclass
class CheckpointConfig:
    """When to save checkpoints. There is always one at the end.

    Keys:
        every: steps between two checkpoints.
        keep: number of latest checkpoints to keep; null keeps all.
        monitor: metric, such as val/bits_per_dim, whose best checkpoint is kept, too, as checkpoints/best.ckpt. It is
            saved at the step at which the metric is logged. null keeps none.
        mode: whether the lowest or the highest value is the best.
    """

    every: int = number(1_000, at_least=1)
    keep: int | None = number(2, at_least=1)
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"


@dataclass
class SampleGridConfig:
    """Grids of samples drawn during training. All samplers start from the same noise.

    Keys:
        every: steps between two grids. There is always one at the end.
        count: images per grid.
        seed: seed of the starting noise.
        weights: sample with the averaged (ema) or the raw weights.
        samplers: without any, the model's default samplers (for diffusion, ddpm and ddim-50). null removes a sampler.
    """

    every: int = number(1_000, at_least=1)
    count: int = number(64, at_least=1)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    samplers: dict[str, SamplerConfig | None] = field(default_factory=dict)

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield raw weights for a training without an average."""
        if not context.ema:
            yield "weights", "raw"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.weights == "ema" and not context.ema:
            yield "weights", "expected raw when ema is null, got ema."
        for name in self.samplers:
            if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
                yield "samplers", f"expected names of letters, digits, '-' and '_' (they name files), got {name!r}."


@dataclass
class Experiment:
    """The complete description of one training run.

    Keys:
        name: name of the run and, without run_dir, of its directory runs_dir/name-NUMBER.
        seed: seed of all random numbers in training.
        runs_dir: folder in which numbered run directories are created.
        run_dir: the run's directory; null creates runs_dir/name-NUMBER.
        init: a run, checkpoint or exported file whose weights (averaged, if it has them) training starts from, at step
            0; null draws the initial weights from the seed.
        init_allow: keys of model, such as model.prediction, in which `init` may differ although its weights then
            compute something else.
        ema: Set it to null to train without an average of the weights.
        sample_grid: Set it to null to draw no grids.
        score: Null, the default, computes no scores.
        validation: Null, the default, measures no loss on held-out images.
        loggers: loggers to use in addition to metrics.jsonl.
    """

    name: str = "experiment"
    seed: int = number(0, at_least=0)
    runs_dir: str = "runs"
    run_dir: str | None = None
    init: str | None = None
    init_allow: list[str] = field(default_factory=list)
    data: DataConfig = MISSING
    model: ModelConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    ema: EMAConfig | None = field(default_factory=EMAConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sample_grid: SampleGridConfig | None = field(default_factory=SampleGridConfig)
    score: ScoreConfig | None = None
    validation: ValidationConfig | None = None
    loggers: list[str] = field(default_factory=lambda: ["csv", "wandb"])
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if not self.name.isprintable() or not self.name or "/" in self.name or self.name.startswith("."):
            rules = "not empty, printable, no '/', not starting with '.'"
            yield "name", f"expected a directory name ({rules}), got {self.name!r}."
        if self.validation is not None and self.model.held_out_calls is None:
            yield (
                "validation",
                f"expected null with model.name: {self.model.name}, which has no likelihood, got a mapping. "
                "Set validation=null.",
            )
        yield from self._monitor_problems()
        for name in self.loggers:
            if name not in LOGGERS.names:
                yield "loggers", LOGGERS.unknown(name)
        if self.init_allow and self.init is None:
            yield "init_allow", f"expected an empty list without init, got {', '.join(self.init_allow)}. Set init."
        for key in self.init_allow:
            if not key.startswith("model."):
                yield "init_allow", f"expected keys of model, such as model.prediction, got {key}."

    def _monitor_problems(self) -> Iterator[tuple[str, str]]:
        monitor = self.checkpoint.monitor
        logged = training_metrics(self.model, self.score, self.validation, ema=self.ema is not None)
        if monitor is None or re.fullmatch(logged, monitor):
            return
        section = monitor.partition("/")[0]
        off = {"val": self.validation, "score": self.score}.get(section, self) is None
        reason = f", which needs {'validation' if section == 'val' else section}" if off else ""
        example = "train/loss" if self.validation is None else "val/bits_per_dim"
        yield "checkpoint.monitor", f"expected a metric that training logs, such as {example}, got {monitor!r}{reason}."

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield the problems of trained weights, of loggers whose packages are not installed, and of W&B's limits."""
        for key, path in self._trained().items():
            problem = trained_problem(Path(path).expanduser())
            if problem is not None:
                yield key, problem
        for name in self.loggers:
            for _, problem in LOGGERS.schema(name)().unavailable(context):
                yield "loggers", f"{name}: {problem}"
        if "wandb" in self.loggers:
            for key, problem in self.wandb.limits():
                yield f"wandb.{key}", problem

    def _trained(self) -> dict[str, str]:
        parts = {f"model.{part}": path for part, path in self.model.trained_parts().items()}
        return parts if self.init is None else {**parts, "init": self.init}


def trained_problem(path: Path) -> str | None:
    """Return the problem of the path of a run, a checkpoint or an exported file, or None if it is there."""
    if path.is_file() or any((path / "checkpoints").glob("step-*.ckpt")):
        return None
    if path.is_dir():
        return f"expected a run's directory with checkpoints/step-*.ckpt, got {path}. Train the run first."
    return f"expected a run, a checkpoint or an exported file, got {path}, which does not exist."
