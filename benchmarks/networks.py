"""The compared networks: ours and the peers', with equal architectures as far as each library can express them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffexp.diffusion.schedules import Schedule, linear
from diffexp.models.diffusion import DiffusionModule
from diffexp.networks.unet import UNet

if TYPE_CHECKING:  # a peer is imported where it is measured, so that the others run without it
    from denoising_diffusion_pytorch import Unet
    from diffusers import UNet2DModel


@dataclass(frozen=True)
class Size:
    """The architecture of Ho et al. 2020 in one size.

    Attributes:
        image_shape: (C, H, W).
        batch_size: images per step; the GPU kit sets its own.
        attention: index, from 0, of the level with self-attention.
    """

    image_shape: tuple[int, int, int]
    batch_size: int
    base_channels: int
    multipliers: tuple[int, ...]
    attention: int
    blocks: int = 2
    dropout: float = 0.1
    gradient_checkpointing: bool = False

    def config(self) -> dict[str, Any]:
        """The config keys of our network."""
        return {
            "base_channels": self.base_channels,
            "channel_multipliers": list(self.multipliers),
            "num_res_blocks": self.blocks,
            "attention_resolutions": [self.image_shape[1] >> self.attention],
            "dropout": self.dropout,
            "norm_num_groups": 32,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    def ours(self) -> UNet:
        """Our network."""
        return UNet(self.image_shape, **self.config())

    def module(self, prediction: str = "epsilon") -> DiffusionModule:
        """Our network with T = 1000, as a LightningModule."""
        return DiffusionModule(self.image_shape, self.ours(), Schedule(linear(1000)), prediction)

    def diffusers(self) -> "UNet2DModel":
        """The network of diffusers' DDPM models."""
        from diffusers import UNet2DModel

        channels, side, _ = self.image_shape
        levels = range(len(self.multipliers))
        down = ["AttnDownBlock2D" if level == self.attention else "DownBlock2D" for level in levels]
        up = ["AttnUpBlock2D" if level == self.attention else "UpBlock2D" for level in levels]
        return UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=[self.base_channels * multiplier for multiplier in self.multipliers],
            layers_per_block=self.blocks,
            down_block_types=down,
            up_block_types=up[::-1],
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            norm_num_groups=32,
            dropout=self.dropout,
        )

    def lucidrains(self) -> "Unet":
        """The network of denoising-diffusion-pytorch: linear attention on the other levels, two blocks on all."""
        from denoising_diffusion_pytorch import Unet

        full = tuple(level == self.attention for level in range(len(self.multipliers)))
        return Unet(
            self.base_channels,
            dim_mults=self.multipliers,
            channels=self.image_shape[0],
            dropout=self.dropout,
            full_attn=full,
            attn_heads=1,
        )


SIZES = {
    "cifar10": Size((3, 32, 32), 8, 128, (1, 2, 2, 2), 1),
    "fashion_mnist": Size((1, 32, 32), 64, 32, (1, 2, 2), 2),
    "digits": Size((1, 8, 8), 128, 32, (1, 2), 1, blocks=1, dropout=0.0),
}


def wake(network: nn.Module) -> nn.Module:
    """Fill all-zero parameters with small random values, so that no layer computes with zeros only."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def parameters(network: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
