"""The denoising error at fixed levels, and the bound from it."""

import math
from itertools import pairwise

import pytest
import torch

from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.diffusion import schedules
from diffexp.diffusion.bound import Bound
from diffexp.diffusion.denoising_error import CALLS, LEVELS, DenoisingError
from diffexp.diffusion.schedules import Schedule
from diffexp.rng import DrawsAhead, RandomNumbers
from tests.helpers.gaussian import gaussian_denoiser

MEAN, STD = 0.1, 0.15  # clipping to [-1, 1] is rarer than 1 in 10⁸
IMAGES = 4000


def zero_terminal_snr(timesteps):
    betas = schedules.with_zero_terminal_snr(schedules.linear(timesteps, rescale="1000/T"))
    return Schedule(betas, zero_terminal_snr=True)


SCHEDULES = {
    "linear": Schedule(schedules.linear(1000)),
    "cosine": Schedule(schedules.cosine(1000)),
    "zero terminal SNR": zero_terminal_snr(1000),
    "cosine, T = 100": Schedule(schedules.cosine(100)),
    "linear, T = 25": Schedule(schedules.linear(25, rescale="1000/T")),
}


def draws(count, shape, seed=0):
    return DrawsAhead(RandomNumbers(seed, torch.arange(count)), shape).at


def estimator(schedule):
    """E[x_0 | x_t] of a Gaussian, at each image's own timestep."""
    denoise = gaussian_denoiser(schedule, MEAN, STD)

    def estimate(x_t, t):
        found = torch.empty_like(x_t)
        for each in t.unique().tolist():
            found[t == each] = denoise(x_t[t == each], each).x0
        return found

    return estimate


def gaussian_images(count=IMAGES):
    images = MEAN + STD * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return (images * 127.5).round() / 127.5  # 256 levels, whose rounding adds a variance of 0.0000051


def error_at(log_snr):
    """E (ε̂ - ε)² of a Gaussian: SNR s²/(1 + SNR s²)."""
    return 1 / (1 + math.exp(-log_snr) / STD**2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_error_of_a_gaussian_has_its_closed_form_at_every_level(name):
    schedule = SCHEDULES[name]
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).tolist()
    log_snr = [math.log(each) for each in snr if each > 0]
    errors, _ = DenoisingError(schedule).measure(estimator(schedule), gaussian_images(), draws(IMAGES, (1, 4, 4)))
    assert errors.shape == (IMAGES, len(LEVELS))
    for number, level in enumerate(LEVELS):
        inside = min(max(level, log_snr[-1]), log_snr[0])
        after = next(t for t, each in enumerate(log_snr) if each <= inside)
        below, above = log_snr[after], log_snr[max(after - 1, 0)]
        share = (inside - below) / (above - below) if above > below else 0.0
        expected = share * error_at(above) + (1 - share) * error_at(below)  # linear between two timesteps
        found, error = errors[:, number].mean().item(), errors[:, number].std().item() / IMAGES**0.5
        assert found == pytest.approx(expected, abs=4 * error)
        if schedule.timesteps == 1000 and log_snr[-1] < level < log_snr[0]:
            assert expected == pytest.approx(error_at(level), rel=0.01)  # the same for every schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_of_a_gaussian_is_its_closed_form(name):
    """L_T and L_0 from `Bound`, and the sum over t of ½ (SNR_{t-1} - SNR_t) s²/(1 + SNR_t s²)."""
    schedule, images, draw = SCHEDULES[name], gaussian_images(), draws(IMAGES, (1, 4, 4))
    _, bits = DenoisingError(schedule).measure(estimator(schedule), images, draw)
    terms, t = Bound(schedule, "fixed_small"), torch.zeros(IMAGES, dtype=torch.int64)
    x_0 = schedule.add_noise(images, draw(len(LEVELS)).normals, t)
    ends = terms.prior(images) + terms.term(images, x_0, t, estimator(schedule)(x_0, t))
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).tolist()
    nats = sum(0.5 * (before - after) * STD**2 / (1 + after * STD**2) for before, after in pairwise(snr))
    found = bits - ends
    error = found.std().item() / IMAGES**0.5
    assert found.mean().item() == pytest.approx(nats / math.log(2), abs=4 * error + 0.005)
    assert error < 0.02


@pytest.mark.parametrize("timesteps", [1, 2, 3])
def test_few_timesteps_are_summed_exactly(timesteps):
    """Up to t = 1 every term is computed, and at T = 3 the last level stands for t = 2 alone."""
    schedule = Schedule(schedules.linear(timesteps, beta_start=0.1, beta_end=0.9))
    images, estimate, count = gaussian_images(), estimator(schedule), IMAGES
    _, bits = DenoisingError(schedule).measure(estimate, images, draws(count, (1, 4, 4)))
    terms, fresh = Bound(schedule, "fixed_small"), draws(count, (1, 4, 4), seed=1)
    total = terms.prior(images)
    for number in range(timesteps):
        t = torch.full((count,), number)
        x_t = schedule.add_noise(images, fresh(number).normals, t)
        total += terms.term(images, x_t, t, estimate(x_t, t))
    difference = bits - total
    assert abs(difference.mean()) < 4 * difference.std() / count**0.5


def test_the_mean_of_the_timesteps_around_a_level_is_the_level():
    schedule = SCHEDULES["cosine"]
    log_snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).log()
    uniforms = (torch.arange(100_000) + 0.5).double() / 100_000
    for number, level in enumerate(LEVELS):
        t = DenoisingError(schedule).timesteps(number, uniforms)
        assert t.max() - t.min() == 1
        assert log_snr[t].mean().item() == pytest.approx(level, abs=1e-4)


def test_levels_outside_the_schedule_take_its_ends():
    schedule = Schedule(schedules.linear(10, beta_start=0.05, beta_end=0.1))
    found = DenoisingError(schedule)
    assert found.timesteps(0, torch.rand(5)).tolist() == [0] * 5
    assert found.timesteps(len(LEVELS) - 1, torch.rand(5)).tolist() == [9] * 5


def test_the_schema_knows_levels_and_calls_without_torch():
    assert tuple(map(float, DiffusionConfig.held_out_levels)) == LEVELS
    assert DiffusionConfig.held_out_calls == CALLS
