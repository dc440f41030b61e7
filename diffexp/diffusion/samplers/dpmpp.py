"""DPM-Solver++ (Lu et al. 2022b)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.samplers.base import SamplerState, check_start, combine, expect_one_of
from diffexp.diffusion.samplers.multistep import Level, Order, PastEstimate, differences, step_orders, warn_of_order
from diffexp.diffusion.schedules import Schedule


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ multistep (Lu et al. 2022b, algorithm 2), from s to t with h = λ_t - λ_s and σ = √(1-ᾱ)::

        ODE    x_t = (σ_t/σ_s) x_s + √ᾱ_t (1-e^{-h}) x̂_0 + …
        SDE    x_t = (σ_t/σ_s) e^{-h} x_s + √ᾱ_t (1-e^{-2h}) x̂_0 + … + σ_t √(1-e^{-2h}) z,      z ~ N(0, I)

    The terms … extrapolate x̂_0 from the last two or three network calls by finite differences in λ. The first steps
    have the order that the available calls allow.

    - Order 1 is DDIM: of the ODE with η = 0, of the SDE with η = 1.
    - Orders 1 and 2 agree with the authors' code.
    - Order 3 of the authors' code gives the second difference half the weight of Taylor's formula, so its error is of
      order 2 (docs/guides/solvers.md). diffexp uses the full weight.

    Args:
        order: order of the error, 1 to 3. With 3, steps longer than `LONGEST_OF_ORDER_3` have order 2.
        sde: sample the reverse SDE (SDE-DPM-Solver++) instead of the ODE, adding noise at every step but the last.

    Raises:
        ValueError: if the order is not 1, 2 or 3.
    """

    order: Order = 2
    sde: bool = False

    def __post_init__(self) -> None:
        expect_one_of("order", self.order, (1, 2, 3))

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """Sample along the path from x with one network call a step; see `Sampler.trajectory`."""
        check_start(schedule, path)
        rate = 2 if self.sde else 1
        orders = step_orders(self.order, schedule, path, rate)
        if max(orders) < self.order:
            warn_of_order("dpmpp, sde: true" if self.sde else "dpmpp", self.order, max(orders), len(path))
        seen: list[PastEstimate] = []
        for (t, t_prev), order in zip(path, orders, strict=True):
            now, then = Level(schedule.alpha_bar(t)), Level(schedule.alpha_bar(t_prev))
            x0 = denoiser(x, t).x0
            seen = [PastEstimate(now, x0), *seen[:2]]
            h = then.lambda_ - now.lambda_
            decay = math.exp(-h) if self.sde else 1.0
            weights = [then.signal * weight for weight in self._weights(rate * h, order)]
            x = combine((then.sigma / now.sigma * decay, x), *differences(seen[:order], then, weights))
            if self.sde and t_prev >= 0:
                x.add_(noise(), alpha=then.sigma * math.sqrt(-math.expm1(-2 * h)))
            yield SamplerState(t_prev, x, x0)

    @staticmethod
    def _weights(h: float, order: int) -> list[float]:
        """Return the weights of x̂_0 and of its first and second scaled differences; for the SDE, h is doubled."""
        first = -math.expm1(-h)
        if order == 1:
            return [first]
        if order == 2:
            return [first, 0.5 * first]
        return [first, 1 - first / h, 1 - 2 * (h - first) / h**2]
