"""Distances between features and their nearest neighbours."""

import torch
from torch import Tensor

from diffexp.evaluation.feature_statistics import at_most

_ASKED = 1_000  # images whose nearest neighbour is searched


def typical_distances(features: Tensor) -> Tensor:
    """Return the Euclidean distances (float64) of 1,000 of the features (m, d) to their nearest other feature."""
    return nearest_distances(at_most(features, _ASKED), features, neighbor=2)


def distances_to(reference: Tensor, features: Tensor) -> Tensor:
    """Return the Euclidean distances (float64) of 1,000 of the features (n, d) to the nearest of `reference` (m, d)."""
    return nearest_distances(at_most(features, _ASKED), reference, neighbor=1)


def nearest_distances(features: Tensor, reference: Tensor, neighbor: int) -> Tensor:
    """Return float64 (n,): the distance of each feature (n, d) to its `neighbor`-th nearest of `reference` (m, d)."""
    # matrix products would lose a small distance between large vectors to rounding
    exact = "donot_use_mm_for_euclid_dist"
    distances = (torch.cdist(rows, reference, compute_mode=exact) for rows in torch.split(features, 200))
    return torch.cat([rank_smallest(each, neighbor) for each in distances]).double()


def rank_smallest(distances: Tensor, rank: int) -> Tensor:
    """Return the rank-th smallest number, counted from 1, of each row of distances (r, m)."""
    # kthvalue has no deterministic algorithm on a GPU
    return distances.topk(rank, largest=False).values[:, -1]
