"""The network of Ho et al. 2020 with the parts named as in the PyTorch checkpoints of DDPM and DDIM.

Written from the paper's appendix B and those names alone, to compare with; slow and plain.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm(channels, groups=32):
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Block(nn.Module):
    def __init__(self, into, out, time):
        super().__init__()
        self.norm1, self.conv1 = norm(into), nn.Conv2d(into, out, 3, padding=1)
        self.temb_proj = nn.Linear(time, out)
        self.norm2, self.conv2 = norm(out), nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bci,bcj->bij", q, k).div(math.sqrt(x.shape[1])).softmax(-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).view_as(x))


class Resample(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=0 if stride == 2 else 1)

    def forward(self, x):
        if self.conv.stride == (2, 2):
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Ho(nn.Module):
    def __init__(self, channels=3, base=32, multipliers=(1, 2), blocks=1, size=16, attended=(8,)):
        super().__init__()
        self.base = base
        time, widths, levels = 4 * base, [base * m for m in multipliers], range(len(multipliers))
        has = [size >> level in attended for level in levels]
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(base, time), nn.Linear(time, time)])
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.down, self.up, skips, width = nn.ModuleList(), nn.ModuleList(), [base], base
        for level in levels:
            part = nn.Module()
            part.block, part.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                part.block.append(Block(width, widths[level], time))
                width = widths[level]
                skips.append(width)
                if has[level]:
                    part.attn.append(Attention(width))
            if level < levels[-1]:
                part.downsample = Resample(width, 2)
                skips.append(width)
            self.down.append(part)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = (
            Block(width, width, time),
            Attention(width),
            Block(width, width, time),
        )
        parts = {}
        for level in reversed(levels):
            part = nn.Module()
            part.block, part.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + 1):
                part.block.append(Block(width + skips.pop(), widths[level], time))
                width = widths[level]
                if has[level]:
                    part.attn.append(Attention(width))
            if level > 0:
                part.upsample = Resample(width, 1)
            parts[level] = part
        self.up.extend(parts[level] for level in levels)
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t):
        half = self.base // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        angles = t[:, None] * rates
        time = self.temb.dense[0](torch.cat([angles.sin(), angles.cos()], 1))
        time = self.temb.dense[1](F.silu(time))
        h = self.conv_in(x)
        kept = [h]

        def apply(part, index, h):
            h = part.block[index](h, time)
            return part.attn[index](h) if len(part.attn) else h

        for part in self.down:
            for index in range(len(part.block)):
                h = apply(part, index, h)
                kept.append(h)
            if hasattr(part, "downsample"):
                h = part.downsample(h)
                kept.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, time)), time)
        for part in reversed(self.up):
            for index in range(len(part.block)):
                h = apply(part, index, torch.cat([h, kept.pop()], 1))
            h = part.upsample(h) if hasattr(part, "upsample") else h
        return self.conv_out(F.silu(self.norm_out(h)))
