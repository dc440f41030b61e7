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
        # around their mean: distances between large vectors lose their digits in products of matrices
        self._mean = bank.double().mean(dim=0).to(bank)
        self.bank = at_most(bank, MOST) - self._mean

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
        bank = at_most(bank, MOST) - self._mean
        return _within(bank, self.bank, self._reach), _within(self.bank, bank, _reach(bank))


def _reach(bank: Tensor) -> Tensor:
    """The distance (m,) of each to its 3rd nearest other one."""
    return torch.cat([_rank(torch.cdist(rows, bank), NEIGHBOURS + 1) for rows in torch.split(bank, _CHUNK)])


def _rank(distances: Tensor, rank: int) -> Tensor:
    """The rank-th smallest number, counted from 1, in each row of distances (r, m)."""
    # not kthvalue, which on a GPU has no deterministic algorithm
    return distances.topk(rank, largest=False).values[:, -1]


def _within(asked: Tensor, centres: Tensor, reach: Tensor) -> float:
    """The share of the asked features (n, d) that lie within the reach (m,) of one of the centres (m, d)."""
    found = [(torch.cdist(rows, centres) <= reach).any(dim=1) for rows in torch.split(asked, _CHUNK)]
    return float(torch.cat(found).double().mean())


class NearestReference:
    """The side of the real images in the search for copies of them.

    Args:
        bank: features (m, d): of all real images that a model may have learned by heart.
        typical: for some of the real images, the distance to the nearest other one, as `typical_distances` gives them.
    """

    def __init__(self, bank: Tensor, typical: Tensor) -> None:
        self.bank = bank
        self.typical = typical

    def ratio_and_copies(self, bank: Tensor) -> tuple[float, float]:
        """How near the sample lies to the real images: by the mean distance to the nearest, and by its smallest ones.

        Args:
            bank: features (n, d) of the sample; 1,000 of them are looked at.

        Returns:
            The mean distance as a multiple of that between real images: 1 is as it should be. And the share of images
            that are nearer than all but 1 % of the real images are to each other: .01 is as it should be, 1 are copies.
        """
        found = _nearest(at_most(bank, _ASKED), self.bank, neighbour=1)
        near = self.typical.quantile(0.01)
        ratio = found.mean() / self.typical.mean().clamp(min=torch.finfo(found.dtype).tiny)
        return float(ratio), float((found <= near).double().mean())


def typical_distances(bank: Tensor) -> Tensor:
    """For 1,000 of the features (m, d), the Euclidean distance to the nearest other one: float64."""
    return _nearest(at_most(bank, _ASKED), bank, neighbour=2)


def _nearest(asked: Tensor, reference: Tensor, neighbour: int) -> Tensor:
    # not by products of matrices, which round a small distance between large vectors away
    exact = "donot_use_mm_for_euclid_dist"
    distances = (torch.cdist(rows, reference, compute_mode=exact) for rows in torch.split(asked, 200))
    return torch.cat([_rank(each, neighbour) for each in distances]).double()
