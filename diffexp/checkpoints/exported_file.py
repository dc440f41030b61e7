"""Exported files: weights as safetensors, with config, step, kind and a digest of the tensors as metadata."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffexp.errors import UserError, writing
from diffexp.system.files import atomic_write
from diffexp.system.reading import require_regular

_FORMAT = "diffexp weights 1"


@dataclass(frozen=True)
class Exported:
    """The content of an exported file.

    Attributes:
        config: text of the training's config.yaml.
        step: number of optimiser steps of the training.
        kind: kind of the weights, "raw" or "ema".
        weights: parameters and buffers by name.
        class_names: names of the classes of the training images; None if there are none, or they are unknown.
    """

    config: str
    step: int
    kind: str
    weights: dict[str, Tensor]
    class_names: list[str] | None = None


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
    if exported.class_names is not None:
        about["class_names"] = json.dumps(exported.class_names)
    with writing(f"out: {out}"), atomic_write(out) as file:
        file.write(save(tensors, about))


def read_exported(path: Path) -> Exported:
    """Read an exported file. Nothing in it is executed.

    Raises:
        UserError: if it is damaged or not an exported file.
    """
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError(f"its format is {about.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        if _digest(tensors) != about["sha256"]:
            raise ValueError("its weights do not match its SHA-256")
        if about["weights"] not in ("raw", "ema"):
            raise ValueError(f"its weights are {about['weights']!r}, not raw or ema")
        if not re.fullmatch(r"\d{1,18}", about["step"]):
            raise ValueError(f"its step is {about['step']!r}")
        names = [str(name) for name in json.loads(about["class_names"])] if "class_names" in about else None
        return Exported(about["config"], int(about["step"]), about["weights"], tensors, names)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged or not a file of `diffexp export` ({error}).") from error


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
