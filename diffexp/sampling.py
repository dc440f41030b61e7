"""Samples from a trained model, for `diffexp sample`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffexp.callbacks.checkpoints import newest_whole, read_checkpoint
from diffexp.callbacks.ema import averaged
from diffexp.callbacks.grids import grid, save_png, to_picture
from diffexp.config import experiment_from_text
from diffexp.config.experiment import Experiment, SampleRequest
from diffexp.config.merging import as_dict, differing
from diffexp.errors import UserError
from diffexp.files import whole_file, writable
from diffexp.hardware import autocast, device_for, precision_for
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.runs import Run
from diffexp.training import build_model

# Formats that somebody may expect; a folder of such a name would surprise.
_NOT_WRITTEN = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".pt", ".zip")


@dataclass(frozen=True)
class Trained:
    """A checkpoint's contents.

    Attributes:
        path: its file.
        experiment: what was trained.
        step: optimiser steps done.
        raw, ema: the weights by name; ema is None where none were averaged.
    """

    path: Path
    step: int
    experiment: Experiment
    raw: dict[str, Tensor]
    ema: dict[str, Tensor] | None


def load_trained(path: Path) -> Trained:
    """Read a checkpoint, or the newest one of a run's directory. Nothing in the file is executed.

    Raises:
        UserError: if there is none, or it is not one of ours.
    """
    if path.is_dir():
        newest = newest_whole(Run(path).checkpoints)
        if newest is None:
            raise UserError(f"{path}: has no checkpoints/step-*.ckpt; is it a run's directory, and trained?")
        path = newest
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint or run directory")
    content = read_checkpoint(path)
    try:
        average = averaged(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: holds averaged weights of an unknown form") from error
    experiment = experiment_from_text(content["config"], str(path))
    return Trained(path, int(content["global_step"]), experiment, content["state_dict"], average)


def build_trained(trained: Trained, request: SampleRequest) -> GenerativeModel:
    """The model with the wanted weights, on the wanted device.

    Raises:
        UserError: if the weights do not fit the network, averaged ones are wanted but were not kept, or
            there is no such device.
    """
    if request.weights == "ema" and trained.ema is None:
        raise UserError(f"{trained.path}: holds no averaged weights; use weights=raw")
    model = build_model(trained.experiment)
    try:
        model.load_state_dict(trained.raw)
        if request.weights == "ema":
            model.load_state_dict({**trained.raw, **(trained.ema or {})})
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{trained.path}: the weights do not fit the config in it: {error}") from error
    return model.to(device_for(request.accelerator)).eval()


def draw(model: GenerativeModel, request: SampleRequest) -> Tensor:
    """uint8 (count, C, H, W), batch by batch, with a progress bar over network calls."""
    starts = range(0, request.count, request.batch_size)
    total = len(starts) * model.network_calls(request.sampler)
    batches = []
    precision = precision_for(request.precision, model.device)
    bar = tqdm(total=total, desc=f"sample {request.sampler.name}", unit="call", delay=1)
    with bar, autocast(precision, model.device):
        for start in starts:
            indices = range(start, min(start + request.batch_size, request.count))
            images = model.sample(request.sampler, indices, request.seed, on_call=bar.update)
            batches.append(as_pixels(images).cpu())
    return torch.cat(batches)


def default_out(trained: Trained, request: SampleRequest) -> Path:
    """Where a grid goes when no `out` is given: samples/ beside the checkpoint's folder, else beside the file.

    The name tells what was drawn: the sampler, its steps, and each further key that is not at its default.
    """
    sampler = request.sampler
    parts = [trained.path.stem, sampler.name, str(sampler.steps or "all")]
    defaults = SampleRequest(sampler=type(sampler)(steps=sampler.steps))
    for key, _, value in differing(as_dict(defaults), as_dict(request)):
        if key not in ("batch_size", "accelerator", "precision", "out"):
            parts.append(f"{key.removeprefix('sampler.')}={value}")
    folder = trained.path.parent
    return (folder.parent / "samples" if folder.name == "checkpoints" else folder) / f"{'-'.join(parts)}.png"


def save(images: Tensor, out: Path) -> None:
    """Write images as a grid (.png), an array (.npz) or, without either suffix, a folder of PNGs.

    Args:
        images: uint8 (N, C, H, W).
        out: the file or folder; the folder must be new or empty.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        if out.suffix.lower() == ".png":
            save_png(grid(images), out)
        elif out.suffix.lower() == ".npz":
            with whole_file(out) as file:
                np.savez(file, images=images.permute(0, 2, 3, 1).contiguous().numpy())
        else:
            for index, image in enumerate(images):
                save_png(to_picture(image), out / f"{index:06d}.png")
    except OSError as error:
        raise UserError(f"out: {out} cannot be written: {error.strerror}") from error


def check_out(out: Path) -> None:
    """Refuse a place that cannot be written, before anything is sampled.

    Raises:
        UserError: saying why.
    """
    suffix = out.suffix.lower()
    if suffix in _NOT_WRITTEN:
        raise UserError(f"out: {suffix} is not written; give a .png, an .npz or the name of a folder")
    if suffix in (".png", ".npz"):
        if out.is_dir():
            raise UserError(f"out: {out} is a folder")
    elif out.is_file():
        raise UserError(f"out: {out} is a file; a name without .png or .npz is a folder for PNGs")
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"out: {out} is not empty; old images would stand among the new")
    writable(out, "out")
