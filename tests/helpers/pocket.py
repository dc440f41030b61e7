"""A simulated accelerator, "pocket", without float64, as Apple's MPS: its tensors compute on the CPU in disguise.

A tensor of another device in the same operation, or a float64 tensor on the device, is an error.
"""

import os
import subprocess
import sys
import traceback

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from diffexp.system import devices

TYPE = "pocket"


class PocketTensor(torch.Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, held, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{TYPE}:0",
            requires_grad=requires_grad,
        )

    def __init__(self, held, requires_grad=False):
        if held.dtype in (torch.float64, torch.complex128):
            raise TypeError("the device has no float64")
        self.held = held

    def __repr__(self):
        return f"PocketTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


# What moves tensors between devices.
_COPIES = {"_to_copy", "copy_", "_copy_from", "lift_fresh"}


def _run(function, args, kwargs):
    leaves = pytree.tree_leaves((args, kwargs))
    ours = [each for each in leaves if isinstance(each, PocketTensor)]
    name = function.name().split("::")[1].split(".")[0]
    if ours and name not in _COPIES:
        others = [each for each in leaves if isinstance(each, torch.Tensor) and not isinstance(each, PocketTensor)]
        assert all(each.ndim == 0 for each in others), f"{name}: tensors on two devices"
    wanted = kwargs.get("device")
    here = torch.device(wanted).type == TYPE if wanted is not None else bool(ours)
    args, kwargs = pytree.tree_map(_unwrapped, (args, kwargs))
    known = {id(each.held): each for each in ours}
    return pytree.tree_map(lambda each: _wrapped(each, known, here), function(*args, **kwargs))


def _unwrapped(value):
    if isinstance(value, PocketTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == TYPE else value


def _wrapped(value, known, here):
    if not isinstance(value, torch.Tensor) or isinstance(value, PocketTensor):
        return value
    if id(value) in known:
        return known[id(value)]
    return PocketTensor(value) if here else value


def on_pocket(check):
    """Run check(device) in a forked process, because a device cannot be unregistered; fail if it fails."""
    child = os.fork()
    if child == 0:
        try:
            check(register())
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def on_pocket_from_the_start(check):
    """Run the module's function check(device) in a new process, as what computes gradients notes devices only once."""
    code = f"from tests.helpers.pocket import register; from {check.__module__} import {check.__name__} as check"
    done = subprocess.run([sys.executable, "-c", f"{code}; check(register())"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def register():
    """Make the device known to torch and to diffexp; return it."""
    _setup_privateuseone_for_python_backend(TYPE)
    getattr(torch, TYPE).get_amp_supported_dtype = lambda: [torch.bfloat16]
    _LIBRARY.fallback(lambda function, *args, **kwargs: _run(function, args, kwargs), "PrivateUse1")
    made = torch.tensor  # which makes no tensor of a device in Python
    torch.tensor = lambda data, device=None, **more: made(data, **more).to(device or "cpu")
    devices.WITHOUT_FLOAT64.add(TYPE)
    return torch.device(TYPE, 0)


_LIBRARY = torch.library.Library("_", "IMPL")
