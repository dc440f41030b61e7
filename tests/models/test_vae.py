import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.diffusion.bound import log_probability_of_levels
from diffexp.models.vae import VAEModule, kl_to_prior


def test_the_kl_divergence_is_the_closed_form_and_what_sampling_gives():
    torch.manual_seed(0)
    mean, log_std = torch.randn(3, 2, 2, 2), 0.5 * torch.randn(3, 2, 2, 2)
    found = kl_to_prior(mean, log_std)
    posterior, prior = Normal(mean, log_std.exp()), Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(found, kl_divergence(posterior, prior).flatten(1).sum(1))
    z = posterior.sample((100_000,))
    sampled = (posterior.log_prob(z) - prior.log_prob(z)).flatten(2).sum(2)
    error = sampled.std(0) / 100_000**0.5
    assert ((sampled.mean(0) - found).abs() < 5 * error).all()


@pytest.mark.parametrize("std", [0.003, 0.3, 5.0])
def test_the_probabilities_of_the_levels_sum_to_one(std):
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean in (-1.3, -1.0, 0.2, 0.9999, 4.0):
        chances = log_probability_of_levels(levels, torch.tensor(mean).double(), torch.tensor(std).double()).exp()
        assert chances.sum().item() == pytest.approx(1, abs=1e-8)


def test_a_level_far_away_still_pulls_the_mean():
    mean = torch.zeros((), requires_grad=True)
    log_p = log_probability_of_levels(torch.tensor(0.8), mean, torch.tensor(0.01))
    log_p.backward()
    assert log_p.item() == pytest.approx(-(0.8**2) / 2e-4, rel=0.05)
    assert mean.grad.item() == pytest.approx(0.8 / 1e-4, rel=0.05)


@pytest.mark.slow
def test_more_draws_of_z_tighten_the_bound():
    """log mean exp of k bounds rises with k towards log p(x) (Burda et al. 2016), and 1 is the ELBO."""
    torch.manual_seed(0)
    model = VAEModule((1, 4, 4), (8, 8), 1)
    images = torch.randint(256, (4, 1, 4, 4), dtype=torch.uint8)
    x = images / 127.5 - 1
    with torch.no_grad():
        mean, log_std = model.encode(x)
        posterior, prior = Normal(mean, log_std.exp()), Normal(torch.zeros(()), torch.ones(()))
        weights = []
        for z in posterior.sample((4000,)):
            likelihood = log_probability_of_levels(x, model.decode(z), model.log_std.exp()).flatten(1).sum(1)
            weights.append(likelihood + (prior.log_prob(z) - posterior.log_prob(z)).flatten(1).sum(1))
        weights = torch.stack(weights)
    tight = -(weights.logsumexp(0) - math.log(4000)) / (16 * math.log(2))
    elbo = -weights.mean(0) / (16 * math.log(2))
    found = torch.stack(
        [model.bits_per_dim(images, range(4), seed, LikelihoodConfig())["elbo"] for seed in range(300)]
    ).mean(0)
    assert (tight < elbo).all()
    torch.testing.assert_close(found, elbo, rtol=0.01, atol=0)
