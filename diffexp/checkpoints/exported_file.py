"""Exported files: weights as safetensors, with config, step, kind and a digest of the tensors in their metadata."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffexp.errors import UserError, writing
from diffexp.system.files import atomic_write

EXPORTED = ".safetensors"
_FORMAT = "diffexp weights 1"


@dataclass(frozen=True)
class Exported:
    """What an exported file holds.

    Attributes:
        config: the text of the training's config.yaml.
        step: optimiser steps done.
        kind: of the weights, "raw" or "ema".
        weights: parameters and buffers by name.
    """

    config: str
    step: int
    kind: str
    weights: dict[str, Tensor]


def write_exported(exported: Exported, out: Path) -> None:
    """Write an exported file.

    Raises:
        UserError: if it cannot be written.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in exported.weights.items()}
    about = {
        "format": _FORMAT,
        "config": exported.config,
        "step": str(exported.step),
        "weights": exported.kind,
        "sha256": _digest(tensors),
    }
    with writing(f"out: {out}"), atomic_write(out) as file:
        file.write(save(tensors, about))


def read_exported(path: Path) -> Exported:
    """Read an exported file. Nothing in it is executed.

    Raises:
        UserError: if it is damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError("it was not written by `diffexp export`")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if _digest(tensors) != about["sha256"]:
            raise ValueError("its weights do not have the SHA-256 that it tells")
        return Exported(about["config"], int(about["step"]), about["weights"], tensors)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged or of another kind: {error}") from error


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
