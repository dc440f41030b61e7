"""The error of every solver against network calls, where the exact solution is known.

`python -m tests.helpers.solver_errors` writes the two tables of docs/guides/solvers.md to the terminal: this one, and
what the longest step of order 3 does.
"""

import math
from collections.abc import Callable
from unittest import mock

import torch

from diffexp.diffusion import schedules
from diffexp.diffusion.paths import SPACINGS, timestep_path
from diffexp.diffusion.samplers import multistep
from diffexp.diffusion.samplers.base import Sampler
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.samplers.dpmpp import DPMSolver
from diffexp.diffusion.samplers.heun import Heun
from diffexp.diffusion.samplers.unipc import UniPC
from diffexp.diffusion.schedules import Schedule
from tests.helpers.gaussian import errors_of_std
from tests.helpers.mixture import mixture_denoiser, transported

SAMPLERS: dict[str, Sampler] = {
    "DDIM (DPM-Solver++ of order 1)": DDIM(),
    "Heun": Heun(),
    "DPM-Solver++, order 2": DPMSolver(2),
    "DPM-Solver++, order 3": DPMSolver(3),
    "UniPC, order 1": UniPC(1),
    "UniPC, order 2": UniPC(2),
    "UniPC, order 3": UniPC(3),
}
CALLS = (6, 8, 10, 16, 24, 50, 100)

HIGHER_ORDERS: dict[str, Callable[[multistep.Order], Sampler]] = {
    "DPM-Solver++": DPMSolver,
    "its SDE form": lambda order: DPMSolver(order, sde=True),
    "UniPC": UniPC,
}
LIMITS = (0.3, 0.5, 0.7, 0.9, 1.2, math.inf)
FEW, MORE = (5, 6, 8, 10, 12), (15, 20, 30, 50)
SMALLEST = 2e-3  # an error, against quotients of errors that cross zero


def error(sampler: Sampler, calls: int) -> float:
    """Mean distance from where the ODE takes 201 points of x_T to t = 0, over a path of equal log-SNR steps."""
    schedule = Schedule(schedules.linear(1000))
    x = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    # the last of the steps goes onto the data, where all solvers return x̂_0: without it
    steps = calls // 2 + 1 if isinstance(sampler, Heun) else calls + 1
    path = timestep_path(1000, steps, "logsnr", schedule.alphas_cumprod.tolist())
    states = list(sampler.trajectory(mixture_denoiser(schedule), schedule, path, x, lambda: x))
    return (states[-2].x - transported(schedule, x, path[0][0], path[-1][0])).abs().mean().item()


def table() -> str:
    """As Markdown."""
    lines = [f"| error after … network calls | {' | '.join(map(str, CALLS))} |", "|---" * (len(CALLS) + 1) + "|"]
    for name, sampler in SAMPLERS.items():
        lines.append(f"| {name} | {' | '.join(f'{error(sampler, calls):.2g}' for calls in CALLS)} |")
    return "\n".join(lines) + "\n"


def errors(sampler: Sampler, calls: tuple[int, ...]) -> torch.Tensor:
    """Of the standard deviations of Gaussians, over both schedules, all spacings and these numbers of calls."""
    found = []
    for schedule in (Schedule(schedules.linear(1000)), Schedule(schedules.cosine(1000))):
        for spacing in SPACINGS:
            for steps in calls:
                path = timestep_path(1000, steps, spacing, schedule.alphas_cumprod.tolist())
                found.append(errors_of_std(sampler, schedule, path))
    return torch.stack(found)


def limits_table() -> str:
    """By the longest step that has order 3: the geometric mean of its errors over those of order 2, and the largest
    difference, as Markdown.
    """
    heads = [f"{name}, {span} calls" for name in HIGHER_ORDERS for span in ("5–12", "15–50")]
    lines = [f"| longest step of order 3 | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    of_order_2 = {
        (name, calls): errors(make(2), calls) for name, make in HIGHER_ORDERS.items() for calls in (FEW, MORE)
    }
    for limit in LIMITS:
        with mock.patch.object(multistep, "LONGEST_OF_ORDER_3", limit):
            cells = []
            for (name, calls), two in of_order_2.items():
                three = errors(HIGHER_ORDERS[name](3), calls)
                mean = ((three + SMALLEST) / (two + SMALLEST)).log().mean().exp()
                cells.append(f"{mean:.2f} ({(three - two).max():+.2f})")
        lines.append(f"| {'any' if limit == math.inf else limit} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())
    print(limits_table(), end="")
