import math

import pytest
import torch

from diffexp.diffusion import schedules
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import PREDICTIONS, Prediction
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.samplers.ddpm import DDPM
from diffexp.diffusion.schedules import Schedule

SCHEDULE = Schedule(schedules.linear(1000))


def perfect_output(kind, x0, noise, t):
    """What a network that knows x_0 and ε puts out under each prediction."""
    alpha_bar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    if kind in ("scaled_epsilon", "step_epsilon"):
        return noise * (SCHEDULE.betas[t].view(-1, 1, 1, 1) / (1 - alpha_bar)).sqrt()
    return noise


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_network_has_no_loss_and_is_a_perfect_denoiser(kind):
    prediction = Prediction(kind, SCHEDULE)
    x0, noise = torch.randn(2, 6, 1, 4, 4, dtype=torch.float64)
    t = torch.tensor([0, 1, 100, 500, 900, 999])
    output = perfect_output(kind, x0, noise, t)
    target = prediction.target(x0, noise, t, torch.zeros_like(noise))
    torch.testing.assert_close(prediction.estimate(output, t), target, rtol=1e-6, atol=1e-6)
    x_t = SCHEDULE.add_noise(x0, noise, t)
    torch.testing.assert_close(prediction.x0(prediction.estimate(output, t), x_t, t), x0, rtol=1e-5, atol=1e-5)
    for index in t.tolist():
        signal, sigma = SCHEDULE.alpha_bar(index) ** 0.5, (1 - SCHEDULE.alpha_bar(index)) ** 0.5
        x_t = signal * x0 + sigma * noise
        outputs = perfect_output(kind, x0, noise, torch.full((6,), index))
        answer = prediction.denoiser(lambda x, t, outputs=outputs: outputs)(x_t, index)
        torch.testing.assert_close(answer.x0, x0, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(answer.epsilon, noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [DDIM(), DDIM(1.0), DDPM("fixed_large"), DDPM("none")])
def test_the_notes_scaled_epsilon_samples_as_epsilon_does(rule):
    """A network whose output is √(β/(1-ᾱ)) times another's ε̂ is the same model."""

    def epsilon(x, t):
        return torch.tanh(x + t.view(-1, 1, 1, 1) / 1000)

    def scaled(x, t):
        return epsilon(x, t) * (SCHEDULE.betas[t] / (1 - SCHEDULE.alphas_cumprod[t])).sqrt().view(-1, 1, 1, 1)

    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    ends = []
    for kind, network in (("epsilon", epsilon), ("scaled_epsilon", scaled)):
        source = torch.Generator().manual_seed(0)
        noise = lambda source=source: torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=source)
        denoiser = Prediction(kind, SCHEDULE).denoiser(network)
        *_, last = rule.trajectory(denoiser, SCHEDULE, timestep_path(1000, 50, "leading"), x, noise)
        ends.append(last.x)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)


def test_the_notes_reverse_step_is_hos_with_the_scaled_output():
    """x_{t-1} = (x_t - √β_t · output)/√α_t."""
    x, output = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    denoiser = Prediction("scaled_epsilon", SCHEDULE).denoiser(lambda x, t: output)
    state = next(DDPM("none").trajectory(denoiser, SCHEDULE, [(700, 699)], x, torch.clone))
    expected = (x - SCHEDULE.betas[700].sqrt() * output) / SCHEDULE.alphas[700].sqrt()
    torch.testing.assert_close(state.x, expected, rtol=1e-9, atol=1e-9)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="prediction: expected one of"):
        Prediction("noise", SCHEDULE)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_error_of_the_prediction_is_the_stated_multiple_of_that_of_x0(kind):
    prediction, t = Prediction(kind, SCHEDULE), torch.tensor([0, 100, 700, 999])
    x0, guess, noise = torch.randn(3, 4, 1, 2, 2, dtype=torch.float64)
    x_t = SCHEDULE.add_noise(x0, noise, t)
    signal, sigma = SCHEDULE.levels(t, like=x0)
    outputs = perfect_output(kind, guess, (x_t - signal * guess) / sigma, t)
    target = prediction.target(x0, noise, t, torch.zeros_like(x0))
    error = (prediction.estimate(outputs, t) - target).square().sum((1, 2, 3))
    expected = prediction.error_of_x0()[t] * (x0 - guess).square().sum((1, 2, 3))
    torch.testing.assert_close(error, expected, rtol=1e-6, atol=0)


def test_step_epsilon_is_the_noise_of_the_last_step():
    """x_t built from x_0 and two noises as in the lecture notes; what is drawn here has their joint distribution."""
    t, count = 300, 400_000
    alpha, beta, alpha_bar = SCHEDULE.alphas[t].item(), SCHEDULE.betas[t].item(), SCHEDULE.alpha_bar(t)
    noise, other = torch.randn(2, count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = Prediction("step_epsilon", SCHEDULE).target(noise, noise, torch.full((count,), t), other)
    # ε = (√(α_t (1-ᾱ_{t-1})) ε̄ + √β_t ε_t)/√(1-ᾱ_t): unit variance, and this covariance
    assert target.var().item() == pytest.approx(1, abs=0.01)
    covariance = (target * noise).mean().item()
    assert covariance == pytest.approx(math.sqrt(beta / (1 - alpha_bar)), abs=0.01)
    assert alpha * (1 - SCHEDULE.alpha_bar(t - 1)) + beta == pytest.approx(1 - alpha_bar)


def test_a_prediction_of_noise_is_refused_where_the_last_step_tells_nothing_else():
    schedule = Schedule(schedules.with_zero_terminal_snr(schedules.linear(1000)), zero_terminal_snr=True)
    with pytest.raises(ValueError, match="prediction: expected x0 or v"):
        Prediction("epsilon", schedule)
    Prediction("v", schedule)


@pytest.mark.parametrize("t", [0, 10, 500, 999])
def test_the_omega_of_the_unmerged_loss_averages_to_a_weight_and_a_constant(t):
    """E_ω ‖ε_t - o‖² with o = √(β_t/(1-ᾱ_t)) ε̂ is β_t/(1-ᾱ_t) ‖ε - ε̂‖² + d (1 - β_t/(1-ᾱ_t)), by 200,000 ω."""
    torch.manual_seed(0)
    share = (SCHEDULE.betas[t] / (1 - SCHEDULE.alphas_cumprod[t])).item()
    noise, estimate = torch.randn(1, 1, 2, 2, dtype=torch.float64), torch.randn(1, 1, 2, 2, dtype=torch.float64)
    omega = torch.randn(200_000, 1, 2, 2, dtype=torch.float64)
    at = torch.full((len(omega),), t)
    target = Prediction("step_epsilon", SCHEDULE).target(torch.zeros_like(omega), noise.expand_as(omega), at, omega)
    unmerged = (target - share**0.5 * estimate).square().sum((1, 2, 3)).mean().item()
    merged = share * (noise - estimate).square().sum().item()
    assert unmerged == pytest.approx(merged + 4 * (1 - share), rel=0.01)
