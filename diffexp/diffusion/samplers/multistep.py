"""Exponential integrators for the probability-flow ODE, the basis of DPM-Solver++ and UniPC.

In λ = log(√ᾱ/√(1-ᾱ)), half the log-SNR, and with σ = √(1-ᾱ), the ODE has the exact solution from s to t (Lu et al.
2022b, eq. 8, "data prediction")::

    x_t = (σ_t/σ_s) x_s + σ_t ∫_{λ_s}^{λ_t} e^λ x̂_0(x_λ, λ) dλ

Solvers differ in how they approximate x̂_0 between the levels. Order 1 takes it as constant, which is DDIM with η = 0.
The step onto the data, where λ = ∞, has order 1 in all solvers.

Order 3 extrapolates x̂_0 by a parabola, which over long steps is worse than a line. Along the ODE of a Gaussian, x̂_0
is the square root of a logistic function of 2λ, whose singularities are π/2 from the real axis. Steps longer than
`LONGEST_OF_ORDER_3` therefore have order 2.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.schedules import Schedule

log = logging.getLogger(__name__)

Order = Literal[1, 2, 3]
LONGEST_OF_ORDER_3 = 0.7  # in λ for the ODE, in 2λ for the SDE; measurements in docs/guides/solvers.md


@dataclass(frozen=True)
class Level:
    """A noise level, given by ᾱ in [0, 1]."""

    alpha_bar: float

    @property
    def signal(self) -> float:
        """√ᾱ."""
        return math.sqrt(self.alpha_bar)

    @property
    def sigma(self) -> float:
        """√(1-ᾱ)."""
        return math.sqrt(1 - self.alpha_bar)

    @property
    def lambda_(self) -> float:
        """λ = log(√ᾱ/√(1-ᾱ)): ∞ on the data, -∞ in pure noise."""
        if self.alpha_bar in (0, 1):
            return math.inf if self.alpha_bar else -math.inf
        return 0.5 * (math.log(self.alpha_bar) - math.log1p(-self.alpha_bar))


@dataclass(frozen=True)
class PastEstimate:
    """The x̂_0 of an earlier network call, and its noise level."""

    level: Level
    x0: Tensor


def step_orders(wanted: int, schedule: Schedule, path: Path, rate: int = 1) -> list[int]:
    """Return the order of every step of a path.

    An order is at most `wanted`, and at most the number of calls so far at finite λ. It decreases to 1 at the last
    step. It is 2 instead of 3 where `rate` times the step in λ exceeds `LONGEST_OF_ORDER_3`.

    Args:
        wanted: the requested order.
        schedule: the noise schedule, which gives ᾱ.
        path: pairs (t, t_prev).
        rate: 1 for the ODE, 2 for the SDE.
    """
    lambdas = [Level(schedule.alpha_bar(t)).lambda_ for t in (path[0][0], *(t_prev for _, t_prev in path))]
    orders: list[int] = []
    finite = 0
    for number, (now, then) in enumerate(pairwise(lambdas)):
        finite += now > -math.inf
        short = rate * (then - now) <= LONGEST_OF_ORDER_3
        orders.append(max(1, min(wanted, finite, len(path) - number, 3 if short else 2)))
    return orders


@cache
def warn_of_order(sampler: str, wanted: int, reached: int, steps: int) -> None:
    """Warn, once in a process, that no step of a path reaches the requested order."""
    log.warning(
        "sampler.order: expected steps short enough for order %d of %s, got at most order %d with %d steps. "
        "Use more steps, or order: %d.",
        *(wanted, sampler, reached, steps, reached),
    )


def differences(seen: Sequence[PastEstimate], then: Level, weights: Sequence[float]) -> list[tuple[float, Tensor]]:
    """Return Σ_k weight_k · D_k as terms (coefficient, x̂_0) over the past calls.

    D_0 = x̂_0, and D_1 and D_2 are finite differences that approximate h x̂_0' and h² x̂_0''.
    """
    now = seen[0].level
    h = then.lambda_ - now.lambda_
    if len(seen) == 1:
        return [(weights[0], seen[0].x0)]
    r0 = (now.lambda_ - seen[1].level.lambda_) / h
    if len(seen) == 2:
        w = weights[1] / r0
        return [(weights[0] + w, seen[0].x0), (-w, seen[1].x0)]
    r1 = (seen[1].level.lambda_ - seen[2].level.lambda_) / h
    # D_1 = a + r0/(r0+r1) (a - b), D_2 = (a - b)/(r0+r1), with a = (m0-m1)/r0, b = (m1-m2)/r1
    spread = (weights[1] * r0 + weights[2]) / (r0 + r1)
    of_a, of_b = (weights[1] + spread) / r0, -spread / r1
    return [(weights[0] + of_a, seen[0].x0), (of_b - of_a, seen[1].x0), (-of_b, seen[2].x0)]
