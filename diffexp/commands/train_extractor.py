"""`diffexp extractor`: train a small classifier on a dataset's labels, whose features score small images."""

import sys
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from diffexp.config.merge import as_dict
from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.requests import ExtractorRequest
from diffexp.data.batches import InfiniteBatches
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet, to_float
from diffexp.errors import UserError, writing
from diffexp.evaluation.extractors.classifier import Classifier, write
from diffexp.rng import derive_seed, generator
from diffexp.system.devices import device_for
from diffexp.system.files import check_writable
from diffexp.system.terminal import progress_bar


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier's file, and its accuracy on both splits, from 0 to 1; None without a test split."""

    path: Path
    train_accuracy: float
    test_accuracy: float | None


def train_classifier(data: DataConfig, wanted: ExtractorRequest) -> TrainedClassifier:
    """Train a classifier and write its file; deterministic on one machine with one number of threads.

    Args:
        data: the labelled images.
        wanted: the network, the optimisation, and the file to write.

    Raises:
        UserError: if the images have no labels, or the file exists or cannot be written.
    """
    path = Path(wanted.out if wanted.out is not None else f"{wanted.name}.safetensors")
    if path.exists():
        raise UserError(
            f"out: expected a new file, got {path}, which exists. Replacing it would invalidate its scores. Give "
            "another name."
        )
    check_writable(path, "out")
    sources = ImageDataModule.from_config(data, wanted.batch_size, wanted.seed)
    images = sources.images("train")
    if images.labels is None or images.class_names is None:
        raise UserError(f"data: expected labelled images, got {data.name} without labels. Choose other data.")
    device = device_for(wanted.accelerator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("classifier", wanted.seed))
        network = Classifier(images.image_shape, len(images.class_names), wanted.features, wanted.dropout).to(device)
        _fit(network, images, wanted, device)
    network.eval()
    train_accuracy = accuracy(network, images, device)
    try:
        test_accuracy = accuracy(network, sources.images("test"), device)
    except UserError:  # no such split
        test_accuracy = None
    training = {
        "command": ["diffexp", *sys.argv[1:]],
        "data": as_dict(data),
        "settings": as_dict(replace(wanted, out=None)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "accuracy": {"train": train_accuracy, "test": test_accuracy},
    }
    with writing(f"out: {path}"):
        write(path, network.cpu(), images.image_shape, wanted.name, training)
    return TrainedClassifier(path, train_accuracy, test_accuracy)


def _fit(network: Classifier, images: ImageSet, wanted: ExtractorRequest, device: torch.device) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=wanted.lr, weight_decay=wanted.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, wanted.lr, total_steps=wanted.steps)
    batches = InfiniteBatches(images, wanted.batch_size, seed=wanted.seed)
    network.train()
    bar = progress_bar(f"train {wanted.name}", wanted.steps, "step", islice(iter(batches), wanted.steps))
    for step, batch in enumerate(bar):
        pixels = _shifted(batch["images"], wanted.shift, generator(torch.device("cpu"), "shift", wanted.seed, step))
        scores = network(to_float(pixels).to(device))
        loss = cross_entropy(scores, batch["labels"].to(device), label_smoothing=wanted.label_smoothing)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def _shifted(images: Tensor, most: int, source: torch.Generator) -> Tensor:
    """Shift each image (B, C, H, W) by up to `most` pixels in both directions, and pad with black."""
    if most == 0:
        return images
    height, width = images.shape[-2:]
    padded = pad(images, (most, most, most, most))
    offsets = torch.randint(0, 2 * most + 1, (len(images), 2), generator=source).tolist()
    moved = [
        each[:, top : top + height, left : left + width] for each, (top, left) in zip(padded, offsets, strict=True)
    ]
    return torch.stack(moved)


@torch.no_grad()
def accuracy(network: Classifier, images: ImageSet, device: torch.device) -> float:
    """Return the share of images with the correct class, from 0 to 1."""
    assert images.labels is not None
    right = 0
    for indices in torch.split(torch.arange(len(images)), 1000):
        found = network(to_float(images.fetch(indices)).to(device)).argmax(dim=1).cpu()
        right += int((found == images.labels[indices]).sum())
    return right / len(images)
