"""What any generative model offers here; callbacks and commands use nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffexp.config.schemas.experiment import OptimConfig
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.data.images import to_uint8
from diffexp.errors import UserError
from diffexp.models.nonfinite import REMEDY
from diffexp.rng import PerSampleNoise

# Told after every network call.
OnCall = Callable[[], object]
# The noise of a batch of images of this shape (C, H, W).
NoiseOfShape = Callable[[tuple[int, int, int]], PerSampleNoise]


class GenerativeModel(L.LightningModule, ABC):
    """A LightningModule that learns images and draws new ones.

    Args:
        image_shape: (C, H, W) of the images it learns and makes.
        classes: of the images, if it learns them; else None.

    Attributes:
        optim: the optimiser's settings, which whoever builds the model sets before it is trained.
        seed: of everything that training draws, set likewise.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int | None = None) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.classes = classes
        self.optim = OptimConfig()
        self.seed = 0

    @abstractmethod
    def sample(
        self, sampler: Any, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Draw images with the current weights.

        Args:
            sampler: how to sample: a config of the kind that the model's schema names as its `sampler_base`.
            indices: which images; image i depends on (seed, i) and the weights, not on the rest of the batch.
            seed: of the whole set of images.
            on_call: called after every network call, for progress; may raise to stop.

        Returns:
            float32 (len(indices), C, H, W) on the model's device, in [-1, 1] up to what the model overshoots.
        """

    def bits_per_dim(
        self,
        images: Tensor,
        indices: Sequence[int],
        seed: int,
        wanted: LikelihoodConfig,
        on_call: OnCall | None = None,
    ) -> dict[str, Tensor]:
        """How likely the model finds images, with the current weights.

        Args:
            images: uint8 (B, C, H, W), on the model's device.
            indices: which images of their set; what is drawn for image i depends on (seed, i).
            seed: of what is drawn.
            wanted: by which estimates, how exactly.
            on_call: called after every network call, for progress.

        Returns:
            By the name of the estimate, bits per dimension of each image (B,).

        Raises:
            UserError: if this model has no likelihood.
        """

        def noise(shape: tuple[int, int, int]) -> PerSampleNoise:
            return PerSampleNoise(seed, indices, shape, self.device)

        return self.estimate_bits(images, noise, wanted, on_call)

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """What `bits_per_dim` returns, for models with a likelihood to override; draws from `noise` alone."""
        raise UserError(f"metrics: bpd: {type(self).__name__} has no likelihood")

    def resolved_likelihood(self, wanted: LikelihoodConfig) -> LikelihoodConfig:
        """The settings of `bits_per_dim`, with what they leave to the model filled in."""
        return wanted

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """How many times each estimate of `bits_per_dim` calls the network for one batch."""
        return {}

    def compile_network(self, *, training: bool = False, sampling: bool = False) -> None:
        """Have the network compiled before the first training step, or the first batch of samples.

        Raises:
            UserError: if this model knows no way to.
        """
        raise UserError(f"compile: {type(self).__name__} cannot be compiled; leave it false")

    def use_cuda_graphs(self) -> None:
        """Sample by replaying CUDA graphs of the network, where the model is on a GPU.

        Raises:
            UserError: if this model knows no way to.
        """
        raise UserError(f"cuda_graphs: expected false for {type(self).__name__}, got true. Leave it out.")

    def in_bfloat16(self) -> AbstractContextManager[None]:
        """Within this context the model samples with weights in bfloat16.

        Raises:
            UserError: if this model cannot.
        """
        raise UserError(
            f"precision: expected bf16-mixed or 32-true for {type(self).__name__}, got bf16-true. Use bf16-mixed."
        )

    def network_calls(self, sampler: Any) -> int:
        """How many times `sample` calls the network for one batch: the usual measure of its cost."""
        return 1

    def label(self, sampler: Any) -> str:
        """A short text that tells everything about a sampler, for the names of metrics: "ddim-50-eta0"."""
        label: str = sampler.label()
        return label

    @contextmanager
    def as_trained(self) -> Iterator[None]:
        """Within this context the model computes as after its training: no dropout, no gradients."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)


def as_pixels(images: Tensor) -> Tensor:
    """Samples (N, C, H, W) as uint8.

    Raises:
        UserError: if the model made NaN.
    """
    try:
        return to_uint8(images)
    except ValueError as error:
        raise UserError(f"the model makes images with NaN: its training has diverged; {REMEDY}") from error


def log_every_n_steps(trainer: L.Trainer) -> int:
    """Steps between two logged points: the Trainer's ``log_every_n_steps``."""
    steps: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
    return steps
