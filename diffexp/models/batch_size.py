"""The largest sampling batch that fits into a memory budget."""

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel

_FEW, _MORE = 1, 5  # batch sizes whose memory is measured
_WORKSPACE = 1.2  # factor for workspaces of kernels and fragmentation on a CPU; the largest seen was 1.07


def images_at_once(model: GenerativeModel, sampler: Any, limit: int, memory_gb: float) -> int:
    """Find the largest batch, at most `limit`, whose sampling fits into a memory budget, not counting the model itself.

    The memory of two small batches, each with two network calls, is extrapolated linearly in the number of images.

    Args:
        model: the model, on its device.
        sampler: config of the sampler, see `GenerativeModel.sample`.
        limit: largest batch size.
        memory_gb: the budget, in GiB.

    Raises:
        UserError: if one image exceeds the budget.
    """

    def peak(count: int) -> int:
        return peak_bytes(lambda: _two_calls(model, sampler, count), model.device)

    first = peak(_FEW)  # includes one-time allocations, such as weights in another precision
    few, more = peak(_FEW), peak(_MORE)
    an_image = max((more - few) / (_MORE - _FEW), 1)
    fixed = max(first, few) - _FEW * an_image
    fitting = int((memory_gb * 2**30 - fixed) / an_image)
    if fitting < 1:
        needed = (fixed + an_image) / 2**30
        raise UserError(f"memory_gb: expected at least {needed:.2g} GiB for one image, got {memory_gb:g}. Raise it.")
    count = min(limit, fitting)
    if model.device.type == "cuda":  # CUDA libraries choose other algorithms, with other workspaces, for larger batches
        while count > 1 and (taken := peak(count)) > memory_gb * 2**30:
            count = max(1, min(count - 1, int(0.95 * count * memory_gb * 2**30 / taken)))
    return count


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Measure the peak bytes of the tensors that a call allocates; on a GPU, including the workspaces of kernels."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with _Counting() as counting:
        function()
    return int(_WORKSPACE * counting.peak)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is not annotated
    """Tracks the total storage of all tensors that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._live: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self._see(each.untyped_storage(), known)
        return out

    def _see(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._live or key in known:  # already counted, or a view of an input
            return
        self._live.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._live.discard(key)
        self._now -= size


class _TwoCallsDoneError(Exception):
    """Ends a measured sampling after two network calls."""


def _two_calls(model: GenerativeModel, sampler: Any, count: int) -> None:
    calls = 0

    def watch() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise _TwoCallsDoneError

    with suppress(_TwoCallsDoneError):
        model.sample(sampler, range(count), 0, watch)
