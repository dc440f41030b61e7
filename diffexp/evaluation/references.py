"""References: features of real images, gathered once and kept on disk under everything that could change them.

The files are the .npz that others publish for FID (EDM, pytorch-fid, clean-fid): ``mu`` (d,) and ``sigma`` (d, d) in
float64. Ours hold more beside them: ``feats`` (float32, the bank), ``num_images``, ``nearest`` and ``meta`` (JSON).
"""

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffexp.config.data import DataConfig
from diffexp.config.evaluation import ReferenceConfig
from diffexp.data.images import ImageSet
from diffexp.errors import UserError
from diffexp.evaluation import processes
from diffexp.evaluation.extractors.base import Extractor, sha256
from diffexp.evaluation.frechet import FrechetReference
from diffexp.evaluation.gathering import Gathered, Gathering, Gaussian
from diffexp.evaluation.kernel import KernelReference
from diffexp.evaluation.neighbours import ManifoldReference, typical_nearest
from diffexp.files import whole_file, writable

VARIABLE = "DIFFEXP_CACHE"
_FORMAT = 1
_ENDS = 1_000  # images at either end whose pixels identify a set


@dataclass(frozen=True)
class Reference:
    """What scores compare with.

    Attributes:
        gaussian: mean and covariance.
        bank: float32 (m, d), features of single images; None if only statistics are known.
        nearest: mean distance from an image of the bank to the nearest other; None without a bank.
        identity: plain data that says what it is; part of every score's protocol.
        path: its file.
    """

    gaussian: Gaussian
    bank: Tensor | None
    nearest: float | None
    identity: dict[str, Any]
    path: Path | None = None

    @cached_property
    def frechet(self) -> FrechetReference:
        """Its side of the Fréchet distance."""
        return FrechetReference(self.gaussian)

    @cached_property
    def kernel(self) -> KernelReference | None:
        """Its side of the kernel distance."""
        return None if self.bank is None else KernelReference(self.bank)

    @cached_property
    def manifold(self) -> ManifoldReference | None:
        """Its side of precision and recall."""
        return None if self.bank is None else ManifoldReference(self.bank)


def gather(images: ImageSet, indices: Tensor, extractor: Extractor, batch_size: int, what: str) -> Gathered:
    """The features of the images at `indices` (int64), with a progress bar; several processes share the work."""
    gathering = Gathering(len(indices), extractor.dim, extractor.classes, extractor.device)
    mine = processes.share(len(indices))
    with tqdm(total=len(mine), desc=what, unit=" images", delay=2, leave=False, disable=processes.rank() > 0) as bar:
        for start in range(mine.start, mine.stop, batch_size):
            chosen = indices[start : min(start + batch_size, mine.stop)]
            gathering.add(extractor(images.fetch(chosen)), start)
            bar.update(len(chosen))
    return gathering.result()


def reference(
    data: DataConfig, images: ImageSet, wanted: ReferenceConfig, extractor: Extractor, batch_size: int
) -> Reference:
    """The reference of a dataset: from the file that is given, from the cache, or gathered now and put there.

    Several processes may do this at once, also independently: each file is moved into its place whole.

    Args:
        data: the dataset's config.
        images: the split of it that `wanted` names.
        wanted: which images; or a file of statistics.
        extractor: whose features.
        batch_size: images at once.

    Raises:
        UserError: if a file is damaged or made with something else, there are too few images, or the cache cannot be
            written.
    """
    if wanted.file is not None:
        return read_published(Path(wanted.file).expanduser(), extractor)
    count = check_count(wanted, images, extractor)
    extractor.check(images.image_shape)
    identity = {
        "format": _FORMAT,
        "dataset": data.name,
        "split": wanted.split,
        "count": count,
        "image_shape": list(images.image_shape),
        "pixels": fingerprint(images),
        "extractor": extractor.identity,
    }
    path = _cache(wanted) / f"{_file_name(identity)}.npz"
    if processes.anywhere(not path.is_file(), extractor.device):
        indices = torch.arange(count) * len(images) // count
        gathered = gather(images, indices, extractor, batch_size, f"reference {data.name}")
        if processes.rank() == 0:
            _write(path, gathered, identity)
        if processes.world() > 1:
            torch.distributed.barrier()
    return _read(path, identity, extractor.device)


def of_images(images: ImageSet, extractor: Extractor, batch_size: int, name: str) -> Reference:
    """A reference that is not kept: all images of a set."""
    gathered = gather(images, torch.arange(len(images)), extractor, batch_size, name)
    identity = {"dataset": name, "count": len(images), "image_shape": list(images.image_shape)}
    return Reference(
        gathered.gaussian, gathered.bank, typical_nearest(gathered.bank), {**identity, "pixels": fingerprint(images)}
    )


def read_published(path: Path, extractor: Extractor) -> Reference:
    """Statistics that somebody published: a .npz with mu and sigma. The user must know that they fit the extractor.

    Raises:
        UserError: if it holds no such arrays, or they are not of the extractor's dimension.
    """
    if not path.is_file():
        raise UserError(f"reference.file: there is no file {path}")
    arrays = _arrays(path, "reference.file")
    if "mu" not in arrays or "sigma" not in arrays:
        raise UserError(f"reference.file: {path} holds {', '.join(arrays) or 'nothing'}, but no mu and sigma")
    mean, cov = torch.from_numpy(arrays["mu"]).double(), torch.from_numpy(arrays["sigma"]).double()
    if mean.shape != (extractor.dim,) or cov.shape != (extractor.dim, extractor.dim):
        raise UserError(
            f"reference.file: {path}: mu is {tuple(mean.shape)} and sigma {tuple(cov.shape)}, but {extractor.name} has "
            f"{extractor.dim} features"
        )
    if not mean.isfinite().all() or not cov.isfinite().all():
        raise UserError(f"reference.file: {path} holds numbers that are not finite")
    if "meta" in arrays and (made := json.loads(str(arrays["meta"])).get("extractor")) != extractor.identity:
        raise UserError(f"reference.file: {path} was made with another extractor: {made}")
    count = int(arrays["num_images"]) if "num_images" in arrays else None
    gaussian = Gaussian(mean.to(extractor.device), cov.to(extractor.device), count)
    return Reference(gaussian, None, None, {"file_sha256": sha256(path), "count": count}, path)


def check_reference(wanted: ReferenceConfig, extractor: Extractor) -> None:
    """See that a reference can be read or kept, long before it is needed.

    Raises:
        UserError: if its file is damaged, or the cache cannot be written.
    """
    if wanted.file is not None:
        read_published(Path(wanted.file).expanduser(), extractor)
    else:
        writable(_cache(wanted), "reference.cache")


def check_count(wanted: ReferenceConfig, images: ImageSet, extractor: Extractor) -> int:
    """How many images the reference has.

    Raises:
        UserError: if there are fewer than the config says, or than the extractor has features.
    """
    count = wanted.count if wanted.count is not None else len(images)
    if count > len(images):
        raise UserError(f"reference.count: {count}, but the {wanted.split} split has {len(images)} images")
    if count < extractor.dim:
        raise UserError(
            f"reference: {count} images are too few for the {extractor.dim} features of {extractor.name}: their "
            "covariance would be singular; take at least as many, or an extractor with fewer features"
        )
    return count


def fingerprint(images: ImageSet) -> str:
    """A digest of the number of images and of the pixels of the first and the last thousand."""
    ends = sorted({*range(min(_ENDS, len(images))), *range(max(0, len(images) - _ENDS), len(images))})
    pixels = images.fetch(torch.tensor(ends)).contiguous().numpy()
    return hashlib.sha256(repr((len(images), pixels.shape)).encode() + pixels.tobytes()).hexdigest()


# --- files -----------------------------------------------------------------------------------------


def _cache(wanted: ReferenceConfig) -> Path:
    folder = wanted.cache or os.environ.get(VARIABLE) or "~/.cache/diffexp"
    return Path(folder).expanduser() / "references"


def _file_name(identity: dict[str, Any]) -> str:
    """Readable in front, and behind it a digest of the whole identity: another identity is another file."""
    channels, height, width = identity["image_shape"]
    readable = (identity["dataset"], identity["split"], f"{height}x{width}x{channels}", identity["count"])
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return "-".join(str(part) for part in (*readable, identity["extractor"]["name"], digest[:16]))


def _write(path: Path, gathered: Gathered, identity: dict[str, Any]) -> None:
    try:
        with whole_file(path) as file:
            np.savez(
                file,
                mu=gathered.gaussian.mean.cpu().numpy(),
                sigma=gathered.gaussian.cov.cpu().numpy(),
                feats=gathered.bank.cpu().numpy(),
                num_images=np.int64(identity["count"]),
                nearest=np.float64(typical_nearest(gathered.bank)),
                meta=np.array(json.dumps(identity)),
            )
    except OSError as error:
        raise UserError(
            f"reference.cache: {path.parent} cannot be written ({error.strerror}); name another folder by "
            f"reference.cache=… or ${VARIABLE}"
        ) from error


def _read(path: Path, identity: dict[str, Any], device: torch.device) -> Reference:
    arrays = _arrays(path, "reference.cache")
    try:
        found = json.loads(str(arrays["meta"]))
        different = [key for key in identity if found.get(key) != identity[key]]
        if different:
            raise UserError(f"{path}: has another {different[0]} than its name says; remove it, it will be made again")
        gaussian = Gaussian(
            torch.from_numpy(arrays["mu"]).to(device), torch.from_numpy(arrays["sigma"]).to(device), identity["count"]
        )
        bank = torch.from_numpy(arrays["feats"]).to(device)
        return Reference(gaussian, bank, float(arrays["nearest"]), identity, path)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: is damaged; remove it, it will be made again") from error


def _arrays(path: Path, key: str) -> dict[str, Any]:
    """What a .npz holds. Nothing in it is executed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UserError(f"{key}: {path} is damaged or no .npz of arrays: {error}") from error
