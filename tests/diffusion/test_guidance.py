import math

import pytest
import torch

from diffexp.diffusion import schedules
from diffexp.diffusion.guidance import guided
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Denoised
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.schedules import Schedule
from tests.helpers.mixture import MEANS, STDS, WEIGHTS, mixture_denoiser

SCHEDULE = Schedule(schedules.linear(1000))


def component(schedule, which):
    """The known denoiser of one of the mixture's two Gaussians."""

    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar(t)
        signal, mean, variance = alpha_bar**0.5, MEANS[which], STDS[which] ** 2
        x0 = mean + signal * variance / (alpha_bar * variance + 1 - alpha_bar) * (x_t - signal * mean)
        return Denoised(x0, (x_t - signal * x0) / (1 - alpha_bar) ** 0.5)

    return denoise


def samples(weight, active=lambda t: True):
    x = torch.randn(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser = guided(component(SCHEDULE, 1), mixture_denoiser(SCHEDULE), weight, active)
    *_, state = DDIM().trajectory(denoiser, SCHEDULE, timestep_path(1000, 250, "leading"), x, None)
    return state.x


@pytest.mark.slow
def test_weight_1_samples_the_class_and_weight_0_all():
    of_class, of_all = samples(1.0), samples(0.0)
    assert of_class.mean().item() == pytest.approx(MEANS[1], abs=0.01)
    assert of_class.std().item() == pytest.approx(STDS[1], abs=0.02)
    mean = sum(weight * each for weight, each in zip(WEIGHTS, MEANS, strict=True))
    variance = sum(w * (s**2 + m**2) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)) - mean**2
    assert of_all.mean().item() == pytest.approx(mean, abs=0.01)
    assert of_all.std().item() == pytest.approx(math.sqrt(variance), abs=0.02)


def test_the_guided_score_is_that_of_the_tilted_density():
    """ε̂ is -σ times the gradient of log p: with weight w, of (1-w) log p(x) + w log p(x | class), here by autograd."""
    t, weight = 400, 3.0
    alpha_bar = SCHEDULE.alpha_bar(t)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    logs = torch.stack(
        [
            math.log(w)
            + torch.distributions.Normal(
                alpha_bar**0.5 * m, math.sqrt(alpha_bar * s**2 + 1 - alpha_bar), validate_args=False
            ).log_prob(x)
            for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
        ]
    )
    density = (1 - weight) * logs.logsumexp(0) + weight * logs[1]
    (score,) = torch.autograd.grad(density.sum(), x)
    answer = guided(component(SCHEDULE, 1), mixture_denoiser(SCHEDULE), weight, lambda t: True)(x.detach(), t)
    torch.testing.assert_close(answer.epsilon, -math.sqrt(1 - alpha_bar) * score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        alpha_bar**0.5 * answer.x0 + math.sqrt(1 - alpha_bar) * answer.epsilon, x.detach(), rtol=1e-9, atol=1e-9
    )


def test_outside_its_interval_it_is_the_class_alone_and_calls_once():
    called = []
    none = mixture_denoiser(SCHEDULE)

    def counted(x_t, t):
        called.append(t)
        return none(x_t, t)

    denoiser = guided(component(SCHEDULE, 0), counted, 4.0, lambda t: 200 <= t < 600)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    for t in (0, 199, 200, 599, 600):
        same = torch.equal(denoiser(x, t).x0, component(SCHEDULE, 0)(x, t).x0)
        assert same == (not 200 <= t < 600)
    assert called == [200, 599]
