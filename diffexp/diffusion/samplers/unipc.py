"""UniPC (Zhao et al. 2023)."""

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
    """UniPC multistep with B_2(h) = e^h - 1 (Zhao et al. 2023, algorithms 5 and 7), in data prediction.

    Every call corrects the step that led to its x before it predicts the next one, so that the order of the error is
    one above that of the predictor, and a step still takes one call.

    Args:
        order: of the predictor, 1 to 3; with 3, long steps have order 2 (`LONGEST_OF_ORDER_3`).
    """

    order: Order = 2

    def __post_init__(self) -> None:
        expect_one_of("order", self.order, (1, 2, 3))

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """See `diffexp.diffusion.samplers.base.Sampler.trajectory`."""
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
            corrected = order if now.lambda_ > -math.inf else 0  # from pure noise h is infinite: nothing to correct
            yield SamplerState(t_prev, x, x0)

    @staticmethod
    def _step(x: Tensor, seen: Sequence[PastEstimate], then: Level, corrected_by: PastEstimate | None = None) -> Tensor:
        """x from the level of the newest x̂_0 seen to `then`; with the x̂_0 there, the corrected one."""
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
