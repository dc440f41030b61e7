"""Draw docs/images/path.svg: the timesteps that three spacings visit in 10 steps, on the curve of log-SNR.

python docs/images/path.py docs/images/path.svg
"""

import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from diffexp import Schedule, cosine, linear, timestep_path
from diffexp.diffusion.schedules import MUCH_SIGNAL

T, STEPS = 1000, 10
SCHEDULES = {"linear": Schedule(linear(T)), "cosine": Schedule(cosine(T))}
SPACINGS = {"arctan": "arctan (the default)", "leading": "leading (uniform)", "quadratic": "quadratic"}
CURVE = [*range(40), *range(40, T - 40, 8), *range(T - 40, T)]  # the timesteps at which the curve is drawn
PURE_NOISE = MUCH_SIGNAL**2 / (1 - MUCH_SIGNAL**2)  # the SNR below which a path may start


def main() -> None:
    """Draw a row of panels for each schedule, a column for each spacing."""
    mpl.rcParams["svg.hashsalt"] = "diffexp"
    figure, axes = plt.subplots(
        len(SCHEDULES), len(SPACINGS), figsize=(9, 5.4), sharex=True, sharey="row", layout="constrained",
        facecolor="white",
    )  # fmt: skip
    for row, (name, schedule) in zip(axes, SCHEDULES.items(), strict=True):
        alphas = schedule.alphas_cumprod
        snr = alphas / (1 - alphas)
        for panel, (spacing, title) in zip(row, SPACINGS.items(), strict=True):
            visited = [t for t, _ in timestep_path(T, STEPS, spacing, alphas.tolist())]
            start, signal = visited[0], f"{schedule.alpha_bar(visited[0]) ** 0.5:.2g}".replace("e-05", "·10⁻⁵")
            panel.semilogy(CURVE, snr[CURVE], color="0.6", linewidth=1.5)
            panel.axhspan(float(snr[-1]) / 5, PURE_NOISE, color="tab:orange", alpha=0.15, linewidth=0)
            panel.hlines(snr[visited], -40, visited, color="tab:blue", linewidth=0.7, alpha=0.6)
            panel.plot(visited, snr[visited], "o", color="tab:blue", markersize=5)
            panel.plot(start, snr[start], "o", color="tab:red", markersize=7)
            panel.text(1020, 1e4, f"starts at t = {start}, √ᾱ = {signal}", ha="right", va="center", fontsize=9)
            panel.text(0, PURE_NOISE / 3, "√ᾱ ≤ 0.02: pure noise", fontsize=9, color="tab:brown", va="center")
            panel.set(xlim=(-40, 1040), ylim=(float(snr[-1]) / 5, 5e4))
            panel.set_title(title if name == "linear" else "", fontsize=10)
        row[0].set_ylabel(f"{name} schedule\nSNR = ᾱ / (1 − ᾱ)")
    figure.supxlabel("timestep t (sampling runs from right to left)", fontsize=10)
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
