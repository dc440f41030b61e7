"""A diffusion model with a small U-Net of random weights."""

import torch
from torch import nn

from diffexp.diffusion.schedules import Schedule, linear
from diffexp.models.diffusion import DiffusionModule
from diffexp.networks.unet import UNet


def model() -> DiffusionModule:
    torch.manual_seed(0)
    network = UNet(
        (1, 8, 8),
        base_channels=8,
        channel_multipliers=[1],
        num_res_blocks=1,
        attention_resolutions=[],
        norm_num_groups=4,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return DiffusionModule((1, 8, 8), network, Schedule(linear(1000)))
