"""The sections validation and checkpoint.monitor."""

import pytest

from diffexp.config.load import load_experiment
from diffexp.config.schemas.validation import ValidationConfig
from diffexp.errors import UserError


@pytest.mark.parametrize("name", ["digits", "digits_classes", "mnist", "fashion_mnist", "cifar10_ddpm"])
def test_the_ready_configs_validate_in_at_most_two_percent_of_the_passes(name):
    found = load_experiment(name)
    settings, wanted = found.training, found.validation
    calls = found.model.held_out_calls
    every = wanted.interval(settings.max_steps, settings.batch_size, calls, ema=True)
    several = -(-settings.max_steps // every)
    of_training = 3 * settings.max_steps * settings.batch_size  # forward and twice as much backward
    assert several * 3 * wanted.count * calls <= 0.02 * of_training
    assert several >= 4  # enough for a curve


@pytest.mark.parametrize("steps", [1, 7, 99, 610, 2_000, 123_456])
@pytest.mark.parametrize("count", [5, 60, 5_000])
def test_the_default_interval_is_the_shortest_round_one_within_the_budget(steps, count):
    every = ValidationConfig(count=count).interval(steps, 128, 18, ema=True)
    cost, budget = 3 * 18 * count, 0.02 * steps * 128 * 3
    several = -(-steps // every)
    assert several == 1 or several * cost <= budget
    assert several <= 100
    assert every < 100 or every % 10 ** (len(str(every)) - 2) == 0
    assert ValidationConfig(every=3).interval(steps, 128, 18, ema=True) == 3


def test_held_out_images_are_preferred_to_those_of_the_test_split():
    assert load_experiment("digits").validation.split == "test"
    assert load_experiment("digits", ["data.held_out=100"]).validation.split == "held_out"
    assert load_experiment("digits", ["data.held_out=100", "validation.split=test"]).validation.split == "test"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["validation.split=held_out"], "validation.split: expected test, got held_out, which has no images"),
        (["model.name=gan"], "validation: expected null with model.name: gan, which has no likelihood"),
        (["validation.patience=0"], "validation.patience: expected an integer >= 1"),
        (
            ["checkpoint.monitor=val/bits"],
            "checkpoint.monitor: expected a metric that training logs, such as val/bits_p",
        ),
        (["checkpoint.monitor=val/error_logsnr_10"], "got 'val/error_logsnr_10'"),
        (["checkpoint.monitor=val/bits_per_dim_raw", "ema=null"], "got 'val/bits_per_dim_raw'"),
        (["checkpoint.monitor=val/bits_per_dim", "validation=null"], "'val/bits_per_dim', which needs validation"),
        (["checkpoint.monitor=score/fd_digits_v1_500_best", "score=null"], "which needs score"),
        (["checkpoint.monitor=score/fd_digits_v1_100_best"], "got 'score/fd_digits_v1_100_best'"),
        (["checkpoint.mode=lowest"], "checkpoint.mode: expected one of min, max"),
    ],
)
def test_mistakes_are_named(overrides, problem):
    with pytest.raises(UserError) as error:
        load_experiment("digits", overrides)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "metric",
    [
        *("val/bits_per_dim", "val/bits_per_dim_best", "val/bits_per_dim_raw", "val/bits_per_dim_train"),
        *("val/error_logsnr_9", "val/error_logsnr_-6", "train/loss", "train/loss_q1"),
        *("score/fd_digits_v1_500_best", "score/ddim-50-eta0-ema/fd_digits_v1_500"),
    ],
)
def test_every_logged_metric_can_be_monitored(metric):
    assert load_experiment("digits", [f"checkpoint.monitor={metric}"]).checkpoint.monitor == metric
