"""The error of every solver against network calls, where the exact solution is known: `python -m tests.solver_errors`.

Writes the table of docs/solvers.md to the terminal.
"""

import torch

from diffexp.diffusion import schedules
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.samplers import DDIM, Sampler
from diffexp.diffusion.schedules import Schedule
from diffexp.diffusion.solvers import DPMSolver, Heun, UniPC
from tests.diffusion.mixture import mixture_denoiser, transported

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


def error(sampler: Sampler, calls: int) -> float:
    """Mean distance from where the ODE takes 201 points of x_T to t = 0, over a path of equal log-SNR steps."""
    schedule = Schedule(schedules.linear(1000))
    x = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    # the last of the steps goes onto the data, where all solvers return x̂_0: without it
    steps = calls // 2 + 1 if isinstance(sampler, Heun) else calls + 1
    path = timestep_path(1000, steps, "logsnr", schedule.alphas_cumprod.tolist())
    states = list(sampler.walk(mixture_denoiser(schedule), schedule, path, x, lambda: x))
    return (states[-2].x - transported(schedule, x, path[0][0], path[-1][0])).abs().mean().item()


def table() -> str:
    """As Markdown."""
    lines = [f"| error after … network calls | {' | '.join(map(str, CALLS))} |", "|---" * (len(CALLS) + 1) + "|"]
    for name, sampler in SAMPLERS.items():
        lines.append(f"| {name} | {' | '.join(f'{error(sampler, calls):.2g}' for calls in CALLS)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
