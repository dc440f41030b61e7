"""The U-Net of DDPM (Ho et al. 2020)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffexp.networks.blocks import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    Stage,
    TimeEmbedding,
    Upsample,
    group_norm,
    zero_init,
)


class UNet(nn.Module):
    """The U-Net of DDPM: (x_t (B, C, H, W), indices t (B,)) → (B, out_channels, H, W), initially zero or nearly so.

    A class-conditional network has a third input, labels int64 (B,): 0 … K-1 for `classes` = K, and K for the null
    label.

    With the defaults, images of 3×32×32 give the paper's 35,746,307 parameters.

    Args:
        image_shape: (C, H, W); H and W must be divisible by 2 once for each level after the first.
        base_channels: channels of the first level; even.
        channel_multipliers: channels of each level, in multiples of base_channels.
        num_res_blocks: residual blocks of each level in the encoder; the decoder has one more.
        attention_resolutions: heights, in pixels, of the feature maps with self-attention.
        dropout: probability inside each residual block, in [0, 1).
        norm_num_groups: groups of every GroupNorm.
        gradient_checkpointing: trade compute for memory in training, see `Stage`.
        out_channels: channels of the output; None is C.
        classes: number of classes K. Each class, and the null label, has an embedding that is added to that of t.
        initialization: "torch" keeps torch's defaults, except that the last layer of every block and of the network is
            zero. "ddpm" draws the weights as the authors' code does.

    Raises:
        ValueError: if H or W is not divisible as required.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        norm_num_groups: int = 32,
        gradient_checkpointing: bool = False,
        out_channels: int | None = None,
        classes: int | None = None,
        initialization: Literal["torch", "ddpm"] = "torch",
    ) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        levels = len(channel_multipliers)
        factor = 2 ** (levels - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image_shape: expected H and W divisible by {factor} for {levels} levels, got {height}×{width}."
            )

        time_features = 4 * base_channels
        self.time = TimeEmbedding(base_channels, time_features)
        self.label = nn.Embedding(classes + 1, time_features) if classes is not None else None
        self.conv_in = nn.Conv2d(image_channels, base_channels, 3, padding=1)

        def residual(channels_in: int, channels_out: int) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, time_features, norm_num_groups, dropout)

        def stage(*blocks: nn.Module, skip: bool = False) -> Stage:
            return Stage(*blocks, skip=skip, gradient_checkpointing=gradient_checkpointing)

        def attention(channels: int, resolution: int) -> list[SelfAttention]:
            return [SelfAttention(channels, norm_num_groups)] if resolution in attention_resolutions else []

        channels, resolution = base_channels, height
        skips = [channels]
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(channel_multipliers):
            if level > 0:
                self.down.append(stage(Downsample(channels)))
                resolution //= 2
                skips.append(channels)
            width_here = base_channels * multiplier
            for _ in range(num_res_blocks):
                self.down.append(stage(residual(channels, width_here), *attention(width_here, resolution)))
                channels = width_here
                skips.append(channels)

        self.middle = stage(
            residual(channels, channels), SelfAttention(channels, norm_num_groups), residual(channels, channels)
        )

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(channel_multipliers))):
            width_here = base_channels * multiplier
            for _ in range(num_res_blocks + 1):
                joined = residual(channels + skips.pop(), width_here)
                self.up.append(stage(joined, *attention(width_here, resolution), skip=True))
                channels = width_here
            if level > 0:
                self.up.append(stage(Upsample(channels)))
                resolution *= 2

        self.norm_out = group_norm(norm_num_groups, channels)
        self.conv_out = zero_init(nn.Conv2d(channels, out_channels or image_channels, 3, padding=1))
        if initialization == "ddpm":
            self._initialize_as_ddpm()

    @torch.no_grad()
    def _initialize_as_ddpm(self) -> None:
        """Draw all weights as the authors' code does, by TensorFlow's variance_scaling(scale, "fan_avg", "uniform").

        This is Glorot's uniform distribution with gain √scale. The scale is 1, and 1e-10 for the last layer of every
        block and of the network. Biases are zero. Class embeddings, which the authors' code lacks, keep torch's N(0,
        1).
        """
        last, fused = {self.conv_out}, set()
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                last.add(block.conv2)
            elif isinstance(block, SelfAttention):
                last.add(block.out)
                fused.add(block.query_key_value)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                for weight in layer.weight.chunk(3) if layer in fused else [layer.weight]:  # three layers in theirs
                    nn.init.xavier_uniform_(weight, gain=1e-5 if layer in last else 1.0)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Apply the network to x_t (B, C, H, W), t (B,) and, for a class-conditional network, labels (B,)."""
        time = self.time(t)
        if self.label is not None:
            time = time + self.label(labels)
        hidden = self.conv_in(x)
        skips = [hidden]
        for stage in self.down:
            hidden = stage(hidden, time)
            skips.append(hidden)
        hidden = self.middle(hidden, time)
        for stage in self.up:
            if stage.skip:
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = stage(hidden, time)
        out: Tensor = self.conv_out(F.silu(self.norm_out(hidden)))
        return out
