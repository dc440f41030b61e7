"""Autoregressive models: the likelihood of an image as a product of conditionals over its levels."""

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
from diffexp.system.devices import float64_device


class AutoregressiveModule(TrainingModule):
    """Learns p(x) = ∏_i p(x_i | x_1 … x_{i-1}) by its exact negative log-likelihood; each x_i is one of 256 levels.

    The order is raster order: row by row, and channel by channel within a pixel.

    Args:
        image_shape: (C, H, W).
        network: levels, int64 (B, H, W·C) → logits (B, H, W·C, 256).
    """

    def __init__(self, image_shape: tuple[int, int, int], network: AutoregressiveNetwork) -> None:
        super().__init__(image_shape, LossMeter(["loss"]))
        self.network = network

    @classmethod
    def from_config(cls, image_shape: tuple[int, int, int], *, network: AutoregressiveNetworkConfig) -> Self:
        """Build the module of a config, with weights drawn from torch's default generator."""
        channels, height, width = image_shape
        return cls(image_shape, AUTOREGRESSIVE_NETWORKS.build(network, (height, width * channels)))

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute the bits per dimension of each image."""
        bits = self.bits(to_uint8(batch.images))
        return PerSampleLoss(bits, {"loss": bits})

    def bits(self, images: Tensor) -> Tensor:
        """Compute the exact bits per dimension, the mean over i of -log₂ p(x_i | x_1 … x_{i-1}).

        Args:
            images: uint8 (B, C, H, W).

        Returns:
            Bits per dimension, shape (B,).
        """
        levels = as_rows(images).long()
        logits = self.network(levels).float()
        nats = F.cross_entropy(logits.flatten(0, 2), levels.flatten(), reduction="none")
        return nats.view(len(images), -1).mean(1) / math.log(2)

    def sample(
        self, sampler: AncestralConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Sample level by level; see `GenerativeModel.sample`.

        Each level of image i is the quantile of its conditional distribution at Φ(ε), where ε depends only on (seed,
        i).
        """
        noise = PerSampleNoise(seed, indices, self.image_shape, self.device)
        device = float64_device(self.device)
        quantiles = as_rows(torch.special.ndtr(noise.draw().to(device).double())).flatten(1)
        with self.as_trained():
            steps = self.network.stepwise(len(indices))
            logits, levels = next(steps), []
            below = torch.ones(LEVELS, LEVELS, dtype=torch.float64, device=device).triu()
            for quantile in quantiles.T:
                # not cumsum, which has no deterministic algorithm on a GPU
                chances = (logits.to(device).double() / sampler.temperature).softmax(1) @ below
                levels.append((chances < quantile[:, None] * chances[:, -1:]).sum(1).to(self.device))
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
        """Compute the exact bits per dimension; see `GenerativeModel.bits_per_dim`."""
        with self.as_trained():
            bits = self.bits(images)
        if on_call is not None:
            on_call()
        return {"exact": bits}

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return 1 for the only estimate, "exact"."""
        return {"exact": 1}

    def network_calls(self, sampler: AncestralConfig) -> int:
        """Return C·H·W: one call for each level of an image."""
        return math.prod(self.image_shape)


def as_rows(images: Tensor) -> Tensor:
    """Reshape (B, C, H, W) to rows of levels (B, H, W·C), with the channels of a pixel adjacent."""
    return images.permute(0, 2, 3, 1).flatten(2)


def as_images(rows: Tensor, channels: int) -> Tensor:
    """Reshape rows of levels (B, H, W·C) to (B, C, H, W), the inverse of `as_rows`."""
    return rows.view(*rows.shape[:2], -1, channels).permute(0, 3, 1, 2)
