import itertools
import math

import pytest
import torch

from diffexp.diffusion import schedules
from diffexp.diffusion.bound import Bound
from diffexp.diffusion.encoding import encode
from diffexp.diffusion.likelihood import bound, dequantised, ode
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Denoised
from diffexp.diffusion.samplers import DDIM
from diffexp.diffusion.schedules import Schedule
from tests.diffusion.gaussian import MEAN, STD, gaussian_denoiser
from tests.diffusion.mixture import mixture_denoiser

SCHEDULE = Schedule(schedules.linear(1000))


def images(count=64):
    source = torch.Generator().manual_seed(0)
    return MEAN + STD * torch.randn(count, 1, 2, 2, generator=source, dtype=torch.float64)


def test_the_odes_bits_are_a_gaussians_density_to_second_order():
    """-log₂ of the normal density at the lowest noise level, in x/√ᾱ, per level and dimension."""
    schedule = Schedule(schedules.linear(100_000, beta_end=0.06, rescale="1000/T"))  # x_T is N(0, 1)
    x, probe = images(), torch.ones(64, 1, 2, 2, dtype=torch.float64)

    def error(steps):
        path = timestep_path(100_000, steps, "logsnr", schedule.alphas_cumprod.tolist())
        alpha_bar = schedule.alpha_bar(path[-1][0])
        normal = torch.distributions.Normal(MEAN, math.sqrt(STD**2 + (1 - alpha_bar) / alpha_bar))
        exact = -normal.log_prob(x).flatten(1).mean(1) / math.log(2) + math.log2(127.5)
        return (ode(gaussian_denoiser(schedule), schedule, path, x, probe) - exact).abs().mean().item()

    assert error(400) < 1e-4
    assert math.log2(error(50) / error(100)) == pytest.approx(2, abs=0.2)


def test_hutchinsons_estimate_is_unbiased():
    """v̂ = A x with a full matrix: the mean over all 16 probes of four elements has the trace, exactly."""
    matrix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    angles = {t: math.acos(SCHEDULE.alpha_bar(t) ** 0.5) for t, _ in timestep_path(1000, 10, "leading")}

    def denoiser(x, t):
        v = (x.flatten(1) @ matrix.T).view_as(x)
        cos, sin = math.cos(angles[t]), math.sin(angles[t])
        return Denoised(cos * x - sin * v, sin * x + cos * v)

    path, x = timestep_path(1000, 10, "leading"), images(1)
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4).view(16, 1, 2, 2)
    estimates = ode(denoiser, SCHEDULE, path, x.expand(16, 1, 2, 2), probes)
    # Heun's steps of a linear equation, and the trace along all of them
    steps = sorted(angles.values())
    at = math.cos(steps[0]) * x.flatten(1).T
    for width in (later - earlier for earlier, later in itertools.pairwise(steps)):
        at = (torch.eye(4) + width * matrix + width**2 / 2 * matrix @ matrix) @ at
    log_p = torch.distributions.Normal(0, 1).log_prob(at).sum() + (steps[-1] - steps[0]) * torch.trace(matrix)
    expected = math.log2(127.5) - (log_p.item() / 4 + math.log(math.cos(steps[0]))) / math.log(2)
    assert estimates.std() > 1e-3
    assert estimates.mean().item() == pytest.approx(expected, rel=1e-9)


def test_a_uniform_density_has_8_bits():
    """255 of the 256 levels' widths fit between the outer ones, half a level beyond each: log₂ 256 in all."""
    levels = torch.arange(256, dtype=torch.float64).view(256, 1, 1, 1) / 127.5 - 1
    spread = dequantised(levels, torch.randn(256, 1, 1, 1, dtype=torch.float64))
    assert ((spread - levels).abs() <= 0.5 / 127.5).all()
    width = 256 / 127.5
    assert math.log2(width) + math.log2(127.5) == pytest.approx(8)
    ends = dequantised(levels[[0, -1]], torch.tensor([-40.0, 40.0], dtype=torch.float64).view(2, 1, 1, 1))
    assert (ends[1] - ends[0]).item() == pytest.approx(width)


def test_all_terms_and_a_part_of_them_agree_and_bound_the_entropy():
    schedule = Schedule(schedules.linear(200, rescale="1000/T"))
    terms, source = Bound(schedule, "fixed_small"), torch.Generator().manual_seed(0)
    x0 = (images(4000) * 127.5).round() / 127.5
    alphas = schedule.alphas_cumprod

    def estimate(x_t, t):
        alpha_bar = alphas[t].view(-1, 1, 1, 1)
        gain = alpha_bar.sqrt() * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        return MEAN + gain * (x_t - alpha_bar.sqrt() * MEAN), None

    def draw():
        return torch.randn(x0.shape, generator=source, dtype=torch.float64)

    whole, part = (bound(terms, estimate, x0, count, draw) for count in (200, 10))
    spread = math.hypot(whole.std().item(), part.std().item()) / math.sqrt(4000)
    assert whole.mean().item() == pytest.approx(part.mean().item(), abs=4 * spread)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * STD**2) + math.log2(127.5)
    assert entropy < whole.mean().item() < entropy + 1.5


def test_encoding_and_decoding_comes_back_the_closer_the_more_steps():
    x0 = torch.linspace(-1, 1.2, 41, dtype=torch.float64)
    denoiser = mixture_denoiser(SCHEDULE)
    errors = []
    for steps in (10, 20, 50, 100, 200, 500, 1000):
        path = timestep_path(1000, steps, "leading")
        *_, state = DDIM().walk(denoiser, SCHEDULE, path, encode(denoiser, SCHEDULE, path, x0), None)
        errors.append((state.x - x0).square().mean().item())
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-5
