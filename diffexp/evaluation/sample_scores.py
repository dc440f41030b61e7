"""Scores of a generative model's samples, and the cost of drawing them."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from diffexp.errors import UserError
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.scores import Scores
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.system import distributed

_PROBED = 3  # network calls that are timed


@dataclass(frozen=True)
class SampleScores:
    """Scores of samples, and their cost: network calls per image, and seconds to draw and score all images."""

    scores: Scores
    network_calls: int
    seconds: float


def score_samples(
    model: GenerativeModel,
    sampler: Any,
    metrics: MetricSet,
    indices: range,
    seed: int,
    batch_size: int,
    on_call: Callable[[], object] | None = None,
) -> SampleScores:
    """Draw and score images without storing them. Several processes share the images.

    Args:
        model: the model with the weights to score, on its device.
        sampler: a sampler of `GenerativeModel.sample`.
        metrics: the metrics, on the same device; reset first.
        indices: contiguous indices of the images, exactly those drawn; image i depends on (seed, i).
        seed: the seed of the images.
        batch_size: images per batch in each process.
        on_call: called after every network call; in a single process it may raise to stop.

    Raises:
        UserError: in every process, if any process's model produces NaN.
    """
    metrics.reset()
    mine = distributed.share(len(indices))
    start = time.perf_counter()
    problem: Exception | None = None
    try:
        for first in range(mine.start, mine.stop, batch_size):
            chosen = indices[first : min(first + batch_size, mine.stop)]
            metrics.update(as_pixels(model.sample(sampler, chosen, seed, on_call)), first)
    except (UserError, torch.OutOfMemoryError) as error:  # raised below, after the broadcast to the other processes
        problem = error
    if distributed.anywhere(problem is not None, metrics.extractor.device):
        raise problem or UserError("another process could not score its images.")
    seconds = time.perf_counter() - start
    return SampleScores(Scores(len(indices), metrics.compute()), model.network_calls(sampler), seconds)


class _EndOfProbeError(Exception):
    """Raised in `seconds_a_call` to end the sampling after the timed calls."""


def seconds_a_call(model: GenerativeModel, sampler: Any, batch_size: int) -> float:
    """Measure the seconds of one network call on a batch from the first few calls, except the very first."""
    times = [time.perf_counter()]

    def watch() -> None:
        if model.device.type == "cuda":  # the call has only been queued
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter())
        if len(times) > _PROBED + 1:
            raise _EndOfProbeError

    with suppress(_EndOfProbeError):
        model.sample(sampler, range(batch_size), 0, watch)
    timed = times[1:] if len(times) > 2 else times
    return (timed[-1] - timed[0]) / (len(timed) - 1)


def expected_seconds(model: GenerativeModel, sampler: Any, count: int, batch_size: int) -> float:
    """Estimate the seconds to draw `count` images: network calls × batches × measured time of a call.

    The estimate excludes the extractor's time, a small part if sampling takes many calls.
    """
    share = -(-count // distributed.world())
    batches, rest = divmod(share, batch_size)
    batches += rest > 0
    return model.network_calls(sampler) * batches * seconds_a_call(model, sampler, min(batch_size, share))
