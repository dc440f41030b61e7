"""The variance of both forms of the loss's gradient."""

import pytest
import torch
from torch import nn

from diffexp.callbacks.gradient_variance import GradientVariance
from diffexp.diffusion import schedules
from diffexp.diffusion.schedules import Schedule
from diffexp.errors import UserError
from diffexp.models.diffusion import DiffusionModule
from tests.helpers.small import experiment, fit, metrics


class Constant(nn.Module):
    """ε̂ is one number b, whatever x_t is."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, t):
        return self.b.expand_as(x)


@pytest.mark.slow
def test_it_is_the_closed_form_of_a_constant_network():
    """At b = 0 the gradient is -2 mean(ε_t) over B images: its variance is 4/B of that of the target.

    The un-merged target has variance 1 at every t, the merged one E_t β_t/(1-ᾱ_t).
    """
    schedule = Schedule(schedules.linear(100))
    model = DiffusionModule((1, 1, 1), Constant(), schedule, "step_epsilon")
    images = torch.rand(16, 1, 1, 1) * 2 - 1
    merged, unmerged = GradientVariance(1, 4000).measure(model, images, None, 0)
    share = (schedule.betas / (1 - schedule.alphas_cumprod)).mean().item()
    assert unmerged == pytest.approx(4 / 16, rel=0.1)
    assert merged == pytest.approx(4 / 16 * share, rel=0.1)


def test_it_is_logged_and_changes_nothing(tmp_path):
    keys = ["model.prediction=step_epsilon", "model.network.dropout=0.2", "sample_grid=null"]
    fit(tmp_path / "plain", *keys)
    fit(tmp_path / "measured", *keys, "model.gradient_variance={every: 4, draws: 4}")
    rows = metrics(tmp_path / "measured")
    found = [row for row in rows if "train/gradient_variance_merged" in row]
    assert [row["step"] for row in found] == [4, 8]
    assert all(row["train/gradient_variance_unmerged"] > row["train/gradient_variance_merged"] > 0 for row in found)
    assert [row for row in rows if row not in found] == metrics(tmp_path / "plain")


def test_it_is_refused_of_other_predictions():
    with pytest.raises(UserError, match=r"gradient_variance.every: expected model.prediction: step_epsilon"):
        experiment("model.gradient_variance.every=4")
