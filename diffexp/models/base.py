"""The interface of generative models: everything that callbacks and commands use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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

# Called after every network call.
OnCall = Callable[[], object]
# (C, H, W) → the noise of a batch of images of this shape.
NoiseOfShape = Callable[[tuple[int, int, int]], PerSampleNoise]


@dataclass(frozen=True)
class HeldOutLoss:
    """How well a model predicts images that it was not trained on; lower is better.

    Attributes:
        bits_per_dim: the model's likelihood, or a bound on it, of each image, shape (B,).
        errors: the error of a denoising model by image and noise level, shape (B, levels); None for other models.
    """

    bits_per_dim: Tensor
    errors: Tensor | None = None


class GenerativeModel(L.LightningModule, ABC):
    """A LightningModule that learns a distribution of images and samples from it.

    Args:
        image_shape: (C, H, W) of the images.
        classes: number of classes of a class-conditional model, else None.

    Attributes:
        optim: settings of the optimiser. The caller sets them between construction and training.
        seed: seed of all random numbers in training. The caller sets it likewise.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int | None = None) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.classes = classes
        self.class_names: Sequence[str] | None = None
        self.optim = OptimConfig()
        self.seed = 0

    @abstractmethod
    def sample(
        self, sampler: Any, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Draw images with the current weights.

        Args:
            sampler: config of the sampler, of the kind that the model's schema names as its `sampler_base`.
            indices: numbers of the images. Image i depends only on (seed, i) and the weights, not on the batch.
            seed: seed of the set of images.
            on_call: called after every network call, for progress; it may raise an exception to stop.

        Returns:
            float32 (len(indices), C, H, W), on the model's device, nominally in [-1, 1]; the model may overshoot.
        """

    def bits_per_dim(
        self,
        images: Tensor,
        indices: Sequence[int],
        seed: int,
        wanted: LikelihoodConfig,
        on_call: OnCall | None = None,
    ) -> dict[str, Tensor]:
        """Estimate the likelihood of images with the current weights.

        Args:
            images: uint8 (B, C, H, W), on the model's device.
            indices: numbers of the images in their set. The random numbers for image i depend only on (seed, i).
            seed: seed of these random numbers.
            wanted: which estimates, and their accuracy.
            on_call: called after every network call, for progress.

        Returns:
            By name of the estimate, bits per dimension, shape (B,).

        Raises:
            UserError: if this model has no likelihood.
        """

        def noise(shape: tuple[int, int, int]) -> PerSampleNoise:
            return PerSampleNoise(seed, indices, shape, self.device)

        return self.estimate_bits(images, noise, wanted, on_call)

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """Compute the result of `bits_per_dim`; models with a likelihood override it. Use no randomness but `noise`."""
        raise UserError(f"metrics: bpd: expected a model with a likelihood, got {type(self).__name__}. Remove bpd.")

    def held_out_loss(
        self,
        images: Tensor,
        labels: Tensor | None,
        indices: Sequence[int],
        seed: int,
        on_call: OnCall | None = None,
    ) -> HeldOutLoss:
        """Measure the loss of images, comparable between models of any family.

        By default it is the model's only estimate of `bits_per_dim`.

        Args:
            images: uint8 (B, C, H, W), on the model's device.
            labels: int64 (B,), likewise, for a class-conditional model; None for unlabelled images.
            indices: numbers of the images in their set. The random numbers for image i depend only on (seed, i).
            seed: seed of these random numbers.
            on_call: called after every network call, for progress.

        Raises:
            UserError: if this model has no likelihood.
        """
        (bits,) = self.bits_per_dim(images, indices, seed, LikelihoodConfig(), on_call).values()
        return HeldOutLoss(bits)

    def resolved_likelihood(self, wanted: LikelihoodConfig) -> LikelihoodConfig:
        """Return the settings of `bits_per_dim` with the model's defaults filled in."""
        return wanted

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return the network calls for one batch, by name of the estimate of `bits_per_dim`."""
        return {}

    def compile_network(self, *, training: bool = False, sampling: bool = False) -> None:
        """Compile the network at the first training step, or at the first batch of samples.

        Raises:
            UserError: if this model does not support it.
        """
        raise UserError(f"compile: expected false for {type(self).__name__}, got true. Remove the key.")

    def use_cuda_graphs(self) -> None:
        """Replay CUDA graphs of the network in sampling, if the model is on a GPU.

        Raises:
            UserError: if this model does not support it.
        """
        raise UserError(f"cuda_graphs: expected false for {type(self).__name__}, got true. Remove the key.")

    def in_bfloat16(self) -> AbstractContextManager[None]:
        """Sample with bfloat16 weights within this context.

        Raises:
            UserError: if this model does not support it.
        """
        raise UserError(
            f"precision: expected bf16-mixed or 32-true for {type(self).__name__}, got bf16-true. Use bf16-mixed."
        )

    def network_calls(self, sampler: Any) -> int:
        """Return the network calls of `sample` for one batch, the usual measure of its cost."""
        return 1

    def label(self, sampler: Any) -> str:
        """Return a short, complete description of a sampler for the names of metrics, such as "ddim-50-eta0"."""
        label: str = sampler.label()
        return label

    @contextmanager
    def as_trained(self) -> Iterator[None]:
        """Switch to evaluation mode within this context: no dropout, no gradients."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)


def as_pixels(images: Tensor) -> Tensor:
    """Convert samples (N, C, H, W) to uint8.

    Raises:
        UserError: if a sample contains NaN.
    """
    try:
        return to_uint8(images)
    except ValueError as error:
        raise UserError(f"samples: expected finite pixels, got NaN: training has diverged. {REMEDY}.") from error


def log_every_n_steps(trainer: L.Trainer) -> int:
    """Return the number of steps between two logged points, the Trainer's ``log_every_n_steps``."""
    steps: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
    return steps
