"""References: features of real images, extracted once and cached on disk under a digest of all that affects them.

The files have the .npz format in which others publish FID statistics (EDM, pytorch-fid, clean-fid): ``mu`` (d,) and
``sigma`` (d, d) in float64. diffexp adds ``feats`` (float32, the features), ``num_images``, ``typical`` and ``meta``
(JSON).
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.scoring import ReferenceConfig
from diffexp.data.arrays import read_arrays
from diffexp.data.images import ImageSet
from diffexp.errors import UserError, file_error
from diffexp.evaluation.extractors.base import Extractor, check_count
from diffexp.evaluation.feature_statistics import FeatureStatistics, FeatureSummary, Gaussian
from diffexp.evaluation.nearest_neighbors import distances_to, has_copies, typical_distances
from diffexp.system import distributed
from diffexp.system.files import CACHE_VARIABLE, atomic_write, cache_folder, check_writable, sha256
from diffexp.system.terminal import progress_bar

_FORMAT = 2


@dataclass(frozen=True)
class Reference:
    """The real images that scores compare with.

    Attributes:
        gaussian: mean and covariance of their features.
        features: float32 (m, d), features of individual images; None if only statistics are known.
        typical: distances of some features to the nearest of another image; None unless the images are the full
            training set, with different images.
        identity: plain data that identifies the reference; part of every score's protocol.
        name: the display name of the dataset, folder or file.
        path: the reference's file.
    """

    gaussian: Gaussian
    features: Tensor | None
    typical: Tensor | None
    identity: dict[str, Any]
    name: str
    path: Path | None = None

    def distances_to(self, features: Tensor) -> Tensor:
        """Return the distances (float64) of 1,000 of the features (n, d) to their nearest in the reference."""
        assert self.features is not None
        return distances_to(self.features, features)

    def __str__(self) -> str:
        if "file_sha256" in self.identity:
            return f"the statistics in {self.name}"
        split = f"the {self.identity['split']} split of " if "split" in self.identity else ""
        return f"{self.gaussian.count} images of {split}{self.name}"


def gather(images: ImageSet, indices: Tensor, extractor: Extractor, batch_size: int, what: str) -> FeatureSummary:
    """Summarise the features of the images at `indices` (int64); several processes share the work.

    Args:
        images: the set of images.
        indices: the images to use.
        extractor: the feature extractor.
        batch_size: images per batch.
        what: the name of the set, for the progress bar.
    """
    statistics = FeatureStatistics(extractor.dim, len(indices)).to(extractor.device)
    for first, batch in batches(images, indices, batch_size, what):
        statistics.update(extractor(batch).values, first)
    found = statistics.compute()
    assert isinstance(found, FeatureSummary)
    return found


def batches(images: ImageSet, indices: Tensor, batch_size: int, what: str) -> Iterator[tuple[int, Tensor]]:
    """Yield this process's share of the images at `indices`, with a progress bar.

    Yields:
        (position in `indices` of the first image, uint8 images (B, C, H, W)).
    """
    mine = distributed.share(len(indices))
    with progress_bar(what, len(mine), "image", leave=False, delay=2, disable=distributed.rank() > 0) as bar:
        for start in range(mine.start, mine.stop, batch_size):
            chosen = indices[start : min(start + batch_size, mine.stop)]
            yield start, images.fetch(chosen)
            bar.update(len(chosen))


def reference(
    data: DataConfig, images: Callable[[], ImageSet], wanted: ReferenceConfig, extractor: Extractor, batch_size: int
) -> Reference:
    """Load the reference of a dataset from the file in `wanted` or the cache, or compute and cache it.

    Several processes may do this concurrently, even independently, because files are written atomically.

    Args:
        data: the dataset's config.
        images: loads the split that `wanted` names; not called if it names a file.
        wanted: the images to use, or a file of statistics.
        extractor: the feature extractor.
        batch_size: images per batch.

    Raises:
        UserError: if a file is damaged or does not match, there are too few images, or the cache cannot be written.
    """
    if wanted.file is not None:
        return read_published(Path(wanted.file).expanduser(), extractor)
    chosen = images()
    count = check_reference_count(wanted, chosen, extractor)
    extractor.check(chosen.image_shape)
    identity = {
        "format": _FORMAT,
        "dataset": data.name,
        "split": wanted.split,
        "count": count,
        "image_shape": list(chosen.image_shape),
        "pixels": chosen.fingerprint(),
        "extractor": extractor.identity,
    }
    path = _cache(wanted) / f"{_file_name(identity)}.npz"
    if not distributed.anywhere(not path.is_file(), extractor.device):
        return _read(path, identity, extractor.device)
    indices = torch.arange(count) * len(chosen) // count
    summary = gather(chosen, indices, extractor, batch_size, f"reference {data.name}")
    # copies can be detected only against the complete training set
    typical = typical_distances(summary.features) if wanted.split == "train" and count == len(chosen) else None
    made = Reference(summary.gaussian, summary.features, typical, identity, data.name, path)
    problem = None
    if distributed.rank() == 0:
        try:
            _write(made)
        except UserError as error:  # raised below, after the broadcast: the other ranks would wait indefinitely
            problem = error
    if distributed.anywhere(problem is not None, extractor.device):
        raise problem or UserError("reference.cache: another process could not write the reference.")
    return made


def of_images(images: ImageSet, extractor: Extractor, batch_size: int, name: str) -> Reference:
    """Compute the reference of all images of a set, without caching it."""
    summary = gather(images, torch.arange(len(images)), extractor, batch_size, name)
    identity = {"count": len(images), "image_shape": list(images.image_shape), "pixels": images.fingerprint()}
    return Reference(summary.gaussian, summary.features, None, identity, name)


def read_published(path: Path, extractor: Extractor) -> Reference:
    """Read published statistics: a .npz with mu and sigma. The user must make sure that they match the extractor.

    Raises:
        UserError: if the file has no such arrays, their shape does not match the extractor, their values are invalid,
            or its metadata names another extractor.
    """
    if not path.is_file():
        raise UserError(f"reference.file: there is no file {path}.")
    arrays = read_arrays(path, key="reference.file")
    if "mu" not in arrays or "sigma" not in arrays:
        raise UserError(f"reference.file: {path}: expected mu and sigma, got {', '.join(arrays) or 'no arrays'}.")
    try:
        mean, cov = (torch.from_numpy(np.asarray(arrays[name], dtype=np.float64)) for name in ("mu", "sigma"))
        count = int(arrays["num_images"]) if "num_images" in arrays else None
        made_with = dict(json.loads(str(arrays["meta"])))["extractor"] if "meta" in arrays else None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"reference.file: {path} is damaged: {error}") from error
    if mean.shape != (extractor.dim,) or cov.shape != (extractor.dim, extractor.dim):
        raise UserError(
            f"reference.file: {path}: expected statistics of the {extractor.dim} features of {extractor.name}, "
            f"got mu {tuple(mean.shape)} and sigma {tuple(cov.shape)}."
        )
    if not mean.isfinite().all() or not cov.isfinite().all() or (count is not None and count < 2):
        raise UserError(
            f"reference.file: {path}: expected finite numbers of at least two images, got NaN, infinities or fewer."
        )
    spectrum = torch.linalg.eigvalsh(cov)
    if not torch.allclose(cov, cov.T, rtol=1e-6) or spectrum[0] < -1e-6 * spectrum[-1].abs():
        raise UserError(
            f"reference.file: {path}: sigma: expected a covariance, got an asymmetric matrix or negative eigenvalues."
        )
    if made_with is not None and made_with != extractor.identity:
        raise UserError(
            f"reference.file: {path}: expected statistics of {extractor.name}, got those of another extractor: "
            f"{made_with}"
        )
    gaussian = Gaussian(mean.to(extractor.device), cov.to(extractor.device), count)
    return Reference(gaussian, None, None, {"file_sha256": sha256(path), "count": count}, path.name, path)


def check_reference(wanted: ReferenceConfig, images: Callable[[], ImageSet], extractor: Extractor) -> None:
    """Check, long before `reference` needs it, that a reference can be read, or computed and cached.

    Raises:
        UserError: if its file is damaged, there are too few images, or the cache cannot be written.
    """
    if wanted.file is not None:
        read_published(Path(wanted.file).expanduser(), extractor)
    else:
        check_writable(_cache(wanted), "reference.cache")
        check_reference_count(wanted, images(), extractor)


def check_reference_count(wanted: ReferenceConfig, images: ImageSet, extractor: Extractor) -> int:
    """Return the number of images in the reference.

    Raises:
        UserError: if there are fewer images than the config requests, or than the extractor has features.
    """
    count = wanted.count if wanted.count is not None else len(images)
    if count > len(images):
        raise UserError(
            f"reference.count: expected at most {len(images)}, the images of the {wanted.split} split, got {count}."
        )
    check_count(count, extractor, "reference.count")
    return count


# --- files -----------------------------------------------------------------------------------------


def _cache(wanted: ReferenceConfig) -> Path:
    folder = cache_folder() if wanted.cache is None else Path(wanted.cache).expanduser()
    return folder / "references"


def _file_name(identity: dict[str, Any]) -> str:
    """Return a file name with a readable prefix and a digest of the complete identity, which it is unique to."""
    channels, height, width = identity["image_shape"]
    readable = (identity["dataset"], identity["split"], f"{height}x{width}x{channels}", identity["count"])
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return "-".join(str(part) for part in (*readable, identity["extractor"]["name"], digest[:16]))


def _write(made: Reference) -> None:
    assert made.path is not None
    assert made.features is not None
    more: dict[str, Any] = {} if made.typical is None else {"typical": made.typical.cpu().numpy()}
    try:
        with atomic_write(made.path) as file:
            np.savez(
                file,
                mu=made.gaussian.mean.cpu().numpy(),
                sigma=made.gaussian.cov.cpu().numpy(),
                feats=made.features.cpu().numpy(),
                num_images=np.int64(made.identity["count"]),
                meta=np.array(json.dumps(made.identity)),
                **more,
            )
    except OSError as error:
        raise file_error(
            error,
            f"reference.cache: {made.path.parent} cannot be written: {error.strerror}. Choose another folder with "
            f"reference.cache=… or ${CACHE_VARIABLE}.",
        ) from error


def _read(path: Path, identity: dict[str, Any], device: torch.device) -> Reference:
    arrays = read_arrays(path, key="reference.cache", remedy="Remove it; diffexp recomputes it.")
    try:
        found = json.loads(str(arrays["meta"]))
        different = [key for key in identity if found.get(key) != identity[key]]
        if different:
            raise UserError(
                f"reference.cache: {path}: its {different[0]} contradicts its name. Remove it; diffexp recomputes it."
            )
        gaussian = Gaussian(
            torch.from_numpy(arrays["mu"]).to(device), torch.from_numpy(arrays["sigma"]).to(device), identity["count"]
        )
        features = torch.from_numpy(arrays["feats"]).to(device)
        typical = torch.from_numpy(arrays["typical"]).to(device) if "typical" in arrays else None
        if typical is not None and has_copies(typical, features):
            typical = typical_distances(features)
        return Reference(gaussian, features, typical, identity, identity["dataset"], path)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"reference.cache: {path} is damaged. Remove it; diffexp recomputes it.") from error
