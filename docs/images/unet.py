"""Draw docs/images/unet.svg: the data flow of the U-Net that the config cifar10_ddpm builds.

    python docs/images/unet.py docs/images/unet.svg

The blocks, widths and skip connections are read from the network, so that the picture follows the code.
"""

import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from diffexp import load_experiment
from diffexp.models.build import build_model
from diffexp.networks.blocks import Downsample, ResidualBlock, SelfAttention, Stage, Upsample

BLUE, GREEN, ORANGE, GREY, VIOLET = "#cfe2f3", "#d9ead3", "#e69138", "#eeeeee", "#d9d2e9"
LEFT, MIDDLE, RIGHT, EMBEDDING = 4.3, 6.9, 9.5, 1.15  # the columns' centres
STEP, GAP = 0.42, 0.38  # between blocks, and added between levels


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 2.3, *, dashed: bool = False) -> None:
    """Draw one block."""
    style = {"facecolor": colour, "edgecolor": "0.3", "linewidth": 0.8, "linestyle": "--" if dashed else "-"}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.14), width, 0.28, boxstyle="round,pad=0.02", **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "0.3") -> None:
    """Draw an arrow from start to end."""
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops=style)


def described(stage: Stage) -> tuple[str, str, bool]:
    """What a stage shows: its text, its colour, and whether t enters it."""
    first = stage[0]
    if isinstance(first, Downsample):
        return f"↓ conv 3×3, stride 2: {first.conv.out_channels}", GREEN, False
    if isinstance(first, Upsample):
        return f"↑ double, conv 3×3: {first.conv.out_channels}", GREEN, False
    assert isinstance(first, ResidualBlock)
    attends = any(isinstance(block, SelfAttention) for block in stage)
    sources = f"{first.conv1.in_channels} → " if stage.skip else ""
    text = f"{sources}residual {first.conv1.out_channels}" + (" + attention" if attends else "")
    return text, VIOLET if attends else BLUE, True


def main() -> None:
    """Draw the network."""
    experiment = load_experiment("cifar10_ddpm")
    network, size = build_model(experiment).network, experiment.data.image_size
    per_level = experiment.model.network.num_res_blocks + 1
    channels = network.conv_in.in_channels
    mpl.rcParams["svg.hashsalt"] = "diffexp"
    figure, axes = plt.subplots(figsize=(9.6, 7.3), facecolor="white")
    figure.subplots_adjust(0, 0, 1, 1)

    rows = len(network.down) + 1
    heights = [-(i * STEP + i // per_level * GAP) for i in range(rows)]
    x_t = heights[0] + 0.62
    axes.text(LEFT, x_t, f"$x_t$: {channels} × {size} × {size}", ha="center", va="center", fontsize=10)
    arrow(axes, (LEFT, x_t - 0.13), (LEFT, heights[0] + 0.16))
    levels = [(f"conv 3×3: {network.conv_in.out_channels}", GREY, False), *map(described, network.down)]
    joined = [stage for stage in network.up if stage.skip]
    for i, (y, (text, colour, sees_t)) in enumerate(zip(heights, levels, strict=True)):
        box(axes, LEFT, y, text, colour)
        if i:
            arrow(axes, (LEFT, heights[i - 1] - 0.16), (LEFT, y + 0.16))
        if sees_t:
            axes.plot(LEFT - 1.17, y, "o", color=ORANGE, markersize=6, clip_on=False)
        # the last map kept on the way down is the first used on the way up
        text, colour, _ = described(joined[rows - 1 - i])
        box(axes, RIGHT, y, text, colour)
        axes.plot(RIGHT + 1.17, y, "o", color=ORANGE, markersize=6, clip_on=False)
        arrow(axes, (LEFT + 1.19, y), (RIGHT - 1.19, y), "tab:blue")
        if i % per_level == 0:
            side = size // 2 ** (i // per_level)
            axes.text(MIDDLE, y + 0.2, f"{side} × {side}", ha="center", va="center", fontsize=10, weight="bold")
        elif i == 1:
            axes.text(MIDDLE, y + 0.09, "skip: concatenate", ha="center", fontsize=9, color="tab:blue")
    ups = [stage for stage in network.up if isinstance(stage[0], Upsample)]
    for i in range(rows - 1):
        if (i + 1) % per_level:
            arrow(axes, (RIGHT, heights[i + 1] + 0.16), (RIGHT, heights[i] - 0.16))
        else:
            y, stage = (heights[i] + heights[i + 1]) / 2, ups[len(ups) - 1 - i // per_level]
            box(axes, RIGHT, y, described(stage)[0], GREEN)
            arrow(axes, (RIGHT, heights[i + 1] + 0.16), (RIGHT, y - 0.16))
            arrow(axes, (RIGHT, y + 0.16), (RIGHT, heights[i] - 0.16))

    arrow(axes, (RIGHT, heights[0] + 0.16), (RIGHT, x_t - 0.16))
    box(axes, RIGHT, x_t, f"norm, SiLU, conv 3×3: {network.conv_out.out_channels}", GREY)
    axes.text(RIGHT, x_t + 0.42, f"output: {channels} × {size} × {size}", ha="center", va="center", fontsize=10)
    arrow(axes, (RIGHT, x_t + 0.16), (RIGHT, x_t + 0.3))

    bottom = heights[-1] - 0.75
    for x, block in zip((LEFT, MIDDLE, RIGHT), network.middle, strict=True):
        sees_t = isinstance(block, ResidualBlock)
        text = f"residual {block.conv1.out_channels}" if sees_t else "attention"
        box(axes, x, bottom, text, BLUE if sees_t else VIOLET)
        if sees_t:
            axes.plot(x + (-1.17 if x == LEFT else 1.17), bottom, "o", color=ORANGE, markersize=6, clip_on=False)
    arrow(axes, (LEFT, heights[-1] - 0.16), (LEFT, bottom + 0.16))
    arrow(axes, (LEFT + 1.17, bottom), (MIDDLE - 1.17, bottom))
    arrow(axes, (MIDDLE + 1.17, bottom), (RIGHT - 1.17, bottom))
    arrow(axes, (RIGHT, bottom + 0.16), (RIGHT, heights[-1] - 0.16))

    frequencies, features = network.time.layers[0].in_features, network.time.layers[0].out_features
    parts = [
        *("timestep $t$", f"sines and cosines: {frequencies}", f"linear: {features}, SiLU", f"linear: {features}"),
        *(f"sum $e$: {features}", f"class embedding: {features}", "class label,\nonly with model.classes"),
    ]
    for i, text in enumerate(parts):
        y = x_t - i * 0.58 - (0.1 if i == len(parts) - 1 else 0)
        if 0 < i < len(parts) - 1:
            box(axes, EMBEDDING, y, text, "#f9cb9c" if text[0] == "s" and "$e$" in text else GREY, 1.9, dashed=i == 5)
        else:
            axes.text(EMBEDDING, y, text, ha="center", va="center", fontsize=10 if i == 0 else 9)
        if 0 < i < 5:
            arrow(axes, (EMBEDDING, y + 0.42), (EMBEDDING, y + 0.16))
        elif i == 5:
            arrow(axes, (EMBEDDING, y + 0.16), (EMBEDDING, y + 0.42))
        elif i == 6:
            arrow(axes, (EMBEDDING, y + 0.2), (EMBEDDING, y + 0.52))
    legend = x_t - len(parts) * 0.58 - 0.4
    axes.plot(EMBEDDING - 0.9, legend, "o", color=ORANGE, markersize=6)
    axes.text(EMBEDDING - 0.75, legend, "adds linear(SiLU($e$)) to\nits feature maps", va="center", fontsize=9)
    axes.set(xlim=(0, 10.9), ylim=(bottom - 0.3, x_t + 0.65), aspect="equal")
    axes.axis("off")
    figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)


if __name__ == "__main__":
    main()
