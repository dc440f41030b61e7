"""Estimates of the same quantity under several settings, with the errors of their differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from diffexp.statistics.influence import Array, Influence, covariances


@dataclass(frozen=True)
class Estimates:
    """The values of k settings and the errors of contrasts between them.

    Attributes:
        values: (k,).
        first: covariance of the values, (k, k).
        cross: covariance of their linear parts, (k, k); equal to `first` where the values are linear. See
            `diffexp.statistics.influence`.
        df: degrees of freedom of the covariance; infinite for many images.
        test: what a difference is tested against, for captions: "paired over 500 images".
        sd: of replicates, the standard deviation of one about its setting (and seed).
    """

    values: Array
    first: Array
    cross: Array
    df: float
    test: str
    sd: float | None = None

    def errors(self, contrasts: Array) -> Array:
        """Return the standard errors (p,) of contrasts (p, k) of the values."""
        first = np.einsum("pk,kl,pl->p", contrasts, self.first, contrasts)
        cross = np.einsum("pk,kl,pl->p", contrasts, self.cross, contrasts)
        found: Array = np.sqrt(np.maximum(first + np.maximum(cross, 0), 0) / 2)
        return found

    @classmethod
    def over_images(cls, values: Array, influences: Sequence[Sequence[Influence]], images: int) -> Self:
        """Return estimates whose error is that of a limited number of images.

        Args:
            values: (k,), or their means over several blocks of images.
            influences: for each block, those of the k settings from the same seeds.
            images: the number of images of each setting in all blocks, for captions.
        """
        found = [covariances(list(block)) for block in influences]
        first, cross = (np.mean([each[part] for each in found], axis=0) / len(found) for part in (0, 1))
        df = float(len(found) * (len(influences[0][0].values) - 1))
        return cls(values, first, cross, df, f"paired over {images:,} images")

    @classmethod
    def unpaired(cls, values: Array, errors: Array) -> Self:
        """Return independent estimates with known standard errors, (k,) each."""
        cov = np.diag(errors**2)
        return cls(values, cov, cov, np.inf, "unpaired, by standard errors")


def over_replicates(values: Sequence[Mapping[Any, float]], what: str = "seeds") -> Estimates | None:
    """Return estimates from replicates: trainings with several seeds, or scores of several blocks of images.

    The model is the additive one of randomised blocks, value = setting + seed + residual, fitted by least squares. Its
    differences are paired by seed, and the residual's variance is pooled over the settings. With the same n seeds in
    each of k settings, a difference is the mean of n paired differences, with (k - 1)(n - 1) degrees of freedom. If the
    settings share no seeds, or too few, the seed's effect is dropped.

    Args:
        values: for each setting, the values by seed; at least one each.
        what: the replicates, for captions.

    Returns:
        The estimates, or None if there is no setting, or no replicate to estimate an error from.
    """
    seeds = list(dict.fromkeys(seed for each in values for seed in each))
    found = _fit(values, seeds, f"paired by {len(seeds)} {what}")
    counts = sorted({len(each) for each in values})
    several = "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""
    return found or _fit(values, [], f"over {several} {what} each, unpaired")


def _fit(values: Sequence[Mapping[Any, float]], seeds: Sequence[Any], test: str) -> Estimates | None:
    """Fit setting (+ seed) effects; None if contrasts between settings, or the residual, cannot be estimated."""
    k, blocks = len(values), {seed: number for number, seed in enumerate(seeds)}
    rows, observed = [], []
    for setting, each in enumerate(values):
        for seed, value in each.items():
            row = np.zeros(k + max(len(seeds) - 1, 0))
            row[setting] = 1
            if blocks and blocks[seed] > 0:
                row[k + blocks[seed] - 1] = 1
            rows.append(row)
            observed.append(value)
    if not rows:
        return None
    design, y = np.stack(rows), np.array(observed)
    df = len(y) - np.linalg.matrix_rank(design)
    if df < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = float(np.square(y - design @ coefficients).sum()) / df
    cov = variance * np.linalg.inv(design.T @ design)[:k, :k]
    offset = coefficients[k:].sum() / len(seeds) if seeds else 0.0  # the mean effect of the seeds
    return Estimates(coefficients[:k] + offset, cov, cov, float(df), test, variance**0.5)
