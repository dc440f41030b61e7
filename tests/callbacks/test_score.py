"""Scoring in somebody else's Trainer, with a model whose samples get better by a known rule."""

import json
import re
import time

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from diffexp.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from diffexp.callbacks.ema import EMA
from diffexp.callbacks.score import ScoreSamples
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.errors import UserError
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.runs.metrics import read_metrics
from tests.helpers.sets import against, digits, scores_of

REAL = digits()


class Painter(GenerativeModel):
    """Draws digits with noise, of which each step takes away as much as the sampler says. A call lasts 1 ms."""

    def __init__(self, diverge=False):
        super().__init__((1, 8, 8))
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.drawn = []
        self.diverge = diverge

    def training_step(self, batch, batch_idx):
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def sample(self, sampler, indices, seed, on_call=None):
        self.drawn += indices
        for _ in range(self.network_calls(sampler)):
            time.sleep(1e-3)
            if on_call is not None:
                on_call()
        images = []
        for index in indices:
            noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1000 * seed + index))
            level = (1 - sampler * self.weight.detach()).clamp(min=0)
            images.append(REAL[index % len(REAL)] / 127.5 - 1 + level * noise)
        return torch.stack(images) * (float("nan") if self.diverge else 1)

    def network_calls(self, sampler):
        return 5

    def label(self, sampler):
        return f"painter-{sampler:g}"


def score(folder, **settings):
    given = {"samplers": {"fast": 0.25, "slow": 0.1}, "every": 2, "count": 300, **settings}
    return ScoreSamples(folder, digits_extractor(), lambda extractor: against(REAL, extractor), **given)


def fit(callbacks, steps, logger=False, module=None, checkpoint=None):
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
    )
    module = module or Painter()
    trainer.fit(module, DataLoader(torch.zeros(1000)), ckpt_path=checkpoint, weights_only=True)
    return module


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    callback, metrics = score(folder), JSONLLogger(folder / "metrics.jsonl")
    module = fit([callback], 5, metrics)
    return folder, callback, read_metrics(folder / "metrics.jsonl"), module


def test_scores_every_so_many_steps_and_at_the_end_under_names_that_say_everything(scored):
    folder, _, rows, _ = scored
    assert [row["step"] for row in rows] == [2, 4, 5]
    names = set(rows[0])
    for label in ("painter-0.25-raw", "painter-0.1-raw"):
        for metric in ("fd", "fd_error", "expected_fd", "kd", "kd_error", "precision", "recall", "nn_distance_ratio"):
            assert f"score/{label}/{metric}_digits_v1_300" in names
    assert [file.name for file in sorted(folder.glob("*.json"))] == [f"step-0000000{step}.json" for step in (2, 4, 5)]


def test_the_value_is_that_of_exactly_these_images(scored):
    folder, callback, rows, module = scored
    images = as_pixels(module.sample(0.25, range(300), 0))
    expected = scores_of(images, against(REAL))
    assert rows[-1]["score/painter-0.25-raw/fd_digits_v1_300"] == pytest.approx(expected["fd"].value, rel=1e-5)
    assert callback.scored["fast"].scores["fd"].value == rows[-1]["score/painter-0.25-raw/fd_digits_v1_300"]
    content = json.loads((folder / "step-00000005.json").read_text())
    assert content["protocol"] == callback.protocol().id
    assert content["scores"]["fast"]["network_calls"] == 5
    assert content["scores"]["fast"]["seconds"] >= 5 * 2 * 1e-3  # calls × batches × 1 ms


def test_better_samples_score_better_and_the_best_is_monotone(scored):
    _, _, rows, _ = scored
    fast = [row["score/painter-0.25-raw/fd_digits_v1_300"] for row in rows]
    assert fast[0] > fast[1]
    best = [row["score/painter-0.25-raw/fd_digits_v1_300_best"] for row in rows]
    assert best == [min(fast[: i + 1]) for i in range(3)]
    slow = [row["score/painter-0.1-raw/fd_digits_v1_300_best"] for row in rows]
    assert [row["score/fd_digits_v1_300_best"] for row in rows] == [min(pair) for pair in zip(best, slow, strict=True)]


def test_exactly_the_wanted_images_are_drawn(tmp_path):
    module = Painter()
    fit([score(tmp_path, samplers={"a": 0.1}, batch_size=128, every=3)], 3, module=module)
    probed = 128  # timed before training; its images are not scored
    assert module.drawn[probed:] == list(range(300))


def test_the_cost_is_told_before_training_and_is_about_right(tmp_path, capsys):
    fit([score(tmp_path, count=1000, batch_size=100)], 2)
    told = re.findall(
        r"score (\w+) \(painter-0\.\d+\): 5 network calls × 1000 images, about (\d+) s", capsys.readouterr().err
    )
    assert [name for name, _ in told] == ["fast", "slow"]


def test_variants_beyond_the_limit_of_seconds_are_left_out_aloud(tmp_path, capsys):
    callback = score(tmp_path, max_seconds=1e-6)
    fit([callback], 2)
    assert callback.scored == {}
    assert "skipped, because score.max_seconds = 1e-06" in capsys.readouterr().err


def test_scorings_beyond_the_limit_of_the_share_are_left_out_aloud(tmp_path, capsys):
    callback = score(tmp_path, max_time_fraction=1e-6)
    fit([callback], 4)
    assert callback.scored == {}
    assert not callback.finished(4)  # a resumed run may make up for it
    assert capsys.readouterr().err.count("would exceed score.max_time_fraction = 1e-06") == 2


def test_averaged_weights_are_scored_and_the_raw_ones_stay(tmp_path):
    ema = EMA(half_life=30, batch_size=10, rampup=None)
    metrics = JSONLLogger(tmp_path / "metrics.jsonl")
    module = fit([ema, score(tmp_path, ema=ema, samplers={"a": 0.25}, every=4)], 4, metrics)
    assert module.weight.item() == 4
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    raw = scores_of(as_pixels(module.sample(0.25, range(300), 0)), against(REAL))["fd"].value
    with ema.applied(module):
        averaged = scores_of(as_pixels(module.sample(0.25, range(300), 0)), against(REAL))["fd"].value
    assert row["score/painter-0.25-ema/fd_digits_v1_300"] == pytest.approx(averaged, rel=1e-5)
    assert averaged > raw


def test_nothing_of_it_enters_checkpoints(tmp_path):
    fit([score(tmp_path / "scores"), StepCheckpoint(tmp_path / "checkpoints", every=2)], 4)
    content = torch.load(list_checkpoints(tmp_path / "checkpoints")[-1], weights_only=True)
    assert list(content["state_dict"]) == ["weight"]
    assert content["callbacks"] == {}


def test_a_scoring_given_up_is_made_up_for_by_the_resumed_run(tmp_path):
    stop = {"now": False}

    def should_stop():
        return stop["now"]

    def callbacks():
        return [StepCheckpoint(tmp_path / "checkpoints", every=2), score(tmp_path / "scores", should_stop=should_stop)]

    stop["now"] = True
    fit(callbacks(), 2)
    assert not (tmp_path / "scores").exists()
    stop["now"] = False
    fit(callbacks(), 4, checkpoint=list_checkpoints(tmp_path / "checkpoints")[-1])
    assert sorted(file.name for file in (tmp_path / "scores").iterdir()) == [
        f"step-0000000{step}.{ending}" for step in (2, 4) for ending in ("json", "npz")
    ]


def test_a_model_that_makes_nan_is_told(tmp_path):
    with pytest.raises(UserError, match="samples: expected finite pixels, got NaN"):
        fit([score(tmp_path)], 2, module=Painter(diverge=True))


def test_too_few_images_are_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"score\.count: expected at least 40 images"):
        score(tmp_path, count=30)
