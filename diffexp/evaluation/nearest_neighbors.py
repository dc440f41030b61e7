"""Distances between features and their nearest neighbours."""

import torch
from torch import Tensor

from diffexp.evaluation.feature_statistics import at_most

_ASKED = 1_000  # images whose nearest neighbour is looked for


def typical_distances(features: Tensor) -> Tensor:
    """For 1,000 of the features (m, d), the Euclidean distance to the nearest other one: float64."""
    return nearest_distances(at_most(features, _ASKED), features, neighbor=2)


def distances_to(reference: Tensor, features: Tensor) -> Tensor:
    """For 1,000 of the features (n, d), the Euclidean distance to the nearest of the reference (m, d): float64."""
    return nearest_distances(at_most(features, _ASKED), reference, neighbor=1)


def nearest_distances(features: Tensor, reference: Tensor, neighbor: int) -> Tensor:
    """The distance of each feature (n, d) to its `neighbor`-th nearest of the reference (m, d): float64 (n,)."""
    # not by products of matrices, which round a small distance between large vectors away
    exact = "donot_use_mm_for_euclid_dist"
    distances = (torch.cdist(rows, reference, compute_mode=exact) for rows in torch.split(features, 200))
    return torch.cat([rank_smallest(each, neighbor) for each in distances]).double()


def rank_smallest(distances: Tensor, rank: int) -> Tensor:
    """The rank-th smallest number, counted from 1, in each row of distances (r, m)."""
    # not kthvalue, which on a GPU has no deterministic algorithm
    return distances.topk(rank, largest=False).values[:, -1]
