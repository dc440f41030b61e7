"""Timestep paths: which S of the T timesteps a sampler visits (Song et al. 2021, section 4.2).

A path is a list of S pairs (t, t_prev), from the noisiest t to the data. t decreases strictly, each t_prev is the next
pair's t, and the last t_prev is -1, the data. Computing t_prev as t - T//S, as some libraries do, is wrong unless S
divides T.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

Path = list[tuple[int, int]]

SPACINGS = ("arctan", "leading", "trailing", "linspace", "quadratic", "quadratic-0.8", "karras", "logsnr")

_RHO = 7  # ρ of Karras et al. 2022, eq. 5
_POWER = 2 / 3  # of the "arctan" spacing; measurements in docs/guides/solvers.md


def timestep_path(
    timesteps: int, steps: int | None = None, spacing: str = "arctan", alphas_cumprod: Sequence[float] | None = None
) -> Path:
    """Return the path of S timesteps under a spacing rule.

    The rules, for i = 0 … S-1 in increasing t:

    - "arctan" (default): equal steps of arctan((√(1-ᾱ)/√ᾱ)^(2/3)) from the data (0) to T-1. With the power 1 these
      would be equal angles, which is "trailing" on the cosine schedule. The power 2/3 shortens the long steps at both
      ends in log-SNR.
    - "leading": ⌊i T/S⌋. Starts at t = 0 and does not reach T-1 (the linear rule of the DDIM paper).
    - "trailing": ⌊(i+1) T/S⌋ - 1. Ends at T-1.
    - "linspace": round(i (T-1)/(S-1)). Includes both ends; S = 1 visits T-1.
    - "quadratic": ⌊c i²⌋ with the last t at T-1 (the DDIM paper's rule for CIFAR-10).
    - "quadratic-0.8": the same with the last t at 0.8 T (the DDIM authors' code).
    - "karras": equal steps of (√(1-ᾱ)/√ᾱ)^(1/7) from t = 0 to T-1 (Karras et al. 2022, eq. 5).
    - "logsnr": equal steps of log(ᾱ/(1-ᾱ)) from t = 0 to T-1 (Lu et al. 2022).

    The quadratic rules would repeat the smallest t. They visit max(i, ⌊c i²⌋) instead, which gives S distinct t.
    "arctan", "karras" and "logsnr" visit the t whose ᾱ is nearest, or the next t not visited yet.

    Args:
        timesteps: T, the number of training timesteps.
        steps: S in [1, T]; None visits all T.
        spacing: the rule, one of `SPACINGS`.
        alphas_cumprod: ᾱ, decreasing, of length T. Only "arctan", "karras" and "logsnr" need it, and only for S < T.

    Returns:
        [(t_S, t_{S-1}), …, (t_2, t_1), (t_1, -1)].

    Raises:
        ValueError: if steps is outside [1, T], spacing is unknown, or alphas_cumprod is required but missing.
    """
    count = timesteps if steps is None else steps
    if not 1 <= count <= timesteps:
        raise ValueError(f"steps: expected an integer in [1, T = {timesteps}], got {count}.")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: expected one of {', '.join(SPACINGS)}, got {spacing!r}.")
    if count == timesteps:
        visited = list(range(timesteps))
    elif spacing in ("arctan", "karras", "logsnr"):
        if alphas_cumprod is None:
            raise ValueError(f"alphas_cumprod: expected ᾱ for spacing {spacing}, got None.")
        visited = _by_noise(alphas_cumprod, count, spacing)
    else:
        visited = _by_index(timesteps, count, spacing)
    return list(zip(reversed(visited), [*reversed(visited[:-1]), -1], strict=True))


def _by_index(timesteps: int, steps: int, spacing: str) -> list[int]:
    last = timesteps - 1
    if spacing == "leading":
        return [i * timesteps // steps for i in range(steps)]
    if spacing == "trailing":
        return [(i + 1) * timesteps // steps - 1 for i in range(steps)]
    if spacing == "linspace":
        return [round(i * last / (steps - 1)) for i in range(steps)] if steps > 1 else [last]
    if spacing == "quadratic":
        return _quadratic(steps, last)
    # the authors' code: numpy.linspace(0, √(0.8 T), S)**2, truncated to integers
    return _quadratic(steps, min(last, math.floor(0.8 * timesteps)))


def _quadratic(steps: int, last: int) -> list[int]:
    if steps == 1:
        return [last]
    return [max(i, last * i**2 // (steps - 1) ** 2) for i in range(steps)]


def _by_noise(alphas_cumprod: Sequence[float], steps: int, spacing: str) -> list[int]:
    """Return the timesteps nearest to equal steps on a scale that grows with the noise, each once, ending at T-1."""
    last = len(alphas_cumprod) - 1
    scale = {"arctan": _arctan, "karras": _karras, "logsnr": _log_noise}[spacing]
    # An unbounded scale ends at the noisiest t with a finite log-SNR.
    heights = [scale(alpha_bar) for alpha_bar in alphas_cumprod if alpha_bar > 0 or spacing == "arctan"]
    if spacing == "arctan":
        wanted_heights = _equal_steps(0.0, heights[-1], steps + 1)[1:]  # 0 is the height of the data
    else:
        wanted_heights = _equal_steps(heights[0], heights[-1], steps)
    visited: list[int] = []
    for i, wanted in enumerate(wanted_heights):
        above = min(bisect_left(heights, wanted), len(heights) - 1)
        nearest = min(max(above - 1, 0), above, key=lambda t: abs(heights[t] - wanted))
        free = visited[-1] + 1 if visited else 0
        visited.append(min(max(nearest, free), last - (steps - 1 - i)))
    visited[-1] = last
    return visited


def _equal_steps(low: float, high: float, steps: int) -> list[float]:
    return [low + (high - low) * i / (steps - 1) for i in range(steps)] if steps > 1 else [high]


def _arctan(alpha_bar: float) -> float:
    return math.atan(((1 - alpha_bar) / alpha_bar) ** (_POWER / 2)) if alpha_bar > 0 else math.pi / 2


def _karras(alpha_bar: float) -> float:
    return math.exp(_log_noise(alpha_bar) / (2 * _RHO))


def _log_noise(alpha_bar: float) -> float:
    return math.log((1 - alpha_bar) / alpha_bar)
