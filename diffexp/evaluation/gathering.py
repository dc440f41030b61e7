"""Features of many images, gathered in one pass: sums for means and covariances, and a bounded bank of single ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.evaluation import processes
from diffexp.evaluation.extractors.base import Features

BANK_BYTES = 80 * 2**20  # 10,240 features of Inception-v3, or 163,840 of 128 numbers
SPLITS = 10  # of the Inception score


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and unbiased covariance (d, d) of features, float64; `count` images made them, None if not known."""

    mean: Tensor
    cov: Tensor
    count: int | None


@dataclass(frozen=True)
class Gathered:
    """What is known of a set of images after one pass through an extractor.

    Attributes:
        gaussian: mean and covariance over all of them.
        bank: float32 (m, d), features of m of the images, evenly spread over the set; all of them where they fit.
        inception_score: mean and standard deviation over the splits, or None without logits.
    """

    gaussian: Gaussian
    bank: Tensor
    inception_score: tuple[float, float] | None


class Gathering:
    """Adds up features batch by batch, in memory that does not depend on the number of images.

    Sums are float64. Several processes gather one set together: each adds its part, and `result` adds the parts up.

    Args:
        count: images in the whole set, over all processes.
        dim: features of an image.
        classes: of the extractor's logits, or None if it has none.
        device: where they are added up.
    """

    def __init__(self, count: int, dim: int, classes: int | None, device: torch.device) -> None:
        self.count = count
        self._bank_size = min(count, BANK_BYTES // (4 * dim))
        self._added = 0
        self._sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self._outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self._bank: list[Tensor] = [torch.zeros(0, dim, device=device)]
        # for each split of the Inception score: how many images, Σ p·log p, and Σ p
        self._splits = torch.zeros(SPLITS, 2 + (classes or 0), dtype=torch.float64, device=device)

    def add(self, features: Features, first: int) -> None:
        """Add the features of images first, first + 1, … of the set."""
        values = features.values.double()
        self._sum += values.sum(dim=0)
        self._outer += values.T @ values
        self._added += len(values)
        positions = torch.arange(first, first + len(values), device=values.device)
        banked = (positions + 1) * self._bank_size // self.count > positions * self._bank_size // self.count
        self._bank.append(features.values[banked])
        if features.logits is not None:
            self._add_classes(features.logits.double(), positions)

    def _add_classes(self, logits: Tensor, positions: Tensor) -> None:
        """Image i belongs to split i mod 10."""
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        terms = torch.cat([torch.ones_like(p[:, :1]), (p * log_p).sum(dim=1, keepdim=True), p], dim=1)
        self._splits.index_add_(0, positions % SPLITS, terms)

    def result(self) -> Gathered:
        """The whole set, on every process."""
        added = int(processes.total(torch.tensor(self._added, device=self._sum.device)))
        assert added == self.count, f"{added} of {self.count} images were added"
        mean = processes.total(self._sum) / added
        cov = (processes.total(self._outer) - added * torch.outer(mean, mean)) / (added - 1)
        bank = processes.rows(torch.cat(self._bank))
        return Gathered(Gaussian(mean, cov, added), bank, self._inception_score())

    def _inception_score(self) -> tuple[float, float] | None:
        """exp of the mean of KL(p(y|x) ‖ p(y)), in each split (Salimans et al. 2016)."""
        if self._splits.shape[1] == 2 or self.count < SPLITS:
            return None
        sums = processes.total(self._splits)
        images, p_log_p, p = sums[:, 0], sums[:, 1], sums[:, 2:] / sums[:, :1]
        scores = (p_log_p / images - torch.xlogy(p, p).sum(dim=1)).exp()
        return float(scores.mean()), float(scores.std(correction=0))


def at_most(bank: Tensor, most: int) -> Tensor:
    """A bank's rows, or `most` of them, evenly spread."""
    if len(bank) <= most:
        return bank
    return bank[torch.arange(most, device=bank.device) * len(bank) // most]
