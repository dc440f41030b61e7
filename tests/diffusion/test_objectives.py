import math

import pytest
import torch
from diffusers.training_utils import compute_snr

from diffexp.diffusion import schedules, weightings
from diffexp.diffusion.bound import Bound
from diffexp.diffusion.objectives import Objective
from diffexp.diffusion.predictions import Prediction
from diffexp.diffusion.schedules import Schedule
from diffexp.diffusion.timesteps import ImportanceSampler, StratifiedSampler, UniformSampler
from diffexp.rng import RandomNumbers

SCHEDULE = Schedule(schedules.linear(1000))
SNR = SCHEDULE.alphas_cumprod / (1 - SCHEDULE.alphas_cumprod)


def test_the_weights_on_epsilon_are_the_papers():
    class Theirs:
        alphas_cumprod = SCHEDULE.alphas_cumprod

    t = torch.tensor([0, 200, 400, 999])
    snr = compute_snr(Theirs, t).double()  # theirs is of float32
    coef_epsilon = Prediction("epsilon", SCHEDULE).error_of_x0()
    weights = {
        "min_snr": weightings.min_snr(SNR, gamma=5) / coef_epsilon,
        "p2": weightings.p2(SNR, gamma=0.5, k=2) / coef_epsilon,
        "truncated": weightings.truncated_snr(SNR) / coef_epsilon,
    }
    torch.testing.assert_close(weights["min_snr"][t], torch.clamp(snr, max=5) / snr, rtol=1e-5, atol=0)
    torch.testing.assert_close(weights["p2"][t], 1 / (2 + snr) ** 0.5, rtol=1e-5, atol=0)
    torch.testing.assert_close(weights["truncated"][t], torch.clamp(snr, min=1) / snr, rtol=1e-5, atol=0)
    # of v: min(SNR, γ)/(SNR + 1)
    of_v = weightings.min_snr(SNR, gamma=5) / Prediction("v", SCHEDULE).error_of_x0()
    torch.testing.assert_close(of_v[t], torch.clamp(snr, max=5) / (snr + 1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["min_snr", "p2", "truncated_snr"])
def test_a_weighted_loss_is_the_same_whatever_the_network_predicts(name):
    """Networks of different prediction that make the same x̂_0."""
    x0, noise, guess = torch.randn(3, 5, 1, 4, 4, dtype=torch.float64)
    t = torch.tensor([3, 100, 300, 600, 990])
    signal, sigma = SCHEDULE.levels(t, like=x0)
    x_t = SCHEDULE.add_noise(x0, noise, t)
    implied = (x_t - signal * guess) / sigma
    outputs = {"epsilon": implied, "x0": guess, "v": signal * implied - sigma * guess}
    minimised = []
    for kind, output in outputs.items():
        prediction = Prediction(kind, SCHEDULE)
        weights = getattr(weightings, name)(SNR) / prediction.error_of_x0()
        objective = Objective(prediction, weights=weights)
        minimised.append(objective.losses(lambda x, t, output=output: output, x0, noise, t)[1])
    # the network's output passes through float32
    torch.testing.assert_close(minimised[1], minimised[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(minimised[2], minimised[0], rtol=1e-3, atol=1e-5)


def learned(x, t):
    """A stand-in network with twice the channels, and a share of the variance that depends on x."""
    return torch.cat([torch.tanh(x), torch.sin(x)], dim=1)


def test_the_term_of_the_bound_is_the_divergence_of_two_normals():
    x0, noise, share = torch.rand(3, 4, 1, 3, 3, dtype=torch.float64)
    t = torch.tensor([1, 20, 500, 999])
    x_t = SCHEDULE.add_noise(x0, noise, t)
    guess = torch.tanh(x_t)
    ours = Bound(SCHEDULE, "learned").term(x0, x_t, t, guess, share)
    for index, step in enumerate(t.tolist()):
        alpha_bar, before = SCHEDULE.alpha_bar(step), SCHEDULE.alpha_bar(step - 1)
        beta, alpha = SCHEDULE.betas[step].item(), SCHEDULE.alphas[step].item()
        small = beta * (1 - before) / (1 - alpha_bar)
        coef_x0 = math.sqrt(before) * beta / (1 - alpha_bar)
        rest = math.sqrt(alpha) * (1 - before) / (1 - alpha_bar) * x_t[index]
        variance = beta ** share[index] * small ** (1 - share[index])
        theirs = torch.distributions.kl_divergence(
            torch.distributions.Normal(coef_x0 * x0[index] + rest, math.sqrt(small)),
            torch.distributions.Normal(coef_x0 * guess[index] + rest, variance.sqrt()),
        )
        assert ours[index].item() == pytest.approx(theirs.mean().item() / math.log(2), rel=1e-6)


def test_the_decoder_gives_the_256_levels_a_mass_of_one():
    bound, levels = Bound(SCHEDULE, "fixed_small"), torch.arange(256) / 127.5 - 1
    for guess in (-1.3, 0.0, 0.4, 1.0):
        x0 = levels.view(256, 1, 1, 1)
        x_t, zero = torch.full_like(x0, guess), torch.zeros(256, dtype=torch.long)
        nats = bound.term(x0, x_t, zero, torch.full_like(x0, guess)) * math.log(2)
        assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_the_terms_of_a_gaussian_have_their_closed_form_and_sum_to_more_than_its_entropy():
    """x_0 ~ N(0, s²) with its exact denoiser, whose error has the variance s² (1-ᾱ)/(ᾱ s² + 1-ᾱ)."""
    std, count, total = 0.25, 20_000, 0.0
    schedule = Schedule(schedules.linear(50, rescale="1000/T"))
    bound, source = Bound(schedule, "fixed_small"), torch.Generator().manual_seed(0)
    x0 = torch.randn(count, 1, 1, 1, generator=source, dtype=torch.float64) * std
    for t in range(50):
        alpha_bar, times = schedule.alpha_bar(t), torch.full((count,), t)
        x_t = schedule.add_noise(x0, torch.randn(x0.shape, generator=source, dtype=torch.float64), times)
        guess = x_t * math.sqrt(alpha_bar) * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        bits = bound.term(x0, x_t, times, guess)
        total += bits.mean().item()
        if t > 0:
            before, beta = schedule.alpha_bar(t - 1), schedule.betas[t].item()
            small = beta * (1 - before) / (1 - alpha_bar)
            error = std**2 * (1 - alpha_bar) / (alpha_bar * std**2 + 1 - alpha_bar)
            exact = 0.5 * before * beta**2 / (1 - alpha_bar) ** 2 * error / small / math.log(2)
            assert bits.mean().item() == pytest.approx(exact, abs=5 * bits.std().item() / math.sqrt(count))
    last = schedule.alpha_bar(49)
    prior = 0.5 * (last * std**2 - last - math.log1p(-last)) / math.log(2)
    assert bound.prior(x0).mean().item() == pytest.approx(prior, rel=0.05)
    # of a normal cut into steps of 1/127.5, in bits
    entropy = 0.5 * math.log2(2 * math.pi * math.e * std**2) + math.log2(127.5)
    assert entropy < total + prior < entropy + 2.5


def test_vlb_is_t_times_the_term_and_hybrid_moves_the_variance_alone_by_it():
    prediction = Prediction("epsilon", SCHEDULE, learned_variance=True)
    x0, noise, t = torch.rand(3, 1, 4, 4) * 2 - 1, torch.randn(3, 1, 4, 4), torch.tensor([2, 400, 900])
    x_t = SCHEDULE.add_noise(x0, noise, t)
    output = learned(x_t, t).requires_grad_()
    epsilon, share = output.chunk(2, dim=1)
    term = Bound(SCHEDULE, "learned").term(x0, x_t, t, prediction.x0(epsilon, x_t, t), (share + 1) / 2)
    error, vlb = Objective(prediction, "vlb").losses(lambda *_: output, x0, noise, t)
    torch.testing.assert_close(vlb, 1000 * term)
    torch.testing.assert_close(error, (noise - epsilon).square().mean((1, 2, 3)))
    _, hybrid = Objective(prediction, "hybrid").losses(lambda *_: output, x0, noise, t)
    torch.testing.assert_close(hybrid, error + 0.001 * vlb)
    (gradient,) = torch.autograd.grad(hybrid.sum(), output, retain_graph=True)
    (of_error,) = torch.autograd.grad(error.sum(), output, retain_graph=True)
    (of_vlb,) = torch.autograd.grad(0.001 * vlb.sum(), output)
    torch.testing.assert_close(gradient[:, :1], of_error[:, :1])
    torch.testing.assert_close(gradient[:, 1:], of_vlb[:, 1:])


def sampled(sampler, count, step=0, positions=None):
    """The timesteps of a step for all images of its batch, or those at some positions."""
    positions = torch.arange(count) if positions is None else positions
    uniform = RandomNumbers(step, positions).draws(0, 1, (1,))[0].uniforms[0]
    return sampler.sample(uniform, positions, count, step)


@pytest.mark.parametrize("sampler", [UniformSampler(1000), StratifiedSampler(1000), ImportanceSampler(1000)])
def test_timesteps_depend_on_the_position_alone(sampler):
    everybody = sampled(sampler, 12)
    for some in ([5], [3, 4], [11, 0]):
        positions = torch.tensor(some)
        assert torch.equal(sampled(sampler, 12, positions=positions), everybody[positions])


def test_stratified_timesteps_hit_every_part_once_and_are_uniform():
    drawn = torch.stack([sampled(StratifiedSampler(1000), 10, step) for step in range(2000)])
    assert torch.equal((drawn // 100).sort(1).values, torch.arange(10).expand(2000, 10))
    counts = torch.bincount(drawn.flatten(), minlength=1000).double()
    assert ((counts - 20) ** 2 / 20).sum().item() < 999 + 4 * math.sqrt(2 * 999)
    # the parts are dealt anew: an image's timestep is uniform, too
    firsts = torch.bincount(drawn[:, 0] // 100, minlength=10).double()
    assert ((firsts - 200) ** 2 / 200).sum().item() < 9 + 4 * math.sqrt(18)


def test_a_stratified_batch_varies_less():
    means = [
        torch.stack([(sampled(kind(1000), 16, step) / 999.0) ** 2 for step in range(500)]).mean(1).var()
        for kind in (UniformSampler, StratifiedSampler)
    ]
    assert means[1] < means[0] / 20


def test_importance_draws_as_the_root_mean_square_of_the_last_ten_losses():
    timesteps = ImportanceSampler(4)
    assert timesteps.probabilities().tolist() == [0.25] * 4
    losses = {0: [9.0] * 3 + [1.0] * 10, 1: [2.0] * 10, 2: [3.0, 4.0] * 5, 3: [0.0] * 10}
    for t, values in losses.items():
        assert timesteps.probabilities().tolist() == [0.25] * 4  # until each has ten
        timesteps.add(torch.full((len(values),), t), torch.tensor(values))
    roots = torch.tensor([1, 2, 12.5**0.5, 0], dtype=torch.float64)
    expected = 0.999 * roots / roots.sum() + 0.001 / 4
    torch.testing.assert_close(timesteps.probabilities(), expected)
    drawn = sampled(timesteps, 40_000)
    shares = torch.bincount(drawn, minlength=4) / 40_000
    assert ((shares - expected).abs() < 4 * (expected / 40_000).sqrt()).all()
    # weighed, the mean is that of evenly drawn timesteps
    values = torch.tensor([1.0, 2, 3, 0])
    assert (values[drawn] * timesteps.weights(drawn)).mean().item() == pytest.approx(values.mean().item(), rel=0.02)
    with_nan = timesteps.state()
    timesteps.add(torch.tensor([0, 1]), torch.tensor([math.nan, 5.0]))
    assert all(torch.equal(value, timesteps.state()[name]) for name, value in with_nan.items())


def test_importance_remembers_mixed_batches_like_single_losses():
    source = torch.Generator().manual_seed(1)
    whole, single = ImportanceSampler(3), ImportanceSampler(3)
    for _ in range(6):
        t, losses = torch.randint(3, (40,), generator=source), torch.rand(40, generator=source)
        whole.add(t, losses)
        for one, loss in zip(t, losses, strict=True):
            single.add(one[None], loss[None])
    assert all(torch.equal(value, single.state()[name]) for name, value in whole.state().items())
