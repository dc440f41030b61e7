"""Normalizing flows: invertible networks with a known log-determinant (Dinh et al. 2017; Kingma & Dhariwal 2018)."""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import PriorConfig
from diffexp.data.images import to_float
from diffexp.models.base import NoiseOfShape, OnCall
from diffexp.models.batch import Batch
from diffexp.models.loss_meter import LossMeter, PerSampleLoss
from diffexp.models.training_module import TrainingModule
from diffexp.rng import PerSampleNoise
from diffexp.system.devices import float64_device

_LEVELS = 256
_MARGIN = 0.05  # distance of the logit's argument from 0 and 1, as in RealNVP
_LOG_SCALE = 2.0  # limit of |log s| in a coupling


class FlowStep(nn.Module):
    """One step of flow: channelwise affine map, 1×1 convolution, affine coupling (Kingma & Dhariwal 2018)::

        y = W (a ⊙ x + b)
        y_2 ← s(y_1) ⊙ (y_2 + t(y_1))

    Args:
        channels: channels of x; even.
        width: channels of the network that gives s and t.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels)).Q)
        last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)  # the coupling is initialised as the identity
        self.network = nn.Sequential(
            nn.Conv2d(channels // 2, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(), last
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, channels, H, W) to (y, `log |det ∂y/∂x|` of each image (B,))."""
        pixels = x.shape[2] * x.shape[3]
        x = F.conv2d(self.log_a.exp() * x + self.b, self.weight[:, :, None, None])
        fixed, moved = x.chunk(2, dim=1)
        log_s, t = self._coupling(fixed)
        x = torch.cat([fixed, log_s.exp() * (moved + t)], dim=1)
        shared = pixels * (self.log_a.sum() + torch.linalg.slogdet(self.weight).logabsdet)
        return x, shared + log_s.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Map y to x, both (B, channels, H, W)."""
        fixed, moved = y.chunk(2, dim=1)
        log_s, t = self._coupling(fixed)
        x = torch.cat([fixed, moved * (-log_s).exp() - t], dim=1)
        inverse = torch.linalg.inv(self.weight.to(float64_device(x.device)).double()).to(x)
        return (F.conv2d(x, inverse[:, :, None, None]) - self.b) * (-self.log_a).exp()

    def _coupling(self, fixed: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = self.network(fixed).chunk(2, dim=1)
        return _LOG_SCALE * (log_s / _LOG_SCALE).tanh(), t


class Flow(nn.Module):
    """A multi-scale flow: x (B, C, H, W) ↔ z (B, C·H·W).

    Each level squeezes (C → 4C, half the height and width) and applies the steps. It then splits half of the channels
    off as z; the last level splits off all.

    Args:
        image_shape: (C, H, W).
        levels: number of levels.
        steps: steps of each level.
        width: channels of the couplings' networks.
    """

    def __init__(self, image_shape: tuple[int, int, int], levels: int, steps: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        self.levels = nn.ModuleList()
        self.shapes: list[tuple[int, int, int]] = []  # of the z split off at each level
        for level in range(levels):
            channels, height, breadth = 4 * channels, height // 2, breadth // 2
            self.levels.append(nn.ModuleList(FlowStep(channels, width) for _ in range(steps)))
            channels = channels if level == levels - 1 else channels // 2
            self.shapes.append((channels, height, breadth))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x to (z (B, C·H·W), `log |det ∂z/∂x|` of each image (B,))."""
        left, log_det = [], x.new_zeros(len(x))
        for level, (channels, _, _) in zip(self.levels, self.shapes, strict=True):
            assert isinstance(level, nn.ModuleList)
            x = F.pixel_unshuffle(x, 2)
            for step in level:
                x, more = step(x)
                log_det = log_det + more
            left.append(x[:, :channels].flatten(1))
            x = x[:, channels:]
        return torch.cat(left, dim=1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Map z (B, C·H·W) to x (B, C, H, W)."""
        x = z.new_empty(0)
        parts = torch.split(z, [math.prod(shape) for shape in self.shapes], dim=1)
        for level, shape, part in zip(reversed(self.levels), self.shapes[::-1], parts[::-1], strict=True):
            assert isinstance(level, nn.ModuleList)
            leaving = part.view(-1, *shape)
            x = torch.cat([leaving, x], dim=1) if x.numel() else leaving
            for step in reversed(level):
                assert isinstance(step, FlowStep)
                x = step.inverse(x)
            x = F.pixel_shuffle(x, 2)
        return x


class FlowModule(TrainingModule):
    """Learns log p(x) = log N(f(x); 0, I) + `log |det ∂f/∂x|` of uniformly dequantised images.

    By Jensen's inequality, the loss is an upper bound on the bits per dimension of the levels (Theis et al. 2016)::

        p(level) = ∫ p(level + u) du ≥ exp E_u log p(level + u),      u ~ U[0, 1)

    The flow computes in float32 in any training precision, to stay invertible.

    Args:
        image_shape: (C, H, W).
        flow: the flow f.
    """

    def __init__(self, image_shape: tuple[int, int, int], flow: Flow) -> None:
        super().__init__(image_shape, LossMeter(["loss"]))
        self.flow = flow

    @classmethod
    def from_config(cls, image_shape: tuple[int, int, int], *, levels: int, steps_per_level: int, width: int) -> Self:
        """Build the module of a config, with weights drawn from torch's default generator."""
        return cls(image_shape, Flow(image_shape, levels, steps_per_level, width))

    def bits(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Compute -log₂ p(level + u) per dimension.

        Args:
            images: (B, C, H, W) in [-1, 1], on 256 levels.
            uniform: u in [0, 1), same shape.

        Returns:
            Bits per dimension, shape (B,).
        """
        with torch.autocast(images.device.type, enabled=False):
            share = ((images + 1) * 127.5 + uniform) / _LEVELS  # in [0, 1)
            inside = _MARGIN + (1 - 2 * _MARGIN) * share
            # d logit(inside)/d level
            log_slope = math.log((1 - 2 * _MARGIN) / _LEVELS) - inside.log() - (1 - inside).log()
            z, log_det = self.flow(inside.logit())
        log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + log_det + log_slope.flatten(1).sum(1)
        bits: Tensor = -log_p / (images[0].numel() * math.log(2))
        return bits

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute the bits per dimension of the dequantised images."""
        uniform = torch.special.ndtr(self.draw(len(batch.images), self.image_shape).normals)
        bits = self.bits(batch.images, uniform)
        return PerSampleLoss(bits, {"loss": bits})

    def sample(
        self, sampler: PriorConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Return f⁻¹(z) with z from the prior, rounded down to a level; see `GenerativeModel.sample`."""
        noise = PerSampleNoise(seed, indices, self.image_shape, self.device)
        with self.as_trained(), torch.autocast(self.device.type, enabled=False):
            inside = self.flow.inverse(sampler.temperature * noise.draw().flatten(1)).sigmoid()
            share = (inside - _MARGIN) / (1 - 2 * _MARGIN)
            images = (share * _LEVELS).floor().clamp(0, _LEVELS - 1) / 127.5 - 1
        if on_call is not None:
            on_call()
        return images

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """Estimate the bits per dimension from one draw of u; see `GenerativeModel.bits_per_dim`."""
        with self.as_trained():
            bits = self.bits(to_float(images), torch.special.ndtr(noise(self.image_shape).draw()))
        if on_call is not None:
            on_call()
        return {"dequantised": bits}

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return 1 for the only estimate, "dequantised"."""
        return {"dequantised": 1}
