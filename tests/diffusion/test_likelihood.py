import itertools
import math

import pytest
import torch

from diffexp.diffusion import schedules
from diffexp.diffusion.bound import Bound
from diffexp.diffusion.encoding import encode
from diffexp.diffusion.likelihood import bound, dequantised, ode, strata
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Denoised
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.schedules import Schedule
from tests.helpers.gaussian import MEAN, STD, gaussian_denoiser
from tests.helpers.mixture import mixture_denoiser

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


def test_strata_are_a_partition_whose_first_timestep_is_alone():
    few = [(timesteps, count) for timesteps in range(1, 40) for count in range(1, timesteps + 1)]
    for timesteps, count in [*few, (1000, 2), (1000, 100), (1000, 999), (4000, 250)]:
        runs = strata(timesteps, count)
        assert [t for run in runs for t in run] == list(range(timesteps))
        assert len(runs) == count
        assert all(runs)
        assert runs[0] == range(timesteps if count == 1 else 1)
    assert max(run.stop for run in strata(1000, 100) if len(run) == 1) > 50
    assert [len(run) for run in strata(1000, 4)] == [1, 9, 90, 900]


def exact_estimate(schedule):
    """E[x_0 given x_t] of images whose pixels are N(MEAN, STD²), in the form that `bound` calls."""

    def estimate(x_t, t):
        alpha_bar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        gain = alpha_bar.sqrt() * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        return MEAN + gain * (x_t - alpha_bar.sqrt() * MEAN), None

    return estimate


@pytest.mark.parametrize(("timesteps", "count"), [(24, 2), (24, 5), (24, 23), (40, 6)])
def test_the_mean_over_every_timestep_that_could_be_drawn_is_the_sum_of_all_terms(timesteps, count):
    """Exhaustive: as many equally likely offsets as every stratum's length divides, under the same noise."""
    schedule = Schedule(schedules.linear(timesteps, rescale="1000/T"))
    terms, estimate = Bound(schedule, "fixed_large"), exact_estimate(schedule)
    x0 = (images(1) * 127.5).round() / 127.5
    offsets = math.lcm(*(len(run) for run in strata(timesteps, count)))
    uniform = (torch.arange(offsets, dtype=torch.float64) + 0.5) / offsets
    noise = torch.randn(1, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draws = itertools.chain([torch.special.ndtri(uniform).view(-1, 1, 1, 1)], itertools.repeat(noise))
    estimates = bound(terms, estimate, x0.expand(offsets, 1, 2, 2), count, lambda: next(draws))

    t = torch.arange(timesteps)
    x_t = schedule.add_noise(x0.expand(timesteps, 1, 2, 2), noise.expand(timesteps, 1, 2, 2), t)
    every = terms.term(x0.expand(timesteps, 1, 2, 2), x_t, t, *estimate(x_t, t))
    assert estimates.mean().item() == pytest.approx((terms.prior(x0) + every.sum()).item(), rel=1e-12)


def test_a_tenth_of_the_terms_is_nearly_as_certain_as_all():
    """What varies with an exact denoiser and one image: the noise alone for all T, also the timesteps for fewer.

    Equal parts, of which each gives one term, make the term of t = 0 count ten times or not at all.
    """
    schedule, count = Schedule(schedules.linear(200, rescale="1000/T")), 150
    terms, estimate = Bound(schedule, "fixed_large"), exact_estimate(schedule)
    x0 = ((images(16) * 127.5).round() / 127.5).view(1, 1, 8, 8).expand(count, 1, 8, 8)
    source = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(x0.shape, generator=source, dtype=torch.float64)

    def equal_parts():
        total = terms.prior(x0)
        offset = torch.rand(count, generator=source, dtype=torch.float64)
        for part in range(20):
            t = ((part + offset) * 10).long()
            x_t = schedule.add_noise(x0, draw(), t)
            total = total + 10 * terms.term(x0, x_t, t, *estimate(x_t, t))
        return total

    every, tenth, before = bound(terms, estimate, x0, 200, draw), bound(terms, estimate, x0, 20, draw), equal_parts()
    assert tenth.mean().item() == pytest.approx(every.mean().item(), abs=4 * tenth.std().item() / math.sqrt(count / 2))
    assert tenth.std() < 1.3 * every.std()
    assert tenth.std() < before.std() / 10


def test_all_terms_and_a_part_of_them_agree_and_bound_the_entropy():
    schedule = Schedule(schedules.linear(200, rescale="1000/T"))
    terms, source = Bound(schedule, "fixed_small"), torch.Generator().manual_seed(0)
    x0, estimate = (images(4000) * 127.5).round() / 127.5, exact_estimate(schedule)

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
        *_, state = DDIM().trajectory(denoiser, SCHEDULE, path, encode(denoiser, SCHEDULE, path, x0), None)
        errors.append((state.x - x0).square().mean().item())
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-5
