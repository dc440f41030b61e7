"""The schema of an experiment: everything that `diffexp train` needs to know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from diffexp.config.data import DataConfig
from diffexp.config.diffusion import DiffusionConfig
from diffexp.config.evaluation import Scoring
from diffexp.config.fields import number
from diffexp.config.models import ModelConfig
from diffexp.config.variants import VariantConfig
from diffexp.config.words import Accelerator, Precision, SamplingPrecision, Wandb, Weights


@dataclass
class Optim:
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

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if len(self.betas) != 2:
            yield "betas", f"Adam has two, not {len(self.betas)}"


@dataclass
class Ema:
    """Moving average of the weights.

    Keys:
        half_life: images (not steps) after which a weight's share in the average has halved.
        rampup: warm-up: the half-life never exceeds this share of the images seen so far; null switches it off.
    """

    half_life: float = number(500_000, above=0)
    rampup: float | None = number(0.05, above=0)


@dataclass
class Training:
    """How long and on what.

    Keys:
        steps: optimiser steps of the whole run (never epochs).
        batch_size: images per optimiser step, over all devices, nodes and accumulated batches together.
        accumulate: batches whose gradients are added up for one optimiser step.
        gradient_clip: largest norm of the gradient; null does not clip.
        precision: auto takes bf16-mixed where the hardware gains from it, else 32-true.
        compile: have torch compile the network's training step: minutes at every start, then faster on most GPUs and
            slower on CPUs. Results differ by rounding, on a GPU also between two starts.
        channels_last: store feature maps with the channels last, the layout of a GPU's matrix units; results differ by
            rounding.
        cuda_graphs: draw the grids and scores while training by replaying CUDA graphs of the network.
        deterministic: take torch's deterministic algorithms, which are slower: on a GPU, a resumed run is then the same
            bit for bit.
        devices: processes on each node, each with a device of its own (on a CPU, a share of the cores).
        nodes: machines that train together.
        log_every: steps between two points of the logged curves.
    """

    steps: int = number(10_000, at_least=1)
    batch_size: int = number(128, at_least=1)
    accumulate: int = number(1, at_least=1)
    gradient_clip: float | None = number(1.0, above=0)
    precision: Precision = "auto"
    compile: bool = False
    channels_last: bool = False
    cuda_graphs: bool = False
    deterministic: bool = False
    accelerator: Accelerator = "auto"
    devices: int = number(1, at_least=1)
    nodes: int = number(1, at_least=1)
    log_every: int = number(50, at_least=1)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        parts = self.devices * self.nodes * self.accumulate
        if self.batch_size % parts:
            yield (
                "batch_size",
                f"{self.batch_size} is not divisible by devices · nodes · accumulate = {parts}",
            )


@dataclass
class Checkpoint:
    """A checkpoint every `every` steps and at the end; the newest `keep` stay (null: all)."""

    every: int = number(1_000, at_least=1)
    keep: int | None = number(2, at_least=1)


@dataclass
class SampleGrids:
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
    samplers: dict[str, VariantConfig | None] = field(default_factory=dict)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if self.weights == "ema" and experiment.ema is None:
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
    optim: Optim = field(default_factory=Optim)
    training: Training = field(default_factory=Training)
    ema: Ema | None = field(default_factory=Ema)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    sample_grid: SampleGrids | None = field(default_factory=SampleGrids)
    score: Scoring | None = None
    loggers: list[Literal["csv", "tensorboard", "wandb"]] = field(default_factory=lambda: ["csv", "wandb"])
    wandb: Wandb = field(default_factory=Wandb)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if not self.name or "/" in self.name or self.name.startswith("."):
            yield "name", f"{self.name!r} names a directory: no '/', not empty, not starting with '.'"
        if self.init_allow and self.init is None:
            yield "init_allow", f"expected an empty list without init, got {', '.join(self.init_allow)}"
        for key in self.init_allow:
            if not key.startswith("model."):
                yield "init_allow", f"expected keys of model, as model.prediction, got {key}"


@dataclass
class SampleRequest:
    """What `diffexp sample` draws.

    Keys:
        sampler: without one, the one usual for the model (of diffusion, DDIM with 50 steps).
        count: images; image i depends on the seed and i alone.
        batch_size: images sampled at once; changes nothing but memory, speed and rounding.
        memory_gb: GiB that sampling may take beside the model; fewer images are sampled at once if need be.
        precision: in which the network runs; as in training, or bf16-true, which rounds its weights to bfloat16.
        compile: have torch compile the network first: half a minute or more, won back in some hundred network calls.
        cuda_graphs: on a GPU, replay a CUDA graph of the network instead of launching its kernels one by one; compile
            does so, too.
        out: NAME.png (a grid), NAME.npz (an array `images`, uint8, N×H×W×C) or a folder of PNGs;
            null makes a grid in the run's drawings/.
        overwrite: replace the file `out`, or all numbered PNGs of the folder `out`; false refuses what exists.
    """

    sampler: VariantConfig = MISSING
    count: int = number(64, at_least=1)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    batch_size: int = number(256, at_least=1)
    memory_gb: float | None = number(None, above=0)
    accelerator: Accelerator = "auto"
    precision: SamplingPrecision = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    out: str | None = None
    overwrite: bool = False


@dataclass
class ExportRequest:
    """What `diffexp export` writes.

    Keys:
        format: safetensors is one file that every command of diffexp takes; diffusers is a folder for its pipelines.
        weights: the averaged (ema) or the raw ones.
        out: NAME.safetensors, or the folder; null puts it beside the run's checkpoints/, else beside the file.
        overwrite: replace the file `out`, or the pipeline in the folder `out`; false refuses what exists.
    """

    format: Literal["safetensors", "diffusers"] = "safetensors"
    weights: Weights = "ema"
    out: str | None = None
    overwrite: bool = False


@dataclass
class ImportRequest:
    """Where `diffexp import` writes, and what a checkpoint without a config does not tell.

    Keys:
        image_size: height and width of the images of a DDPM or DDIM checkpoint; null takes the size at which its
            attention is at 16 pixels, as in all configs of the authors.
        out: NAME.safetensors; NAME.yaml is written beside it; null takes the name of what is imported.
        overwrite: replace both files; false refuses what exists.
    """

    image_size: int | None = number(None, at_least=1)
    out: str | None = None
    overwrite: bool = False
