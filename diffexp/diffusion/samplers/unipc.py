"""UniPC, a unified predictor-corrector (Zhao et al. 2023)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.samplers.base import SamplerState, check_start, combine, expect_one_of
from diffexp.diffusion.samplers.multistep import Level, Order, PastEstimate, step_orders, warn_of_order
from diffexp.diffusion.schedules import Schedule


@dataclass(frozen=True)
class UniPC:
    """UniPC multistep in data prediction, with B_2(h) = e^h - 1 (Zhao et al. 2023, algorithms 5 and 7).

    Each network call first corrects the step that led to its x, then predicts the next step. The order of the error is
    thus one above the predictor's, at one call a step.

    Args:
        order: order of the predictor, 1 to 3. With 3, steps longer than `LONGEST_OF_ORDER_3` have order 2.

    Raises:
        ValueError: if the order is not 1, 2 or 3.
    """

    order: Order = 2

    def __post_init__(self) -> None:
        expect_one_of("order", self.order, (1, 2, 3))

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """Sample along the path from x with one network call a step; see `Sampler.trajectory`."""
        check_start(schedule, path)
        orders = step_orders(self.order, schedule, path)
        if max(orders) < self.order:
            warn_of_order("unipc", self.order, max(orders), len(path))
        seen: list[PastEstimate] = []
        before, corrected = x, 0
        for (t, t_prev), order in zip(path, orders, strict=True):
            now, then = Level(schedule.alpha_bar(t)), Level(schedule.alpha_bar(t_prev))
            x0 = denoiser(x, t).x0
            if corrected:
                x = self._step(before, seen[:corrected], now, PastEstimate(now, x0))
            seen = [PastEstimate(now, x0), *seen[:2]]
            before, x = x, self._step(x, seen[:order], then)
            corrected = order if now.lambda_ > -math.inf else 0  # from pure noise h is infinite: no correction
            yield SamplerState(t_prev, x, x0)

    @staticmethod
    def _step(x: Tensor, seen: Sequence[PastEstimate], then: Level, corrected_by: PastEstimate | None = None) -> Tensor:
        """Step from the level of the latest x̂_0 to `then`; with the x̂_0 there, the step is the corrected one."""
        now, newest = seen[0].level, seen[0].x0
        h = then.lambda_ - now.lambda_
        others = [*seen[1:], *([] if corrected_by is None else [corrected_by])]
        b = -math.expm1(-h)
        terms = [(then.sigma / now.sigma, x), (then.signal * b, newest)]
        if others:
            ratios = [(each.level.lambda_ - now.lambda_) / h for each in others]
            for ratio, weight, each in zip(ratios, _unipc_weights(ratios, h, b), others, strict=True):
                w = then.signal * b * weight / ratio
                terms += [(w, each.x0), (-w, newest)]
        return combine(*terms)


def _unipc_weights(ratios: Sequence[float], h: float, b: float) -> list[float]:
    """Return the weights of the differences at λ_s + r h, r in `ratios`, that match Taylor's terms.

    See Zhao et al. 2023, eq. 5. A single weight is 1/2 for every h, as in the authors' code.
    """
    if len(ratios) == 1:
        return [0.5]
    # φ_1 = (e^{-h} - 1)/(-h), φ_{k+1} = (φ_k - 1/k!)/(-h); phi = -h φ_{k+1}
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
