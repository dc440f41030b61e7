"""Batches of torchvision's datasets, of tensors and of mappings train alike."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffexp import DiffusionModule, OptimConfig, Schedule, linear
from diffexp.models.batch import as_batch

IMAGES = torch.randint(256, (32, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 3


class Mappings(torch.utils.data.Dataset):
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return {"images": IMAGES[index], "labels": LABELS[index], "index": torch.tensor(index)}


class Network(torch.nn.Conv2d):
    def forward(self, x, t):
        return super().forward(x)


def trained(dataset):
    torch.manual_seed(0)
    module = DiffusionModule((1, 4, 4), Network(1, 1, 3, padding=1), Schedule(linear(1000)))
    module.optim, module.seed = OptimConfig(lr=0.1), 1
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(dataset, batch_size=8))
    return module.network.weight


def test_every_kind_of_batch_trains_the_same():
    floats = IMAGES.float() / 127.5 - 1
    kinds = (TensorDataset(IMAGES, LABELS), TensorDataset(floats, LABELS), TensorDataset(IMAGES), IMAGES, Mappings())
    first, *others = [trained(kind) for kind in kinds]
    assert not torch.equal(first, trained(TensorDataset(255 - IMAGES)))
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", [(IMAGES, LABELS, LABELS), [IMAGES, "a"], 3, ()])
def test_anything_else_is_a_type_error(batch):
    with pytest.raises(TypeError, match="batch: expected images, a pair"):
        as_batch(batch)
