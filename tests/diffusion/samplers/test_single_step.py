import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from diffexp.diffusion import schedules
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Denoised, Prediction, clipped
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.samplers.ddpm import DDPM
from diffexp.diffusion.samplers.dpmpp import DPMSolver
from diffexp.diffusion.samplers.heun import Heun
from diffexp.diffusion.samplers.unipc import UniPC
from diffexp.diffusion.schedules import Schedule, cosine, with_zero_terminal_snr
from tests.helpers.gaussian import MEAN, STD, gaussian_denoiser

SCHEDULE = Schedule(schedules.linear(1000))


def run(rule, path, x, noise=lambda: torch.zeros(()), denoiser=None):
    return list(rule.trajectory(denoiser or gaussian_denoiser(SCHEDULE), SCHEDULE, path, x, noise))


def std_of_result(rule, steps):
    """Exact: with this denoiser every step is affine, x → gain · x + offset + σ z, so variances propagate.

    Gains are measured through `sample` itself, on the numbers 0 and 1; so is σ, with z = 1.
    """
    variance = 1.0
    for pair in timestep_path(1000, steps, "leading"):
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        still = run(rule, [pair], ends)[-1].x
        noisy = run(rule, [pair], ends, lambda: torch.ones(2, dtype=torch.float64))[-1].x
        variance = variance * (still[1] - still[0]).item() ** 2 + (noisy[0] - still[0]).item() ** 2
    return math.sqrt(variance)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (10, [0.374128, 0.373069, 0.367083, 0.333263, 0.589025]),
        (50, [0.472439, 0.471553, 0.466651, 0.444123, 0.517229]),
        (100, [0.485981, 0.485410, 0.482262, 0.468256, 0.508490]),
        (1000, [0.498495, 0.498415, 0.497977, 0.496110, 0.500752]),
    ],
)
def test_exact_gaussian_table(steps, expected):
    rules = [DDIM(0.0), DDIM(0.2), DDIM(0.5), DDIM(1.0), DDIM(1.0, sigma_hat=True)]
    assert [std_of_result(rule, steps) for rule in rules] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("rule", "expected"), [(DDIM(0.2), 0.471553), (DDIM(1.0, sigma_hat=True), 0.517229)])
def test_gaussian_table_by_simulation(rule, expected):
    torch.manual_seed(0)
    x = torch.randn(400_000, dtype=torch.float64)
    result = run(rule, timestep_path(1000, 50, "leading"), x, lambda: torch.randn(len(x), dtype=torch.float64))[-1].x
    assert result.std().item() == pytest.approx(expected, abs=4 * expected / math.sqrt(2 * len(x)))


def test_ddim_error_against_the_exact_ode_is_of_order_1():
    """The probability-flow ODE of a Gaussian is affine: z-scores at x_T are kept."""
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)

    def error(steps):
        path = timestep_path(1000, steps, "leading")
        alpha_bar = SCHEDULE.alpha_bar(path[0][0])
        std = math.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
        exact = MEAN + STD * (x - math.sqrt(alpha_bar) * MEAN) / std
        return (run(DDIM(), path, x)[-1].x - exact).abs().max().item()

    errors = [error(steps) for steps in (10, 20, 50, 100, 250, 500, 1000)]
    expected = [0.2525, 0.1328, 0.05521, 0.02809, 0.01146, 0.005846, 0.003027]
    assert errors == pytest.approx(expected, rel=1e-3)
    assert math.log(errors[1] / errors[3]) / math.log(5) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("steps", [1000, 50, 30])
@pytest.mark.parametrize(
    ("ddpm", "ddim"),
    [(DDPM("fixed_small"), DDIM(1.0)), (DDPM("fixed_large"), DDIM(1.0, sigma_hat=True))],
)
def test_ddpm_is_ddim_with_eta_1(ddpm, ddim, steps):
    x = torch.linspace(-3, 3, 64, dtype=torch.float64)
    ends = []
    for rule in (ddpm, ddim):
        source = torch.Generator().manual_seed(1)
        noise = lambda source=source: torch.randn(64, dtype=torch.float64, generator=source)
        ends.append(torch.stack([state.x for state in run(rule, timestep_path(1000, steps, "leading"), x, noise)]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_coefficients_by_undetermined_coefficients(eta):
    """P(x_prev | x_t, x_0) = N(k x_0 + m x_t, σ²) with the k and m that keep the marginals (docs/guides/theory.md)."""
    for t, t_prev in timestep_path(1000, 30, "leading")[:-1]:
        alpha_bar, previous = SCHEDULE.alpha_bar(t), SCHEDULE.alpha_bar(t_prev)
        step = DDIM(eta).step(alpha_bar, previous)
        m = math.sqrt(1 - previous - step.sigma**2) / math.sqrt(1 - alpha_bar)
        k = math.sqrt(previous) - m * math.sqrt(alpha_bar)
        # ε̂ = (x_t - √ᾱ x_0)/√(1-ᾱ) put into the step
        assert step.coef_epsilon / math.sqrt(1 - alpha_bar) == pytest.approx(m, rel=1e-12)
        assert step.coef_x0 - m * math.sqrt(alpha_bar) == pytest.approx(k, rel=1e-12)
        # and the marginal of x_prev is the schedule's
        assert k**2 + 2 * k * m * math.sqrt(alpha_bar) + m**2 * alpha_bar == pytest.approx(previous, rel=1e-12)
        assert m**2 * (1 - alpha_bar) + step.sigma**2 == pytest.approx(1 - previous, rel=1e-12)


def test_the_last_step_adds_no_noise():
    for rule in (DDPM("fixed_small"), DDPM("fixed_large"), DDPM("none"), DDIM(1.0), DDIM(1.0, sigma_hat=True)):
        assert rule.step(SCHEDULE.alpha_bar(0), 1.0).sigma == 0


def test_ddpm_without_variance_is_the_notes_deterministic_recursion():
    x, epsilon = torch.randn(5).double(), torch.randn(5).double()
    beta, alpha = SCHEDULE.betas[400].item(), SCHEDULE.alphas[400].item()
    alpha_bar = SCHEDULE.alpha_bar(400)
    x0 = (x - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar)
    state = run(DDPM("none"), [(400, 399)], x, denoiser=lambda x_t, t: Denoised(x0, epsilon))[0]
    torch.testing.assert_close(state.x, (x - beta / math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha))


def test_states_come_one_by_one_and_leave_the_start_alone():
    x, path = torch.ones(3), timestep_path(1000, 4, "leading")
    states = DDIM().trajectory(gaussian_denoiser(SCHEDULE), SCHEDULE, path, x, torch.zeros(3).clone)
    assert next(states).t == 500
    assert [state.t for state in states] == [250, 0, -1]
    assert torch.equal(x, torch.ones(3))


def test_clipping_keeps_x0_in_range_and_rederives_epsilon():
    prediction = Prediction("epsilon", SCHEDULE)
    x_t = torch.randn(2, 1, 8, 8) * 3
    for t in (0, 300, 999):
        answer = clipped(prediction.denoiser(lambda x, t: torch.zeros_like(x)), SCHEDULE)(x_t, t)
        assert answer.x0.abs().max() <= 1
        signal, sigma = SCHEDULE.alpha_bar(t) ** 0.5, (1 - SCHEDULE.alpha_bar(t)) ** 0.5
        torch.testing.assert_close(signal * answer.x0 + sigma * answer.epsilon, x_t)


def answers(seed, kind):
    """A stand-in network: some smooth function of (x, t)."""
    weight = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda x, t: torch.tanh(x * weight + t.view(-1, 1, 1, 1) / 1000)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_each_ddim_step_equals_diffusers(kind, steps, eta, clip):
    theirs = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type={"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}[kind],
        timestep_spacing="leading",
        clip_sample=clip,
        set_alpha_to_one=True,
    )
    theirs.set_timesteps(steps)
    network = answers(0, kind)
    denoiser = Prediction(kind, SCHEDULE).denoiser(network)
    if clip:
        denoiser = clipped(denoiser, SCHEDULE)
    x, z = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for t, t_prev in timestep_path(1000, steps, "leading")[:: steps // 25]:
        ours = run(DDIM(eta), [(t, t_prev)], x, lambda: z, denoiser)[0].x
        output = network(x, torch.full((2,), t))
        step = theirs.step(output, t, x, eta=eta, use_clipped_model_output=clip, variance_noise=z)
        torch.testing.assert_close(ours, step.prev_sample, rtol=2e-4, atol=2e-4)  # their tables are float32


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [1000, 50])
def test_each_ddpm_step_equals_diffusers(variance, steps):
    theirs = DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        variance_type=variance,
        timestep_spacing="leading",
        clip_sample=True,
    )
    theirs.set_timesteps(steps)
    network = answers(1, "epsilon")
    denoiser = clipped(Prediction("epsilon", SCHEDULE).denoiser(network), SCHEDULE)
    x, z = torch.randn(2, 3, 4, 4, dtype=torch.float64), []
    for t, t_prev in timestep_path(1000, steps, "leading")[:: steps // 25]:
        torch.manual_seed(t)
        theirs_next = theirs.step(network(x, torch.full((2,), t)), t, x).prev_sample
        torch.manual_seed(t)
        z = torch.randn(x.shape, dtype=torch.float64)
        ours = run(DDPM(variance), [(t, t_prev)], x, lambda z=z: z, denoiser)[0].x
        torch.testing.assert_close(ours, theirs_next, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("steps", [1000, 50])
def test_each_ddpm_step_of_a_learned_variance_equals_diffusers(steps):
    theirs = DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        variance_type="learned_range",
        timestep_spacing="leading",
        clip_sample=True,
    )
    theirs.set_timesteps(steps)
    network = lambda x, t: torch.cat([answers(1, "epsilon")(x, t), torch.sin(3 * x)], dim=1)
    denoiser = clipped(Prediction("epsilon", SCHEDULE, learned_variance=True).denoiser(network), SCHEDULE)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for t, t_prev in timestep_path(1000, steps, "leading")[:: steps // 25]:
        torch.manual_seed(t)
        theirs_next = theirs.step(network(x, torch.full((2,), t)), t, x).prev_sample
        torch.manual_seed(t)
        z = torch.randn(x.shape, dtype=torch.float64)
        ours = run(DDPM("learned"), [(t, t_prev)], x, lambda z=z: z, denoiser)[0].x
        torch.testing.assert_close(ours, theirs_next, rtol=2e-4, atol=2e-4)


def bright_axis(schedule, steps, spacing, sampler):
    """(mean, std) of what the sampler makes of a 32×32 image's brightness ~ N(-18, 12²), by its affine map of x_T."""
    path = timestep_path(1000, steps, spacing, schedule.alphas_cumprod.tolist())
    denoiser = gaussian_denoiser(schedule, -18.0, 12.0)
    *_, last = sampler.trajectory(denoiser, schedule, path, torch.tensor([0.0, 1.0], dtype=torch.float64), None)
    return last.x[0].item(), (last.x[1] - last.x[0]).item()


@pytest.mark.parametrize(
    ("spacing", "mean"), [("leading", -2.68), ("trailing", -18.0), ("arctan", -18.0), ("linspace", -18.0)]
)
def test_a_path_that_starts_in_the_middle_loses_the_brightness(spacing, mean):
    assert bright_axis(Schedule(cosine(1000)), 10, spacing, DDIM())[0] == pytest.approx(mean, abs=0.03)


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver(2), UniPC(2)], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_the_default_path_is_the_nearest_to_a_bright_axis_on_the_cosine_schedule(sampler, steps):
    schedule = Schedule(cosine(1000))

    def squared_w2(spacing):
        mean, std = bright_axis(schedule, steps, spacing, sampler)
        return (mean + 18) ** 2 + (std - 12) ** 2

    by_index = ("leading", "trailing", "linspace", "quadratic")
    assert 2 * squared_w2("arctan") < min(squared_w2(spacing) for spacing in by_index)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(), DPMSolver(2), UniPC(2), Heun()], ids=lambda s: type(s).__name__)
def test_with_a_zero_terminal_snr_a_path_that_starts_elsewhere_is_refused(sampler):
    schedule = Schedule(with_zero_terminal_snr(cosine(1000)), zero_terminal_snr=True)
    x = torch.zeros(2, dtype=torch.float64)

    def run_on(spacing):
        path = timestep_path(1000, 10, spacing, schedule.alphas_cumprod.tolist())
        *_, last = sampler.trajectory(gaussian_denoiser(schedule), schedule, path, x, x.clone)
        return last.x

    with pytest.raises(ValueError, match="expected a start at t = 999, where the SNR is 0, got t = 900"):
        run_on("leading")
    assert run_on("arctan").isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_a_zero_terminal_snr_keeps_the_mean_brightness(steps):
    """Of constant 32×32 images with brightness N(0.6, 0.3²): one axis of N(19.2, 9.6²)."""
    schedule = Schedule(with_zero_terminal_snr(cosine(1000)), zero_terminal_snr=True)
    path = timestep_path(1000, steps, "arctan", schedule.alphas_cumprod.tolist())
    x = torch.zeros(1, dtype=torch.float64)
    *_, last = DDIM().trajectory(gaussian_denoiser(schedule, 19.2, 9.6), schedule, path, x, None)
    assert last.x.item() / 32 == pytest.approx(0.6, abs=1e-3)


def test_beta_is_outside_ddims_family_where_its_radicand_is_negative():
    """1 - ᾱ_{t-1} - σ²: negative at the papers' t = 1 for σ² = β_t, never for σ² = β̃_t; elsewhere another mean."""
    alphas = torch.cat([torch.ones(1, dtype=torch.float64), SCHEDULE.alphas_cumprod])
    before, after = alphas[:-1], alphas[1:]
    small = SCHEDULE.betas * (1 - before) / (1 - after)
    assert (1 - before - SCHEDULE.betas)[0] < 0
    assert (1 - before - small).min() >= 0
    for t in (1, 10, 999):
        ddpm = DDPM("fixed_small").step(after[t].item(), before[t].item())
        # the mean as of x_t and x̂_0, with ε̂ = (x_t - √ᾱ_t x̂_0)/√(1-ᾱ_t)
        coef_x = {
            name: math.sqrt((1 - before[t] - variance[t]) / (1 - after[t])) if before[t] + variance[t] < 1 else None
            for name, variance in (("small", small), ("large", SCHEDULE.betas))
        }
        assert coef_x["small"] == pytest.approx(ddpm.coef_x, rel=1e-9)
        assert t > 100 or coef_x["large"] is None or coef_x["large"] != pytest.approx(ddpm.coef_x, rel=1e-3)


def test_one_step_returns_the_mean_and_many_do_not():
    """Images that are -1 or 1 with equal probability: the mean is 0, which is neither."""
    schedule = Schedule(cosine(1000))

    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar(t)
        x0 = torch.tanh(alpha_bar**0.5 / (1 - alpha_bar) * x_t)
        return Denoised(x0, (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5)

    x = torch.linspace(-2, 2, 40, dtype=torch.float64)
    sizes = {}
    for steps in (1, 50):
        path = timestep_path(1000, steps, "arctan", schedule.alphas_cumprod.tolist())
        sizes[steps] = run_to_the_end(schedule, path, x, denoise).abs()
    assert sizes[1].max() < 1e-3
    assert sizes[50].median() > 0.99


def run_to_the_end(schedule, path, x, denoise):
    *_, last = DDIM().trajectory(denoise, schedule, path, x, None)
    return last.x
