"""Batches on a GPU: from images that reside there, through pinned memory, and by workers."""

import lightning as L
import pytest
import torch

from diffexp.data import datamodule
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import MemoryImages
from tests.data.test_datamodule import Watcher, trainer


def batches(device, monkeypatch, *, resident, workers, flip):
    """What five steps are given, on the host: images, numbers and labels of all."""
    monkeypatch.setattr(datamodule, "resides", lambda images, device: resident)
    images = torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageDataModule(
        MemoryImages(images, torch.arange(100) % 7, list("abcdefg")), 48, seed=5, random_flip=flip, num_workers=workers
    )
    seen = []

    class Keeps(Watcher):
        def training_step(self, batch, batch_idx):
            assert {value.device for value in batch.values()} == {device}
            seen.append({name: value.cpu() for name, value in batch.items()})
            return super().training_step(batch, batch_idx)

    where: L.Trainer = trainer(5, accelerator="gpu" if device.type == "cuda" else "cpu")
    where.fit(Keeps(), data)
    return {name: torch.cat([batch[name] for batch in seen]) for name in seen[0]}


@pytest.mark.parametrize("flip", [False, True])
def test_batches_are_the_same_wherever_the_images_are(device, monkeypatch, flip):
    expected = batches(torch.device("cpu"), monkeypatch, resident=False, workers=0, flip=flip)
    assert expected["images"].shape == (240, 3, 8, 8)
    for resident, workers in ((True, 0), (False, 0), (False, 2)):
        found = batches(device, monkeypatch, resident=resident, workers=workers, flip=flip)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (name, resident, workers)


def test_a_small_set_resides_on_a_gpu(cuda):
    assert datamodule.resides(MemoryImages(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)), cuda)
