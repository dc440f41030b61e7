import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from diffexp.models.loss_meter import LossByTimestep, LossMeter, PerSampleLoss

ALONE = SingleDeviceStrategy(torch.device("cpu"))


def test_means_overall_and_by_quarter():
    losses = LossByTimestep(100)
    losses.add_at(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 24, 25]))
    losses.add_at(torch.tensor([7.0]), torch.tensor([99]))
    assert losses.means(ALONE) == pytest.approx({"loss": 4.0, "loss_q1": 2.0, "loss_q2": 5.0, "loss_q4": 7.0})
    losses.reset()
    losses.add_at(torch.tensor([2.0]), torch.tensor([50]))
    assert losses.means(ALONE) == {"loss": 2.0, "loss_q3": 2.0}


def test_a_state_is_taken_up_once():
    losses = LossByTimestep(4)
    losses.add_at(torch.tensor([1.0, 2.0]), torch.tensor([0, 3]))
    state = losses.state(ALONE)
    first, second = LossByTimestep(4), LossByTimestep(4)
    first.load(state, 0, 2)
    second.load(state, 1, 2)
    assert first.state(ALONE) == state == [[[1.0, 0.0, 0.0, 2.0], [1.0, 0.0, 0.0, 1.0]]]
    assert second.state(ALONE) == [[[0.0] * 4, [0.0] * 4]]
    first.load([*state, [[1.0] * 4, [1.0] * 4]], 0, 1)
    assert first.state(ALONE) == [[[2.0, 1.0, 1.0, 3.0], [2.0, 1.0, 1.0, 2.0]]]


def test_a_step_that_is_left_out_is_not_counted():
    losses = LossByTimestep(4)
    assert losses.means(ALONE) == {}
    losses.add_at(torch.tensor([1.0, float("nan")]), torch.tensor([0, 3]))
    assert losses.means(ALONE) == {}
    losses.add_at(torch.tensor([3.0]), torch.tensor([1]))
    assert losses.means(ALONE) == {"loss": 3.0, "loss_q2": 3.0}


def test_the_weights_of_a_step_count_in_every_mean():
    meter = LossMeter(["loss", "other"])
    losses = {"loss": torch.tensor([1.0, 3.0]), "other": torch.tensor([0.0, 8.0])}
    meter.update(PerSampleLoss(losses["loss"], losses, weights=torch.tensor([3.0, 1.0])))
    assert meter.totals(ALONE) == ([6.0, 8.0], [4.0, 4.0])
