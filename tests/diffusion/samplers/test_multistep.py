import itertools
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler

from diffexp.diffusion import schedules
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Denoised, Prediction, clipped
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.samplers.ddpm import DDPM
from diffexp.diffusion.samplers.dpmpp import DPMSolver
from diffexp.diffusion.samplers.heun import Heun
from diffexp.diffusion.samplers.multistep import LONGEST_OF_ORDER_3, Level, warn_of_order
from diffexp.diffusion.samplers.unipc import UniPC
from diffexp.diffusion.schedules import Schedule
from tests.helpers.gaussian import STD, errors_of_std, gaussian_denoiser
from tests.helpers.mixture import even_path, mixture_denoiser, transported

SCHEDULE = Schedule(schedules.linear(1000))
# So many timesteps that choosing among them costs nothing beside the solvers' errors.
FINE = Schedule(schedules.linear(200_000, rescale="1000/T"))


def last(sampler, denoiser, schedule, path, x, noise=None):
    *_, state = sampler.trajectory(denoiser, schedule, path, x, noise)
    return state.x


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (DDIM(), 1),
        (DPMSolver(1), 1),
        (DPMSolver(2), 2),
        (DPMSolver(3), 3),
        (UniPC(1), 2),
        (UniPC(2), 3),
        (UniPC(3), 3),  # of order 4 but for its first steps, which have less behind them
        (Heun(), 2),
    ],
)
def test_the_error_falls_with_the_solvers_order(sampler, order):
    """Of the ODE of a mixture of Gaussians, whose solution is known, down to a λ where it is not yet the data."""
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)

    def error(steps):
        path = even_path(FINE, steps, lowest_noise=5)
        *_, (start, _), (end, _) = path[:1], path[0], path[-1]
        states = list(sampler.trajectory(mixture_denoiser(FINE), FINE, path, x, None))
        return (states[-2].x - transported(FINE, x, start, end)).abs().mean().item()

    assert math.log2(error(160) / error(320)) == pytest.approx(order, abs=0.2)


def test_dpm_solver_of_order_3_is_exact_where_x0_is_a_parabola_in_lambda():
    """x_t = σ_t/σ_s x_s + σ_t ∫ e^λ p(λ) dλ in closed form, once two calls lie behind."""

    def parabola(t):
        lambda_ = Level(SCHEDULE.alpha_bar(t)).lambda_
        return 0.3 - 0.2 * lambda_ + 0.5 * lambda_**2

    def primitive(t):  # of e^λ p(λ): e^λ (p - p' + p'')
        lambda_ = Level(SCHEDULE.alpha_bar(t)).lambda_
        return math.exp(lambda_) * (parabola(t) - (-0.2 + lambda_) + 1)

    path = [(900, 800), (800, 650), (650, 560), (560, 300), (300, 200), (200, -1)]

    def walked(order):
        denoiser = lambda x, t: Denoised(torch.full_like(x, parabola(t)), x)
        return list(DPMSolver(order).trajectory(denoiser, SCHEDULE, path, torch.ones(1, dtype=torch.float64), None))

    def exact(state, then):
        start, end = Level(SCHEDULE.alpha_bar(state.t)).sigma, Level(SCHEDULE.alpha_bar(then)).sigma
        return end / start * state.x + end * (primitive(then) - primitive(state.t))

    states = walked(3)
    torch.testing.assert_close(states[2].x, exact(states[1], 560), rtol=1e-9, atol=1e-9)
    assert abs(walked(2)[2].x - exact(states[1], 560)) > 0.01
    assert Level(SCHEDULE.alpha_bar(300)).lambda_ - Level(SCHEDULE.alpha_bar(560)).lambda_ > LONGEST_OF_ORDER_3
    assert abs(states[3].x - exact(states[2], 300)) > 0.01  # the long step has order 2


def exact_std(sampler, steps):
    """Of the samples of a Gaussian: all is linear there, so each source of noise is followed on its own."""
    x = torch.eye(steps + 1, dtype=torch.float64)[0]
    units = iter(torch.eye(steps + 1, dtype=torch.float64)[1:])
    path = timestep_path(1000, steps, "logsnr", SCHEDULE.alphas_cumprod.tolist())
    gains = last(sampler, gaussian_denoiser(SCHEDULE), SCHEDULE, path, x, lambda: next(units))
    # the denoiser's offset is the same for all
    offset = last(
        sampler, gaussian_denoiser(SCHEDULE), SCHEDULE, path, torch.zeros_like(x), lambda: torch.zeros_like(x)
    )
    return (gains - offset).norm().item()


def test_the_sde_forms_reach_the_gaussian_and_the_higher_orders_sooner():
    errors = {
        (order, steps): abs(exact_std(DPMSolver(order, sde=True), steps) - STD)
        for order in (1, 2, 3)
        for steps in (20, 40, 80)
    }
    for order in (1, 2, 3):
        assert errors[order, 80] < errors[order, 40] / 1.8 < errors[order, 20] / 3
    for steps in (20, 40, 80):
        assert errors[2, steps] < errors[1, steps] / 4
    assert errors[3, 20] == errors[2, 20]  # steps of 2λ above .7
    for steps in (40, 80):
        assert errors[3, steps] < errors[2, steps]


SOLVERS = {"ODE": DPMSolver, "SDE": lambda order: DPMSolver(order, sde=True), "UniPC": UniPC}


@pytest.mark.parametrize("kind", SOLVERS)
def test_order_3_is_hardly_worse_than_order_2_with_few_calls(kind):
    """In the standard deviation of Gaussians, as a share of it: up to 1.7 worse without `LONGEST_OF_ORDER_3`."""
    worst = 0.0
    for schedule in (SCHEDULE, Schedule(schedules.cosine(1000))):
        for spacing, steps in itertools.product(["leading", "trailing", "logsnr", "karras"], (3, 5, 8, 12)):
            path = timestep_path(1000, steps, spacing, schedule.alphas_cumprod.tolist())
            two, three = (errors_of_std(SOLVERS[kind](order), schedule, path) for order in (2, 3))
            worst = max(worst, (three - two).max().item())
    assert worst < 0.06


def test_the_sde_of_order_3_with_8_calls_is_that_of_order_2():
    assert exact_std(DPMSolver(3, sde=True), 8) == exact_std(DPMSolver(2, sde=True), 8)
    assert exact_std(DPMSolver(3, sde=True), 8) == pytest.approx(STD, abs=0.02)  # .888 with order 3 throughout


@pytest.mark.parametrize(
    ("sampler", "steps", "reached"),
    [
        (DPMSolver(3), 13, 2),
        (DPMSolver(3), 14, 3),
        (DPMSolver(3, sde=True), 25, 2),
        (DPMSolver(3, sde=True), 26, 3),
        (UniPC(3), 13, 2),
        (UniPC(3), 14, 3),
        (UniPC(2), 2, 1),
        (DPMSolver(2), 3, 2),
        (DPMSolver(1), 1, 1),
    ],
)
def test_an_order_that_no_step_has_is_warned_of_once(sampler, steps, reached, caplog):
    warn_of_order.cache_clear()
    path = timestep_path(1000, steps, "logsnr", SCHEDULE.alphas_cumprod.tolist())
    for _ in range(2):
        last(sampler, gaussian_denoiser(SCHEDULE), SCHEDULE, path, torch.ones(1), lambda: torch.zeros(1))
    warned = [
        f"sampler.order: expected steps short enough for order {sampler.order} of "
        f"{'unipc' if isinstance(sampler, UniPC) else 'dpmpp, sde: true' if sampler.sde else 'dpmpp'}, "
        f"got at most order {reached} with {steps} steps. Use more steps, or order: {reached}."
    ]
    assert caplog.messages == ([] if reached == sampler.order else warned)


def drawing():
    source = torch.Generator().manual_seed(1)
    return lambda: torch.randn(9, dtype=torch.float64, generator=source)


@pytest.mark.parametrize("steps", [10, 50])
def test_order_1_is_ddim(steps):
    x, path = torch.linspace(-2, 2, 9, dtype=torch.float64), timestep_path(1000, steps, "leading")
    denoiser = mixture_denoiser(SCHEDULE)
    ode = last(DDIM(), denoiser, SCHEDULE, path, x)
    torch.testing.assert_close(last(DPMSolver(1), denoiser, SCHEDULE, path, x), ode, rtol=1e-9, atol=1e-9)
    sde = last(DPMSolver(1, sde=True), denoiser, SCHEDULE, path, x, drawing())
    torch.testing.assert_close(sde, last(DDIM(1.0), denoiser, SCHEDULE, path, x, drawing()), rtol=1e-9, atol=1e-9)


BETAS = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
KINDS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def network(x, t):
    """A stand-in: some smooth function of (x, t)."""
    return torch.tanh(0.8 * x + t.view(-1, 1, 1, 1) / 1000)


def theirs_and_ours(scheduler, sampler, kind="epsilon", noise=None, denoiser=None):
    """All states along the scheduler's own timesteps, from the same noise."""
    timesteps = scheduler.timesteps.tolist()
    path = list(itertools.pairwise([*timesteps, -1]))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.randn(len(path), *x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, draws = [], iter(z)
    for state in sampler.trajectory(
        denoiser or Prediction(kind, SCHEDULE).denoiser(network), SCHEDULE, path, x, lambda: next(draws)
    ):
        ours.append(state.x)
    theirs = []
    for number, t in enumerate(timesteps):
        output = network(x, torch.full((2,), t))
        extra = {"variance_noise": z[number]} if noise else {}
        x = scheduler.step(output, t, x, **extra).prev_sample
        theirs.append(x)
    return torch.stack(theirs), torch.stack(ours)


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_dpm_solver_equals_diffusers(kind, spacing, order, sde):
    scheduler = DPMSolverMultistepScheduler(
        **BETAS,
        prediction_type=KINDS[kind],
        solver_order=order,
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        timestep_spacing=spacing,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(12)
    theirs, ours = theirs_and_ours(scheduler, DPMSolver(order, sde), kind, noise=sde)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # their tables are float32


def test_dpm_solver_of_order_3_differs_from_diffusers_by_half_of_the_second_difference():
    scheduler = DPMSolverMultistepScheduler(**BETAS, solver_order=3, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    theirs, ours = theirs_and_ours(scheduler, DPMSolver(3))
    torch.testing.assert_close(ours[:2], theirs[:2], rtol=1e-4, atol=1e-4)
    # of the third step, the first of that order, from the same x and calls
    times = scheduler.timesteps.tolist()[:4]
    lambda_ = [Level(SCHEDULE.alpha_bar(t)).lambda_ for t in times]
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = Prediction("epsilon", SCHEDULE).denoiser(network)
    m2, m1, m0 = (denoiser(x, t).x0 for x, t in zip([start, *ours[:2]], times, strict=False))
    h, r0, r1 = (
        lambda_[3] - lambda_[2],
        (lambda_[2] - lambda_[1]) / (lambda_[3] - lambda_[2]),
        (lambda_[1] - lambda_[0]) / (lambda_[3] - lambda_[2]),
    )
    second = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
    left_out = Level(SCHEDULE.alpha_bar(times[3])).signal * (0.5 - (h + math.expm1(-h)) / h**2) * second
    torch.testing.assert_close(ours[2], theirs[2] + left_out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("kind", list(KINDS))
def test_unipc_equals_diffusers(kind, order):
    scheduler = UniPCMultistepScheduler(
        **BETAS, prediction_type=KINDS[kind], solver_order=order, solver_type="bh2", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(12)
    theirs, ours = theirs_and_ours(scheduler, UniPC(order), kind)
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_heun_equals_diffusers(kind):
    scheduler = HeunDiscreteScheduler(**BETAS, prediction_type=KINDS[kind], timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    times = [int(t) for t in dict.fromkeys(scheduler.timesteps.tolist())]
    path = list(itertools.pairwise([*times, -1]))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = last(Heun(), Prediction(kind, SCHEDULE).denoiser(network), SCHEDULE, path, x)
    # theirs keeps x/√ᾱ, to which it scales before the network
    theirs = x / Level(SCHEDULE.alpha_bar(times[0])).signal
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(theirs, t), torch.full((2,), int(t)))
        theirs = scheduler.step(output, t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


def test_dynamic_thresholding_equals_diffusers():
    scheduler = DPMSolverMultistepScheduler(
        **BETAS, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e6, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(12)
    denoiser = clipped(Prediction("epsilon", SCHEDULE).denoiser(network), SCHEDULE, quantile=0.9)
    theirs, ours = theirs_and_ours(scheduler, DPMSolver(2), denoiser=denoiser)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours[-1].abs().amax() == 1


@pytest.mark.parametrize(
    "sampler", [DDPM(), DDPM("fixed_small"), DDIM(), DDIM(1.0), DPMSolver(3), DPMSolver(3, True), UniPC(3), Heun()]
)
def test_all_start_from_pure_noise_too(sampler):
    """ᾱ_T = 0, as of a zero terminal SNR: the first step is x_prev = √ᾱ_prev x̂_0 + … without division by zero."""

    class Zero(Schedule):
        def alpha_bar(self, t):
            return 0.0 if t == 999 else super().alpha_bar(t)

    schedule = Zero(schedules.linear(1000))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    drawn = lambda: torch.linspace(-1, 1, 9, dtype=torch.float64)
    ends = [
        last(sampler, mixture_denoiser_from_noise(which), which, timestep_path(1000, 100, "trailing"), x, drawn)
        for which in (schedule, SCHEDULE)
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=0.02)  # of √ᾱ_T = .006


def mixture_denoiser_from_noise(schedule):
    """At ᾱ = 0 x̂_0 is the mean and ε̂ is x."""
    known = mixture_denoiser(schedule)
    mean = known(torch.zeros(1, dtype=torch.float64), 999).x0 if schedule.alpha_bar(999) else 0.4 * -0.5 + 0.6 * 0.7
    return lambda x, t: known(x, t) if schedule.alpha_bar(t) else Denoised(torch.full_like(x, mean), x)
