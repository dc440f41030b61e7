"""Schedules against the exact values that their papers' formulas give in float64 (docs/guides/theory.md)."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from diffexp.diffusion import schedules
from diffexp.diffusion.schedules import Schedule


@pytest.mark.parametrize(
    ("timesteps", "signal"),
    [(50, 0.7736), (100, 0.6014), (200, 0.3636), (500, 0.0803), (1000, 0.006482), (2000, 4.22e-5), (4000, 1.79e-9)],
)
def test_proportional_leaves_the_notes_terminal_signal(timesteps, signal):
    assert Schedule(schedules.proportional(timesteps)).terminal_signal == pytest.approx(signal, rel=2e-3)


def test_linear_anchors():
    alphas_cumprod = Schedule(schedules.linear(1000)).alphas_cumprod
    assert alphas_cumprod.dtype == torch.float64
    assert alphas_cumprod[499].item() == pytest.approx(0.078587, abs=5e-7)
    assert alphas_cumprod[999].item() == pytest.approx(4.035830e-05, abs=5e-12)


@pytest.mark.parametrize(
    ("timesteps", "rescale", "final"),
    [
        (500, "none", 6.35e-3),
        (250, "none", 0.0797),
        (100, "none", 0.3636),
        (50, "none", 0.6030),
        (4000, "1000/T", 4.2467e-05),
        (100, "1000/T", 2.039e-05),
        (50, "1000/T", 7.74e-06),
    ],
)
def test_linear_at_another_T_follows_the_rescale_rule(timesteps, rescale, final):
    schedule = Schedule(schedules.linear(timesteps, rescale=rescale))
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(final, rel=1e-3)


@pytest.mark.parametrize(("timesteps", "message"), [(20, "β_20 of 20 = 1"), (10, "β_6 of 10 = 1.1")])
def test_linear_rescaled_to_so_few_steps_that_beta_reaches_one_is_refused(timesteps, message):
    with pytest.raises(ValueError, match=message):
        Schedule(schedules.linear(timesteps, rescale="1000/T"))


def test_cosine_anchors():
    schedule = Schedule(schedules.cosine(1000))
    assert schedule.betas[0].item() == pytest.approx(4.12842e-05, rel=1e-5)
    assert schedule.alphas_cumprod[499].item() == pytest.approx(0.493844, abs=5e-7)
    assert schedule.alphas_cumprod[999].item() == pytest.approx(2.428767e-09, rel=1e-6)
    assert schedules.cosine(4000)[0].item() == pytest.approx(9.866e-06, rel=1e-4)


def test_cosine_follows_its_closed_form_until_beta_is_capped():
    schedule = Schedule(schedules.cosine(1000))
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    expected = torch.tensor(f[1:999], dtype=torch.float64) / f[0]
    torch.testing.assert_close(schedule.alphas_cumprod[:998], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("betas", "final"),
    [
        (schedules.scaled_linear(1000), 7.334e-04),
        (schedules.scaled_linear(1000, beta_start=0.00085, beta_end=0.012), 4.660e-03),
        (schedules.sigmoid(1000), 3.968e-05),
    ],
)
def test_other_anchors(betas, final):
    assert Schedule(betas).alphas_cumprod[-1].item() == pytest.approx(final, rel=2e-4)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"])
def test_equals_diffusers(name):
    ours = {"squaredcos_cap_v2": schedules.cosine}.get(name) or getattr(schedules, name)
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule=name)
    torch.testing.assert_close(ours(1000).float(), theirs.betas, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("betas", [[0.1, 0.0], [0.1, -0.1], [0.1, 1.0], [0.1, math.nan]])
def test_a_beta_outside_0_1_is_refused(betas):
    with pytest.raises(ValueError, match="β_2 of 2"):
        Schedule(torch.tensor(betas))


def test_add_noise_has_the_moments_of_the_closed_form():
    schedule = Schedule(schedules.linear(1000))
    t = torch.tensor([0, 499, 999]).repeat_interleave(200_000)
    x_t = schedule.add_noise(torch.full((len(t), 1), 0.5), torch.randn(len(t), 1), t).double().view(3, -1)
    alpha_bar = schedule.alphas_cumprod[[0, 499, 999]]
    torch.testing.assert_close(x_t.mean(1), 0.5 * alpha_bar.sqrt(), rtol=0, atol=1e-2)
    torch.testing.assert_close(x_t.var(1), 1 - alpha_bar, rtol=1e-2, atol=0)


def test_zero_terminal_snr_equals_diffusers_and_the_anchor():
    betas = schedules.with_zero_terminal_snr(schedules.linear(1000))
    theirs = rescale_zero_terminal_snr(schedules.linear(1000))
    torch.testing.assert_close(betas, theirs, rtol=1e-9, atol=1e-12)
    schedule = Schedule(betas, zero_terminal_snr=True)
    assert schedule.terminal_signal == 0
    assert schedule.alpha_bar(499) == pytest.approx(0.0760288, abs=1e-6)
    assert schedule.alpha_bar(0) == pytest.approx(1 - 1e-4)
    with pytest.raises(ValueError, match="β_1000 of 1000 = 1"):
        Schedule(betas)
