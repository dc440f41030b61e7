"""Solvers: samplers that use more than one network call for a step, so that few steps suffice.

In λ = log(√ᾱ/√(1-ᾱ)), half the log signal-to-noise ratio, the probability-flow ODE has the exact solution

    x_t = (σ_t/σ_s) x_s + σ_t ∫ e^λ x̂_0(x_λ, λ) dλ   from λ_s to λ_t,      σ = √(1-ᾱ)

(Lu et al. 2022b, eq. 8, the "data prediction" form). Solvers differ in how they guess x̂_0 between the levels; the
first order takes it as constant, which is DDIM. The step onto the data, whose λ is infinite, is of first order in all.

Order 3 extrapolates x̂_0 by a parabola, and over long steps that is worse than a line: along the ODE of a Gaussian x̂_0
is the root of a logistic function of 2λ, whose singularities are π/2 from the real axis. So a step that is longer than
`LONGEST_OF_ORDER_3` has order 2.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.samplers import State, check_start, combine
from diffexp.diffusion.schedules import Schedule

log = logging.getLogger(__name__)

Order = Literal[1, 2, 3]
LONGEST_OF_ORDER_3 = 0.7  # in λ for the ODE, in 2λ for the SDE; docs/solvers.md has the measurements behind it


@dataclass(frozen=True)
class Level:
    """A noise level ᾱ."""

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
    def lam(self) -> float:
        """λ = log(√ᾱ/√(1-ᾱ)): ∞ on the data, -∞ in pure noise."""
        if self.alpha_bar in (0, 1):
            return math.inf if self.alpha_bar else -math.inf
        return 0.5 * (math.log(self.alpha_bar) - math.log1p(-self.alpha_bar))


@dataclass(frozen=True)
class Seen:
    """An x̂_0 that the network gave at a level."""

    level: Level
    x0: Tensor


def _orders(wanted: int, schedule: Schedule, path: Path, rate: int = 1) -> list[int]:
    """The order of every step: at most the wanted one, and no more than the calls at finite λ behind it.

    It falls to 1 towards the last step, and from 3 to 2 where `rate` times the step in λ is above `LONGEST_OF_ORDER_3`.
    """
    lams = [Level(schedule.alpha_bar(t)).lam for t in (path[0][0], *(t_prev for _, t_prev in path))]
    orders: list[int] = []
    finite = 0
    for number, (now, then) in enumerate(pairwise(lams)):
        finite += now > -math.inf
        short = rate * (then - now) <= LONGEST_OF_ORDER_3
        orders.append(max(1, min(wanted, finite, len(path) - number, 3 if short else 2)))
    return orders


@cache
def _warn_of_order(sampler: str, wanted: int, reached: int, steps: int) -> None:
    """Warn, once in a process, that no step of a path has the order that was asked for."""
    log.warning(
        "sampler.order: expected steps that are short enough for order %d of %s, got at most order %d in %d steps. "
        "Take more steps, or order: %d",
        *(wanted, sampler, reached, steps, reached),
    )


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ multistep (Lu et al. 2022b, algorithm 2), with h = λ_t - λ_s:

        x_t = (σ_t/σ_s) x_s + √ᾱ_t (1-e^{-h}) x̂_0 + …                                     the ODE
        x_t = (σ_t/σ_s) e^{-h} x_s + √ᾱ_t (1-e^{-2h}) x̂_0 + … + σ_t √(1-e^{-2h}) z         the SDE

    where … extrapolates x̂_0 from the last two or three calls by its differences over λ. Order 1 of the ODE is DDIM; of
    the SDE, DDIM with η = 1. The first steps have the order that what was seen allows. Orders 1 and 2 are the authors'
    code; its order 3 gives the second difference half the weight that Taylor's formula does, and so an error of order
    2 only (docs/solvers.md): here it has the whole weight.

    Args:
        order: of the error, 1 to 3; with 3, long steps have order 2 (`LONGEST_OF_ORDER_3`).
        sde: sample the reverse SDE instead of the ODE (SDE-DPM-Solver++): noise at every step but the last.
    """

    order: Order = 2
    sde: bool = False

    def walk(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[State]:
        """See `diffexp.diffusion.samplers.Sampler.walk`."""
        check_start(schedule, path)
        rate = 2 if self.sde else 1
        orders = _orders(self.order, schedule, path, rate)
        if max(orders) < self.order:
            _warn_of_order("dpmpp, sde: true" if self.sde else "dpmpp", self.order, max(orders), len(path))
        seen: list[Seen] = []
        for (t, t_prev), order in zip(path, orders, strict=True):
            now, then = Level(schedule.alpha_bar(t)), Level(schedule.alpha_bar(t_prev))
            x0 = denoiser(x, t).x0
            seen = [Seen(now, x0), *seen[:2]]
            h = then.lam - now.lam
            decay = math.exp(-h) if self.sde else 1.0
            weights = [then.signal * weight for weight in self._weights(rate * h, order)]
            x = combine((then.sigma / now.sigma * decay, x), *_differences(seen[:order], then, weights))
            if self.sde and t_prev >= 0:
                x.add_(noise(), alpha=then.sigma * math.sqrt(-math.expm1(-2 * h)))
            yield State(t_prev, x, x0)

    @staticmethod
    def _weights(h: float, order: int) -> list[float]:
        """The weights of x̂_0 and of its first and second scaled differences; h is doubled for the SDE."""
        first = -math.expm1(-h)
        if order == 1:
            return [first]
        if order == 2:
            return [first, 0.5 * first]
        return [first, 1 - first / h, 1 - 2 * (h - first) / h**2]


def _differences(seen: Sequence[Seen], then: Level, weights: Sequence[float]) -> list[tuple[float, Tensor]]:
    """Σ weight · D_k, where D_0 = x̂_0 and D_1, D_2 approximate h x̂_0' and h² x̂_0'': as terms over the calls seen."""
    now = seen[0].level
    h = then.lam - now.lam
    if len(seen) == 1:
        return [(weights[0], seen[0].x0)]
    r0 = (now.lam - seen[1].level.lam) / h
    if len(seen) == 2:
        w = weights[1] / r0
        return [(weights[0] + w, seen[0].x0), (-w, seen[1].x0)]
    r1 = (seen[1].level.lam - seen[2].level.lam) / h
    # D_1 = a + r0/(r0+r1) (a - b) and D_2 = (a - b)/(r0+r1), of a = (m0-m1)/r0 and b = (m1-m2)/r1
    spread = (weights[1] * r0 + weights[2]) / (r0 + r1)
    of_a, of_b = (weights[1] + spread) / r0, -spread / r1
    return [(weights[0] + of_a, seen[0].x0), (of_b - of_a, seen[1].x0), (-of_b, seen[2].x0)]


@dataclass(frozen=True)
class UniPC:
    """UniPC multistep with B_2(h) = e^h - 1 (Zhao et al. 2023, algorithms 5 and 7), in data prediction.

    Every call corrects the step that led to its x before it predicts the next one, so that the order of the error is
    one above that of the predictor, and a step still takes one call.

    Args:
        order: of the predictor, 1 to 3; with 3, long steps have order 2 (`LONGEST_OF_ORDER_3`).
    """

    order: Order = 2

    def walk(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[State]:
        """See `diffexp.diffusion.samplers.Sampler.walk`."""
        check_start(schedule, path)
        orders = _orders(self.order, schedule, path)
        if max(orders) < self.order:
            _warn_of_order("unipc", self.order, max(orders), len(path))
        seen: list[Seen] = []
        before, corrected = x, 0
        for (t, t_prev), order in zip(path, orders, strict=True):
            now, then = Level(schedule.alpha_bar(t)), Level(schedule.alpha_bar(t_prev))
            x0 = denoiser(x, t).x0
            if corrected:
                x = self._step(before, seen[:corrected], now, Seen(now, x0))
            seen = [Seen(now, x0), *seen[:2]]
            before, x = x, self._step(x, seen[:order], then)
            corrected = order if now.lam > -math.inf else 0  # from pure noise h is infinite: nothing to correct
            yield State(t_prev, x, x0)

    @staticmethod
    def _step(x: Tensor, seen: Sequence[Seen], then: Level, corrected_by: Seen | None = None) -> Tensor:
        """x from the level of the newest x̂_0 seen to `then`; with the x̂_0 there, the corrected one."""
        now, newest = seen[0].level, seen[0].x0
        h = then.lam - now.lam
        others = [*seen[1:], *([] if corrected_by is None else [corrected_by])]
        b = -math.expm1(-h)
        terms = [(then.sigma / now.sigma, x), (then.signal * b, newest)]
        if others:
            ratios = [(each.level.lam - now.lam) / h for each in others]
            for ratio, weight, each in zip(ratios, _unipc_weights(ratios, h, b), others, strict=True):
                w = then.signal * b * weight / ratio
                terms += [(w, each.x0), (-w, newest)]
        return combine(*terms)


def _unipc_weights(ratios: Sequence[float], h: float, b: float) -> list[float]:
    """The weights of the differences at λ_s + r h, r of `ratios`, that match Taylor's terms (Zhao et al. 2023, eq. 5).

    A single one is 1/2 for every h, as in the authors' code.
    """
    if len(ratios) == 1:
        return [0.5]
    # φ_1 = e^{-h} - 1 over -h, φ_{k+1} = (φ_k - 1/k!)/(-h), times k! over B
    rows, right = [], []
    phi, factorial = b / h - 1, 1.0
    for power in range(len(ratios)):
        rows.append([ratio**power for ratio in ratios])
        right.append(-phi * factorial / b)
        factorial *= power + 2
        phi = -phi / h - 1 / factorial
    matrix = torch.tensor(rows, dtype=torch.float64)
    solved: list[float] = torch.linalg.solve(matrix, torch.tensor(right, dtype=torch.float64)).tolist()
    return solved


@dataclass(frozen=True)
class Heun:
    """Heun's method of second order (Karras et al. 2022, algorithm 1): two calls a step, one for the last.

    In x̄ = x/√ᾱ and s = √(1-ᾱ)/√ᾱ the ODE reads dx̄/ds = ε̂: a step of Euler's, which is DDIM, and then another with
    the mean of the ε̂ at its two ends.
    """

    def walk(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[State]:
        """See `diffexp.diffusion.samplers.Sampler.walk`."""
        check_start(schedule, path)
        for t, t_prev in path:
            now, then = Level(schedule.alpha_bar(t)), Level(schedule.alpha_bar(t_prev))
            denoised = denoiser(x, t)
            x = combine((then.signal, denoised.x0), (then.sigma, denoised.epsilon))
            if t_prev >= 0 and now.signal > 0:
                width = then.sigma - then.signal * now.sigma / now.signal
                slope = denoiser(x, t_prev).epsilon
                x = combine((1.0, x), (width / 2, slope), (-width / 2, denoised.epsilon))
            yield State(t_prev, x, denoised.x0)
