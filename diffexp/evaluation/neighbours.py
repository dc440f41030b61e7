"""What nearest neighbours among features say: precision, recall, and whether images are copies."""

from functools import cached_property

import torch
from torch import Tensor

from diffexp.evaluation.gathering import at_most

NEIGHBOURS = 3  # k of precision and recall
MOST = 10_000  # features on each side of precision and recall: the custom of the field
_ASKED = 1_000  # images whose nearest neighbour is looked for
_CHUNK = 1_000  # rows of a matrix of distances at a time


class ManifoldReference:
    """The real images' side of precision and recall: how far each one reaches is computed once.

    Args:
        bank: features (m, d); of more than 10,000, that many, evenly spread.
    """

    def __init__(self, bank: Tensor) -> None:
        self.bank = at_most(bank, MOST)

    @cached_property
    def _reach(self) -> Tensor:
        return _reach(self.bank)

    def precision_recall(self, bank: Tensor) -> tuple[float, float]:
        """Precision and recall of a sample's features (Kynkäänniemi et al. 2019).

        An image reaches as far as its 3rd nearest neighbour of its own set. Precision: the share of the sample within
        the reach of some real image; recall: of the real images within the reach of a sampled one. Precision alone
        says nothing: uniform noise had .8 on Fashion-MNIST.

        Args:
            bank: features (n, d) of at least 4 images; of more than 10,000, that many, evenly spread.
        """
        bank = at_most(bank, MOST)
        return _within(bank, self.bank, self._reach), _within(self.bank, bank, _reach(bank))


def _reach(bank: Tensor) -> Tensor:
    """The distance (m,) of each to its 3rd nearest other one."""
    return torch.cat([torch.cdist(rows, bank).kthvalue(NEIGHBOURS + 1).values for rows in torch.split(bank, _CHUNK)])


def _within(asked: Tensor, centres: Tensor, reach: Tensor) -> float:
    """The share of the asked features (n, d) that lie within the reach (m,) of one of the centres (m, d)."""
    found = [(torch.cdist(rows, centres) <= reach).any(dim=1) for rows in torch.split(asked, _CHUNK)]
    return float(torch.cat(found).double().mean())


def nearest(bank: Tensor, reference: Tensor) -> float:
    """The mean Euclidean distance of (1,000 of) the features (n, d) to the nearest of the reference's (m, d)."""
    return _mean_distance(at_most(bank, _ASKED), reference, neighbour=1)


def typical_nearest(reference: Tensor) -> float:
    """The mean distance of (1,000 of) the reference's features to the nearest other one."""
    return _mean_distance(at_most(reference, _ASKED), reference, neighbour=2)


def _mean_distance(asked: Tensor, reference: Tensor, neighbour: int) -> float:
    # not by products of matrices, which round a small distance between large vectors away
    exact = "donot_use_mm_for_euclid_dist"
    distances = (torch.cdist(rows, reference, compute_mode=exact) for rows in torch.split(asked, 200))
    return float(torch.cat([each.kthvalue(neighbour, dim=1).values for each in distances]).double().mean())
