"""Write and read the losses on held-out images that a training measures, one file for each step.

A file is a .npz with the arrays `levels` (L,), `indices` (N,) and `train_indices` (M,), and for each set of losses,
"ema", "raw" and "train", `bits_SET` (N,) and `errors_SET` (N, L), all float32. `meta` is JSON: the step, the protocol
and the weights.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffexp.errors import UserError
from diffexp.runs.records import read_record
from diffexp.system.files import atomic_write
from diffexp.system.notices import warn_once

if TYPE_CHECKING:
    from numpy.typing import NDArray

Losses = Mapping[str, "NDArray[Any]"]
# Errors of a .npz with changed bytes.
_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class MeanOverImages:
    """A mean over images.

    Attributes:
        value: the mean.
        error: its standard error; NaN for a single image.
    """

    value: float
    error: float

    @property
    def z(self) -> float:
        """The mean in units of its standard error."""
        if self.error == 0:
            return math.copysign(math.inf, self.value) if self.value else 0.0
        return self.value / self.error


@dataclass(frozen=True, eq=False)
class RecordedValidation:
    """The losses of one step; lower is better.

    Attributes:
        step: the training step.
        protocol: an id of the images and the noise. Losses with the same id can be compared image by image.
        bits_per_dim: bits per dimension of each image, float32 (N,), by set: "ema" and "raw", the averaged and the raw
            weights on held-out images ("ema" only with an average), and "train", the first of these weights on training
            images.
        errors: the denoising error by image and level, float32 (N, L), by the same sets; {} for models without levels.
        levels: the levels of log SNR, float32 (L,).
        indices: the images' numbers in their split, int64 (N,).
        train_indices: the numbers of the training images.
        details: the protocol as plain data.
    """

    step: int
    protocol: str
    bits_per_dim: Losses
    errors: Losses
    levels: "NDArray[Any]"
    indices: "NDArray[Any]"
    train_indices: "NDArray[Any]"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> Literal["ema", "raw"]:
        """The weights that count: the averaged ones, if there are any."""
        return "ema" if "ema" in self.bits_per_dim else "raw"

    def mean(self, name: str | None = None) -> MeanOverImages:
        """Return the mean bits per dimension of a set; None is `weights`."""
        return mean_over_images(self.bits_per_dim[name or self.weights])

    def since(self, before: "RecordedValidation") -> MeanOverImages:
        """Return the paired mean difference of the losses on held-out images from those of another validation.

        Raises:
            ValueError: if the protocols differ, so that images cannot be paired.
        """
        if self.protocol != before.protocol:
            raise ValueError(f"expected the protocol {self.protocol}, got {before.protocol}.")
        return mean_over_images(self.bits_per_dim[self.weights] - before.bits_per_dim[before.weights])


def mean_over_images(values: "NDArray[Any]") -> MeanOverImages:
    """Return the mean of values (N,) with its standard error, computed in float64."""
    values = values.astype("float64")
    count = len(values)
    return MeanOverImages(float(values.mean()), float(values.std(ddof=1)) / count**0.5 if count > 1 else math.nan)


def validation_file(folder: Path, step: int) -> Path:
    """Return the file of a step in a run's folder of validations."""
    return folder / f"step-{step:08d}.npz"


def write_validation(found: RecordedValidation, path: Path) -> None:
    """Write a file atomically; equal losses give equal bytes.

    Raises:
        OSError: if it cannot be written.
    """
    import numpy as np

    arrays: dict[str, Any] = {"levels": found.levels, "indices": found.indices, "train_indices": found.train_indices}
    arrays |= {f"bits_{name}": values for name, values in found.bits_per_dim.items()}
    arrays |= {f"errors_{name}": values for name, values in found.errors.items()}
    about = {"step": found.step, "protocol": found.protocol, "weights": found.weights, "details": found.details}
    with atomic_write(path) as file:
        np.savez(file, **arrays, meta=np.array(json.dumps(about)))


def read_validation(path: Path) -> RecordedValidation:
    """Read a file.

    Raises:
        UserError: if it is missing or damaged.
        EnvironmentFailure: if the disk is failing.
    """
    import io

    import numpy as np

    content = read_record(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about = json.loads(str(arrays["meta"]))
            sets: dict[str, dict[str, NDArray[Any]]] = {"bits": {}, "errors": {}}
            for name in arrays.files:
                kind, _, rest = name.partition("_")
                if kind in sets:
                    sets[kind][rest] = arrays[name]
            found = RecordedValidation(
                int(about["step"]),
                str(about["protocol"]),
                sets["bits"],
                sets["errors"],
                arrays["levels"],
                arrays["indices"],
                arrays["train_indices"],
                dict(about["details"]),
            )
        if {found.weights, "train"} - found.bits_per_dim.keys():
            raise ValueError("losses are missing")
        for name, bits in found.bits_per_dim.items():
            numbers = found.train_indices if name == "train" else found.indices
            errors = found.errors.get(name)
            if bits.dtype.kind != "f" or bits.shape != numbers.shape or not len(bits):
                raise ValueError(f"bits_{name} has the shape {bits.shape}")
            if errors is not None and (errors.dtype.kind != "f" or errors.shape != (*bits.shape, *found.levels.shape)):
                raise ValueError(f"errors_{name} has the shape {errors.shape}")
    except (*_DAMAGE, ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise UserError(f"{path}: expected losses of a validation, got a damaged file ({error}). Remove it.") from error
    return found


def read_validations(folder: Path) -> list[RecordedValidation]:
    """Return the validations in a run's folder, sorted by step. diffexp warns of damaged files and skips them."""
    found = []
    for path in sorted(folder.glob("step-*.npz")):
        try:
            found.append(read_validation(path))
        except UserError as error:
            warn_once(str(error))
    return sorted(found, key=lambda each: each.step)
