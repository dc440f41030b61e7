"""Samples of a generative model as gathered features, and what drawing them costs."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from diffexp.errors import UserError
from diffexp.evaluation import processes
from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.gathering import Gathered, Gathering
from diffexp.models.base import GenerativeModel, as_pixels

_PROBED = 3  # network calls that are timed


@dataclass(frozen=True)
class Sampled:
    """Features of samples, and what they cost: network calls for each image, and seconds in all."""

    gathered: Gathered
    network_calls: int
    seconds: float


def sample_features(
    model: GenerativeModel,
    variant: Any,
    extractor: Extractor,
    indices: range,
    seed: int,
    batch_size: int,
    on_call: Callable[[], object] | None = None,
) -> Sampled:
    """Draw images and keep their features only. Several processes share the images; exactly the given ones are drawn.

    Args:
        model: on its device, with the weights to score.
        variant: how to sample, see `GenerativeModel.sample`.
        extractor: on the same device.
        indices: which images, contiguous; image i depends on (seed, i).
        seed: of the images.
        batch_size: images at once in each process.
        on_call: called after every network call; may raise to give up, if there is one process.

    Raises:
        UserError: in every process, if the model of any makes NaN.
    """
    gathering = Gathering(len(indices), extractor.dim, extractor.classes, extractor.device)
    mine = processes.share(len(indices))
    start = time.perf_counter()
    problem: Exception | None = None
    try:
        for first in range(mine.start, mine.stop, batch_size):
            chosen = indices[first : min(first + batch_size, mine.stop)]
            images = as_pixels(model.sample(variant, chosen, seed, on_call))
            gathering.add(extractor(images), first)
    except (UserError, torch.OutOfMemoryError) as error:  # raised below, once the other processes know of it
        problem = error
    if processes.anywhere(problem is not None, extractor.device):
        raise problem or UserError("another process could not score its images")
    gathered = gathering.result()
    return Sampled(gathered, model.network_calls(variant), time.perf_counter() - start)


class _EnoughError(Exception):
    """The probe has seen what it wanted."""


def seconds_a_call(model: GenerativeModel, variant: Any, batch_size: int) -> float:
    """Seconds that one network call takes on a batch here, from the first few; the very first is not counted."""
    times = [time.perf_counter()]

    def watch() -> None:
        if model.device.type == "cuda":  # it has only been told what to compute
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter())
        if len(times) > _PROBED + 1:
            raise _EnoughError

    with suppress(_EnoughError):
        model.sample(variant, range(batch_size), 0, watch)
    timed = times[1:] if len(times) > 2 else times
    return (timed[-1] - timed[0]) / (len(timed) - 1)


def expected_seconds(model: GenerativeModel, variant: Any, count: int, batch_size: int) -> float:
    """Seconds that drawing `count` images is expected to take: network calls × batches × measured time of a call.

    Without the extractor's time, which is a small part where sampling takes many calls.
    """
    share = -(-count // processes.world())
    batches, rest = divmod(share, batch_size)
    batches += rest > 0
    return model.network_calls(variant) * batches * seconds_a_call(model, variant, min(batch_size, share))
