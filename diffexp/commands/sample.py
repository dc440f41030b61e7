"""`diffexp sample`: sample images from a trained model."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffexp.checkpoints.load import TrainedModel
from diffexp.commands.sample_out import check_out
from diffexp.config.merge import as_dict, differing
from diffexp.config.schemas.requests import EvaluateRequest, SampleRequest
from diffexp.config.schemas.samplers import SamplerConfig
from diffexp.data.grids import grid, save_png, to_picture
from diffexp.errors import writing
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.models.batch_size import images_at_once
from diffexp.models.precision import sampling_precision
from diffexp.runs.directory import Run
from diffexp.system.devices import memory_of, out_of_memory_explained, precision_for
from diffexp.system.files import atomic_write
from diffexp.system.terminal import progress_bar

log = logging.getLogger(__name__)

# Keys of the place and the speed of sampling, which file names omit.
_UNNAMED = ("batch_size", "memory_gb", "accelerator", "precision", "compile", "cuda_graphs", "out", "overwrite")

# The remedy when a GPU's memory does not suffice.
SMALLER = "Reduce batch_size, or set memory_gb to the GiB that sampling may use."


def draw(model: GenerativeModel, request: SampleRequest) -> Tensor:
    """Sample in batches, with a progress bar over network calls.

    Returns:
        The images, uint8, shape (count, C, H, W).
    """
    batches = []
    with sampling_precision(model, precision_for(request.precision, model.device)):
        size = min(fitted_batch_size(model, [request.sampler], request), request.count)
        starts = range(0, request.count, size)
        total = len(starts) * model.network_calls(request.sampler)
        with (
            out_of_memory_explained("batch_size", size, SMALLER),
            progress_bar(f"sample {request.sampler.name}", total, "call", delay=1) as bar,
        ):
            for start in starts:
                indices = range(start, min(start + size, request.count))
                images = model.sample(request.sampler, indices, request.seed, on_call=bar.update)
                batches.append(as_pixels(images).cpu())
    return torch.cat(batches)


def fitted_batch_size(
    model: GenerativeModel, samplers: Iterable[SamplerConfig], request: SampleRequest | EvaluateRequest
) -> int:
    """Return the batch size that fits `memory_gb` with all samplers, and compile or record the model if requested.

    Raises:
        UserError: if one image exceeds the memory, or the model cannot be compiled or recorded as a CUDA graph.
    """
    size = request.batch_size
    if request.memory_gb is not None:
        there = memory_of(model.device) / 2**30
        if request.memory_gb > there:
            log.warning("memory_gb: expected at most the %.3g GiB here, got %g.", there, request.memory_gb)
        budget = min(request.memory_gb, there)
        size = min(images_at_once(model, sampler, size, budget) for sampler in samplers)
    if request.compile:
        model.compile_network(sampling=True)
    if request.cuda_graphs:
        model.use_cuda_graphs()
    return size


def default_out(trained: TrainedModel, request: SampleRequest) -> Path:
    """Return the path of a grid without `out`: in drawings/ of the run's directory, else of the file's folder.

    The name contains the sampler, its steps if it has any, and each further key that differs from its default.
    """
    sampler = request.sampler
    parts = [trained.path.stem, *sampler.brief()]
    defaults = SampleRequest(sampler=sampler.plain())
    for key, _, value in differing(as_dict(defaults), as_dict(request)):
        if key not in _UNNAMED:
            parts.append(f"{key.removeprefix('sampler.')}={value}")
    return Run(trained.folder).drawings / f"{'-'.join(parts)}.png"


def save(images: Tensor, out: Path, *, overwrite: bool = False) -> None:
    """Write images as a grid (.png), an array (.npz) or, without either suffix, a folder of PNGs.

    Args:
        images: uint8 (N, C, H, W).
        out: the file or folder.
        overwrite: whether to replace earlier images.

    Raises:
        UserError: if `out` cannot be written, or exists and must stay.
        EnvironmentFailure: if the disk is full or failing.
    """
    check_out(out, overwrite=overwrite)  # again: another process may have written it meanwhile
    with writing(f"out: {out}"):
        if out.suffix.lower() == ".png":
            save_png(grid(images), out)
        elif out.suffix.lower() == ".npz":
            with atomic_write(out) as file:
                np.savez(file, images=images.permute(0, 2, 3, 1).contiguous().numpy())
        else:
            for old in out.iterdir() if out.is_dir() else ():
                old.unlink()  # all of them: fewer images may follow
            for index, image in enumerate(images):
                save_png(to_picture(image), out / f"{index:06d}.png")
