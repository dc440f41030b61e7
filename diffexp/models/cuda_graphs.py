"""A network whose calls replay CUDA graphs."""

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
    """(x_t, t, …) → output by replaying a CUDA graph: one launch for all kernels of a network call.

    A small batch keeps a GPU waiting for the launches of single kernels. The first call with new shapes or another
    precision records; later ones replay. A replay reads the weights in place, so an update in place counts; once
    they have moved, all recordings are released. Calls on a CPU, and calls that need gradients, run the network
    itself; so do all calls after diffexp has failed to record one, which it warns about once.

    Args:
        network: (x_t (B, C, H, W), indices t (B,), maybe classes (B,)) → (B, C, H, W); it must not wait for the GPU.

    Attributes:
        replays: how many calls replayed a graph.
    """

    def __init__(self, network: nn.Module) -> None:
        self.replays = 0
        self._network = network
        self._weights = list(network.parameters())
        self._recordings: dict[Key, _Recording] = {}
        self._pool: Any = None  # of memory, which all recordings share: each output is copied before the next replay
        self._addresses: Key = ()
        self._failed = False

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """Apply the network to inputs without gradients."""
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
                log.warning("cuda_graphs: expected a network that can be recorded, got: %s. It runs as it is.", reason)
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
        """What a recording holds for: shapes and types of the inputs, precision, and the network's mode."""
        shapes = tuple((each.shape, each.dtype, each.device) for each in inputs)
        autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        return shapes, autocast, self._network.training

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        static = tuple(each.clone() for each in inputs)
        device = static[0].device
        # Autocast's cache would hand later calls tensors in the graph's memory.
        precision = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        with torch.cuda.device(device), precision:
            side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                self._network(*static)  # libraries choose their algorithms and get their workspaces first
                with _no_waiting():  # an error here is harmless; one while recording leaves torch's generator in it
                    self._network(*static)
            torch.cuda.current_stream(device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            # Other threads, such as one that pins batches, may use the GPU meanwhile. A recording that fails would
            # leave its stream as the current one.
            here = torch.cuda.stream(torch.cuda.current_stream(device))
            with here, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._network(*static)
        return _Recording(graph, static, output)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within this context an operation that waits for the GPU raises a RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
