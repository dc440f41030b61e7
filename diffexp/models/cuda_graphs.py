"""CUDA graphs for the calls of a network."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Key = tuple[object, ...]


@dataclass(frozen=True)
class _Recording:
    """A recorded call: copy the inputs in, replay, read the output."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class CUDAGraphs:
    """A network that replays a CUDA graph: one launch for all kernels of a call.

    With a small batch, a GPU otherwise waits for the launches of single kernels.

    - The first call with new shapes or another precision records a graph; later calls replay it.
    - A replay reads the weights in place and so sees in-place updates. If the weights move, all recordings are
      released.
    - Calls on a CPU, and calls that need gradients, run the network eagerly.
    - If recording fails, diffexp warns once, and all later calls run eagerly.

    Args:
        network: (x_t (B, C, H, W), indices t (B,), optionally classes (B,)) → (B, C, H, W). It must not synchronise
            with the GPU.

    Attributes:
        replays: number of calls that replayed a graph.
    """

    def __init__(self, network: nn.Module) -> None:
        self.replays = 0
        self._network = network
        self._weights = list(network.parameters())
        self._recordings: dict[Key, _Recording] = {}
        self._pool: Any = None  # memory shared by all recordings: each output is copied before the next replay
        self._addresses: Key = ()
        self._failed = False

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """Apply the network to x_t (B, C, H, W), t (B,) and optionally classes (B,)."""
        if not x.is_cuda or torch.is_grad_enabled() or self._failed:
            out: Tensor = self._network(x, *others)
            return out
        addresses = tuple(weight.data_ptr() for weight in self._weights)
        if addresses != self._addresses:
            self.release()
            self._addresses = addresses
        inputs = (x, *others)
        key = self._key(inputs)
        recording = self._recordings.get(key)
        if recording is None:
            try:
                recording = self._recordings[key] = self._record(inputs)
            except RuntimeError as error:
                self._failed = True
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                log.warning(
                    "cuda_graphs: expected a network that can be recorded, got: %s. It runs without CUDA graphs.",
                    reason,
                )
                return self(x, *others)
        for static, given in zip(recording.inputs, inputs, strict=True):
            static.copy_(given)
        recording.graph.replay()
        self.replays += 1
        return recording.output.clone()  # the next replay overwrites it

    def release(self) -> None:
        """Free the memory of all recordings."""
        self._recordings.clear()
        self._pool = None

    def _key(self, inputs: tuple[Tensor, ...]) -> Key:
        """Return the key of a recording: shapes, dtypes and devices of the inputs, precision, and training mode."""
        shapes = tuple((each.shape, each.dtype, each.device) for each in inputs)
        autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        return shapes, autocast, self._network.training

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        static = tuple(each.clone() for each in inputs)
        device = static[0].device
        # Autocast's cache would give later calls tensors in the graph's memory.
        precision = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        with torch.cuda.device(device), precision:
            side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                self._network(*static)  # warm-up: libraries choose algorithms and allocate workspaces
                with _no_waiting():  # fails safely; a failed recording leaves torch's generator in capture mode
                    self._network(*static)
            torch.cuda.current_stream(device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            # thread_local: other threads, such as the one that pins batches, may use the GPU during the recording.
            # The outer stream context restores the current stream if the recording fails.
            here = torch.cuda.stream(torch.cuda.current_stream(device))
            with here, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._network(*static)
        return _Recording(graph, static, output)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Make operations that synchronise with the GPU raise a RuntimeError within this context."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
