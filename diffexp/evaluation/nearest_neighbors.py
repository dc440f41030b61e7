"""Distances between features and their nearest neighbours."""

import torch
from torch import Tensor

from diffexp.evaluation.feature_statistics import at_most

_ASKED = 1_000  # images whose nearest neighbour is searched
_SAME = 1e-5  # distance between the features of one image as a fraction of their norm: batches round differently
_EXACT = "donot_use_mm_for_euclid_dist"  # matrix products lose a small distance between large vectors to rounding


def typical_distances(features: Tensor) -> Tensor | None:
    """Return the Euclidean distances (float64) of 1,000 of the features (m, d) to the nearest of another image.

    Copies of an image in the set are the same image: their distance of 0 says nothing about how far images are from
    each other. None if all images are the same.
    """
    nearest = []
    for rows in torch.split(at_most(features, _ASKED), 200):
        distances = torch.cdist(rows, features, compute_mode=_EXACT)
        same = distances <= _SAME * rows.norm(dim=1, keepdim=True)
        nearest.append(distances.masked_fill(same, torch.inf).amin(dim=1))
    found = torch.cat(nearest).double()
    return found if found.isfinite().all() else None


def has_copies(typical: Tensor, features: Tensor) -> bool:
    """Whether distances of an earlier version's file are also such between copies of one image."""
    return bool(typical.min() <= _SAME * features.norm(dim=1).max())


def distances_to(reference: Tensor, features: Tensor) -> Tensor:
    """Return the Euclidean distances (float64) of 1,000 of the features (n, d) to the nearest of `reference` (m, d)."""
    return nearest_distances(at_most(features, _ASKED), reference, neighbor=1)


def nearest_distances(features: Tensor, reference: Tensor, neighbor: int) -> Tensor:
    """Return float64 (n,): the distance of each feature (n, d) to its `neighbor`-th nearest of `reference` (m, d)."""
    distances = (torch.cdist(rows, reference, compute_mode=_EXACT) for rows in torch.split(features, 200))
    return torch.cat([rank_smallest(each, neighbor) for each in distances]).double()


def rank_smallest(distances: Tensor, rank: int) -> Tensor:
    """Return the rank-th smallest number, counted from 1, of each row of distances (r, m)."""
    # kthvalue has no deterministic algorithm on a GPU
    return distances.topk(rank, largest=False).values[:, -1]
