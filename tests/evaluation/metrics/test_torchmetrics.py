"""Metrics in a MetricCollection and in a LightningModule of somebody else."""

import lightning
import pytest
import torch
from torchmetrics import MetricCollection

from diffexp import FrechetDistance, KernelDistance, MemorizedFraction, Precision, Recall
from diffexp.evaluation.extractors.digits_v1 import load
from diffexp.evaluation.feature_statistics import FeatureStatistics
from tests.helpers.sets import against, digits, noisy, scores_of

KINDS = (FrechetDistance, KernelDistance, Precision, Recall, MemorizedFraction)


@pytest.fixture(scope="module")
def reference():
    return against(digits())


def test_a_collection_gives_the_scores_and_keeps_the_statistics_once(reference):
    images = noisy(digits()[:500], 30)
    extractor, calls = load(), []
    original = extractor.features
    extractor.features = lambda some: calls.append(len(some)) or original(some)
    collection = MetricCollection([kind(reference, extractor) for kind in KINDS])
    for batch in images.split(100):
        collection.update(batch)
    found, expected = collection.compute(), scores_of(images, reference)
    for kind, name in zip(KINDS, ("fd", "kd", "precision", "recall", "memorized_fraction"), strict=True):
        assert found[kind.__name__].value == pytest.approx(expected[name].value, rel=1e-6), name
    assert len(collection.compute_groups) == 1
    assert calls == [100] * (len(KINDS) + 4)  # the groups are known after the first batch
    collection.reset()
    for batch in images.split(250):
        collection.update(batch)
    assert collection.compute()["FrechetDistance"].value == pytest.approx(expected["fd"].value, rel=1e-6)


def test_a_module_of_somebody_else_logs_it(reference, tmp_path):
    class Theirs(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.fd = FrechetDistance(reference, load())

        def test_step(self, batch, batch_idx):
            self.fd.update(batch)

        def on_test_epoch_end(self):
            self.log("fd", self.fd.compute().value)

    images = noisy(digits()[:300], 30)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (logged,) = trainer.test(Theirs(), torch.utils.data.DataLoader(images, batch_size=100), verbose=False)
    assert logged["fd"] == pytest.approx(scores_of(images, reference)["fd"].value, rel=1e-5)


def test_without_a_count_features_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("diffexp.evaluation.feature_statistics.FEATURE_BYTES", 100 * 4 * 3)
    features = torch.arange(950.0)[:, None].expand(-1, 3)
    statistics = FeatureStatistics(3)
    for batch in features.split(7):
        statistics.update(batch)
    kept = statistics.compute().features[:, 0]
    assert 50 <= len(kept) <= 100
    assert kept.diff().unique().tolist() == [16.0]
    assert statistics.compute().gaussian.count == 950


def test_a_wrong_number_of_images_is_an_error():
    statistics = FeatureStatistics(3, count=10)
    statistics.update(torch.zeros(9, 3))
    with pytest.raises(ValueError, match="expected features of 10 images, got 9"):
        statistics.compute()
