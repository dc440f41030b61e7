"""Scores of samples of a generative model, and what drawing them costs."""

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
    """Scores of samples, and their cost: network calls for each image, and seconds to draw and score all of them."""

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
    """Draw images and score them, without keeping them. Several processes share the images.

    Args:
        model: on its device, with the weights to score.
        sampler: how to sample, see `GenerativeModel.sample`.
        metrics: what to score them by, on the same device; reset first.
        indices: which images, contiguous; image i depends on (seed, i). Exactly these are drawn.
        seed: of the images.
        batch_size: images at once in each process.
        on_call: called after every network call; may raise to stop, if there is one process.

    Raises:
        UserError: in every process, if the model of any makes NaN.
    """
    metrics.reset()
    mine = distributed.share(len(indices))
    start = time.perf_counter()
    problem: Exception | None = None
    try:
        for first in range(mine.start, mine.stop, batch_size):
            chosen = indices[first : min(first + batch_size, mine.stop)]
            metrics.update(as_pixels(model.sample(sampler, chosen, seed, on_call)), first)
    except (UserError, torch.OutOfMemoryError) as error:  # raised below, once the other processes know of it
        problem = error
    if distributed.anywhere(problem is not None, metrics.extractor.device):
        raise problem or UserError("another process could not score its images")
    seconds = time.perf_counter() - start
    return SampleScores(Scores(len(indices), metrics.compute()), model.network_calls(sampler), seconds)


class _EnoughError(Exception):
    """The probe has seen what it wanted."""


def seconds_a_call(model: GenerativeModel, sampler: Any, batch_size: int) -> float:
    """Seconds that one network call takes on a batch here, from the first few; the very first is not counted."""
    times = [time.perf_counter()]

    def watch() -> None:
        if model.device.type == "cuda":  # it has only been told what to compute
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter())
        if len(times) > _PROBED + 1:
            raise _EnoughError

    with suppress(_EnoughError):
        model.sample(sampler, range(batch_size), 0, watch)
    timed = times[1:] if len(times) > 2 else times
    return (timed[-1] - timed[0]) / (len(timed) - 1)


def expected_seconds(model: GenerativeModel, sampler: Any, count: int, batch_size: int) -> float:
    """Seconds that drawing `count` images is expected to take: network calls × batches × measured time of a call.

    Without the extractor's time, which is a small part where sampling takes many calls.
    """
    share = -(-count // distributed.world())
    batches, rest = divmod(share, batch_size)
    batches += rest > 0
    return model.network_calls(sampler) * batches * seconds_a_call(model, sampler, min(batch_size, share))
