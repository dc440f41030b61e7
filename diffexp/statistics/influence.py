"""The influence of each image on a score, which gives the error of the score and of differences between scores.

To first order, a statistic S of n images is its expectation plus the mean of the influences ψ(x_i). Two scores from the
same seeds then differ by an error that the paired influences give::

    Var(S_A - S_B) = Var(ψ_A(x_i) - ψ_B(y_i)) / n

Where the scores are near the smallest possible, ψ vanishes, and the second order dominates. The influences estimated
from the sample then have twice its variance, as a jackknife has for a degenerate U-statistic (Efron & Stein 1981). So
each influence is also estimated twice from images other than its own: the images form three folds by their number
modulo 3, and each of the two other folds gives one estimate. Errors of these two are independent. Their covariance is
therefore an unbiased estimate of Var ψ, and the error of a score is::

    Var(S) = (Var ψ̂ + max(Cov(ψ̂_1, ψ̂_2), 0)) / 2n
"""

import numpy as np
from numpy.typing import NDArray

FOLDS = 3

Array = NDArray[np.float64]


class Influence:
    """The influences of the independent parts of a sample, which are images or groups of images, on a score.

    Args:
        values: (units, 1), or (units, 3) with the estimates from the two other folds; see the module. Their columns
            have the mean 0.
        parts: the number of such parts in the sample, of which `values` may have only some.
    """

    # no dataclass, because torchmetrics rebuilds the dataclasses that a metric returns

    def __init__(self, values: NDArray[np.float32], parts: int) -> None:
        self.values = values
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Influence)
            and self.parts == other.parts
            and np.array_equal(self.values, other.values, equal_nan=True)
        )

    def __hash__(self) -> int:
        return hash((self.values.shape, self.parts))

    @classmethod
    def linear(cls, values: Array, parts: int) -> "Influence":
        """Return the influences on a mean of values (units,), which are exact."""
        return cls((values - values.mean())[:, None].astype(np.float32), parts)

    @classmethod
    def of_folds(cls, full: Array, by_fold: Array, parts: int) -> "Influence":
        """Return the influences on a nonlinear statistic.

        Args:
            full: (m,), estimated from all images.
            by_fold: (m, 3), estimated from the images of each fold; the image's own fold is not used.
            parts: the number of images in the sample.
        """
        number = np.arange(len(full))
        columns = [full - full.mean()]
        for step in (1, 2):
            column = by_fold[number, (number + step) % FOLDS]
            means = np.bincount(number % FOLDS, column, FOLDS) / np.bincount(number % FOLDS, minlength=FOLDS)
            columns.append(column - means[number % FOLDS])  # each fold has its own error of the mean
        return cls(np.stack(columns, axis=1).astype(np.float32), parts)

    @property
    def error(self) -> float:
        """The standard error of the score."""
        first, cross = covariances([self])
        return float(np.sqrt((first[0, 0] + max(cross[0, 0], 0.0)) / 2))


def covariances(influences: list[Influence]) -> tuple[Array, Array]:
    """Return the covariance of k scores of the same images, estimated from all images and across folds, (k, k) each.

    Raises:
        ValueError: if the influences have different shapes.
    """
    stacked = np.stack([each.values for each in influences]).astype(np.float64)  # (k, units, 1 or 3)
    units, parts = stacked.shape[1], influences[0].parts
    first = stacked[:, :, 0] @ stacked[:, :, 0].T / (units - 1) / parts
    if stacked.shape[2] == 1:
        return first, first
    one, two = stacked[:, :, 1], stacked[:, :, 2]
    cross = (one @ two.T + two @ one.T) / 2 / (units - FOLDS) / parts
    return first, cross
