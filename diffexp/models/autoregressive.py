"""An autoregressive model: the probability of an image as a product over its pixels."""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from diffexp.config.schemas.networks import AUTOREGRESSIVE_NETWORKS, AutoregressiveNetworkConfig
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import AncestralConfig
from diffexp.data.images import to_float, to_uint8
from diffexp.models.base import NoiseOfShape, OnCall
from diffexp.models.batch import Batch
from diffexp.models.loss_meter import LossMeter, PerSampleLoss
from diffexp.models.training_module import TrainingModule
from diffexp.networks.autoregressive import LEVELS, AutoregressiveNetwork
from diffexp.rng import PerSampleNoise


class AutoregressiveModule(TrainingModule):
    """Learns p(x) = ∏_i p(x_i | x_1 … x_{i-1}), x_i one of 256 levels, by its exact negative log-likelihood.

    The order is that of reading, row by row, and of each pixel channel by channel.

    Args:
        image_shape: (C, H, W).
        network: (B, H, W·C) levels → their logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], network: AutoregressiveNetwork) -> None:
        super().__init__(image_shape, LossMeter(["loss"]))
        self.network = network

    @classmethod
    def from_config(cls, image_shape: tuple[int, int, int], *, network: AutoregressiveNetworkConfig) -> Self:
        """Build the module that a config describes, its weights drawn from torch's generator."""
        channels, height, width = image_shape
        return cls(image_shape, AUTOREGRESSIVE_NETWORKS.build(network, (height, width * channels)))

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute bits per dimension."""
        bits = self.bits(to_uint8(batch.images))
        return PerSampleLoss(bits, {"loss": bits})

    def bits(self, images: Tensor) -> Tensor:
        """Exact bits per dimension, (B,), of uint8 images (B, C, H, W): the mean of -log2 p(x_i | x_1 … x_{i-1})."""
        levels = as_rows(images).long()
        logits = self.network(levels).float()
        nats = F.cross_entropy(logits.flatten(0, 2), levels.flatten(), reduction="none")
        return nats.view(len(images), -1).mean(1) / math.log(2)

    def sample(
        self, sampler: AncestralConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Level after level. That of image i is where its distribution function passes Φ(ε), ε of (seed, i)."""
        noise = PerSampleNoise(seed, indices, self.image_shape, self.device)
        quantiles = as_rows(torch.special.ndtr(noise.draw().double())).flatten(1)
        with self.as_trained():
            steps = self.network.stepwise(len(indices))
            logits, levels = next(steps), []
            below = torch.ones(LEVELS, LEVELS, dtype=torch.float64, device=self.device).triu()
            for quantile in quantiles.T:
                # not cumsum, which on a GPU has no deterministic algorithm
                chances = (logits.double() / sampler.temperature).softmax(1) @ below
                levels.append((chances < quantile[:, None] * chances[:, -1:]).sum(1))
                if on_call is not None:
                    on_call()
                if len(levels) < quantiles.shape[1]:
                    logits = steps.send(levels[-1])
        channels, height, _ = self.image_shape
        rows = torch.stack(levels, dim=1).view(len(indices), height, -1)
        return to_float(as_images(rows, channels))

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """Exactly; see `GenerativeModel.bits_per_dim`."""
        with self.as_trained():
            bits = self.bits(images)
        if on_call is not None:
            on_call()
        return {"exact": bits}

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return one call for the only estimate."""
        return {"exact": 1}

    def network_calls(self, sampler: AncestralConfig) -> int:
        """Return one call for each level of each channel of each pixel."""
        return math.prod(self.image_shape)


def as_rows(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H, W·C), the channels of a pixel beside each other."""
    return images.permute(0, 2, 3, 1).flatten(2)


def as_images(rows: Tensor, channels: int) -> Tensor:
    """The inverse of `as_rows`."""
    return rows.view(*rows.shape[:2], -1, channels).permute(0, 3, 1, 2)
