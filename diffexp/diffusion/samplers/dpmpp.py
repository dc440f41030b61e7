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
    """DPM-Solver++ multistep (Lu et al. 2022b, algorithm 2), with h = λ_t - λ_s:

        x_t = (σ_t/σ_s) x_s + √ᾱ_t (1-e^{-h}) x̂_0 + …                                     the ODE
        x_t = (σ_t/σ_s) e^{-h} x_s + √ᾱ_t (1-e^{-2h}) x̂_0 + … + σ_t √(1-e^{-2h}) z         the SDE

    where … extrapolates x̂_0 from the last two or three calls by its differences over λ. Order 1 of the ODE is DDIM; of
    the SDE, DDIM with η = 1. The first steps have the order that what was seen allows. Orders 1 and 2 are the authors'
    code; its order 3 gives the second difference half the weight that Taylor's formula does, and so an error of order
    2 only (docs/guides/solvers.md): here it has the whole weight.

    Args:
        order: of the error, 1 to 3; with 3, long steps have order 2 (`LONGEST_OF_ORDER_3`).
        sde: sample the reverse SDE instead of the ODE (SDE-DPM-Solver++): noise at every step but the last.
    """

    order: Order = 2
    sde: bool = False

    def __post_init__(self) -> None:
        expect_one_of("order", self.order, (1, 2, 3))

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """See `diffexp.diffusion.samplers.base.Sampler.trajectory`."""
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
        """The weights of x̂_0 and of its first and second scaled differences; h is doubled for the SDE."""
        first = -math.expm1(-h)
        if order == 1:
            return [first]
        if order == 2:
            return [first, 0.5 * first]
        return [first, 1 - first / h, 1 - 2 * (h - first) / h**2]
