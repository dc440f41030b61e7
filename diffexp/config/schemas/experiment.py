"""The schema of an experiment: everything that `diffexp train` needs to know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.common import Accelerator, Precision, WandbConfig, Weights
from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.loggers import LOGGERS
from diffexp.config.schemas.models.base import ModelConfig
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.samplers import SamplerConfig
from diffexp.config.schemas.scoring import ScoreConfig


@dataclass
class OptimConfig:
    """Adam; with weight_decay above 0 it is AdamW. The rate rises linearly over warmup_steps, then decays.

    Keys:
        skip_nonfinite: steps in a row that are left out because their loss or gradient is not finite (they change no
            weight); one more ends the run, as the first does with 0.
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
            yield "betas", f"Adam has two, not {len(self.betas)}"


@dataclass
class EMAConfig:
    """Moving average of the weights.

    Keys:
        half_life: images (not steps) after which a weight's share in the average has halved.
        rampup: warm-up: the half-life never exceeds this share of the images seen so far; null switches it off.
    """

    half_life: float = number(500_000, above=0)
    rampup: float | None = number(0.05, above=0)


@dataclass
class TrainingConfig:
    """How long and on what.

    Keys:
        max_steps: optimiser steps of the whole run (never epochs).
        batch_size: images per optimiser step, over all devices, nodes and accumulated batches together.
        accumulate_grad_batches: batches whose gradients are added up for one optimiser step.
        gradient_clip_val: largest norm of the gradient; null does not clip.
        precision: auto takes bf16-mixed where the hardware gains from it, else 32-true.
        compile: have torch compile the network's training step: minutes at every start, then faster on most GPUs and
            slower on CPUs. Results differ by rounding, on a GPU also between two starts.
        channels_last: store feature maps with the channels last, the layout of a GPU's matrix units; results differ by
            rounding.
        cuda_graphs: draw the grids and scores while training by replaying CUDA graphs of the network.
        deterministic: take torch's deterministic algorithms, which are slower: on a GPU, a resumed run is then the same
            bit for bit.
        devices: processes on each node, each with a device of its own (on a CPU, a share of the cores).
        num_nodes: machines that train together.
        log_every_n_steps: steps between two points of the logged curves.
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
                f"{self.batch_size} is not divisible by devices · num_nodes · accumulate_grad_batches = {parts}",
            )


@dataclass
class CheckpointConfig:
    """A checkpoint every `every` steps and at the end; the newest `keep` stay (null: all)."""

    every: int = number(1_000, at_least=1)
    keep: int | None = number(2, at_least=1)


@dataclass
class SampleGridConfig:
    """Grids of samples, all samplers from the same starting noise.

    Keys:
        every: steps between two grids; there is always one at the end.
        count: images in a grid.
        weights: sample with the averaged (ema) or the raw weights.
        samplers: named samplers; without any, those usual for the model (of diffusion, ddpm and ddim-50); setting one
            to null removes it.
    """

    every: int = number(1_000, at_least=1)
    count: int = number(64, at_least=1)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    samplers: dict[str, SamplerConfig | None] = field(default_factory=dict)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.weights == "ema" and not context.ema:
            yield "weights", "must be raw when ema is null"
        for name in self.samplers:
            if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
                yield "samplers", f"{name!r} names files: use letters, digits, '-' and '_'"


@dataclass
class Experiment:
    """One experiment.

    Keys:
        name: names the run and, without run_dir, its directory runs_dir/name-NUMBER.
        seed: of everything random in training.
        run_dir: the run's directory.
        loggers: where metrics and pictures go besides metrics.jsonl.
        init: a run, a checkpoint or an exported file whose weights (averaged, if it has them) the training starts from,
            at step 0; null draws them from the seed.
        init_allow: keys of model in which that one may differ although its weights then compute something else, as
            model.prediction.
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
    loggers: list[str] = field(default_factory=lambda: ["csv", "wandb"])
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if not self.name or "/" in self.name or self.name.startswith("."):
            yield "name", f"{self.name!r} names a directory: no '/', not empty, not starting with '.'"
        for name in self.loggers:
            if name not in LOGGERS.names:
                yield "loggers", LOGGERS.unknown(name)
        if self.init_allow and self.init is None:
            yield "init_allow", f"expected an empty list without init, got {', '.join(self.init_allow)}"
        for key in self.init_allow:
            if not key.startswith("model."):
                yield "init_allow", f"expected keys of model, as model.prediction, got {key}"
