"""The Inception score (Salimans et al. 2016)."""

import torch
from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.evaluation.metrics.base import Estimate, Metric
from diffexp.evaluation.reference import Reference

SPLITS = 10


class InceptionScore(Metric):
    """The Inception score exp(E[KL(p(y|x) ‖ p(y))]): mean and standard deviation over ten splits.

    Image i of the set belongs to split i mod 10.
    """

    higher_is_better: bool = True
    sums: Tensor

    def __init__(self, reference: Reference, extractor: Extractor, count: int | None = None) -> None:
        super().__init__(reference, extractor, count)
        # for each split: number of images, Σ p·log p, and Σ p
        sums = torch.zeros(SPLITS, 2 + (extractor.classes or 0), dtype=torch.float64)
        self.add_state("sums", sums, dist_reduce_fx="sum")

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether the extractor provides class logits."""
        return extractor.classes is not None

    def update(self, images: Tensor, features: Features | None = None, first: int | None = None) -> None:
        """Add images, with the arguments of `Metric.update`."""
        logits = (self.extractor(images) if features is None else features).logits
        assert logits is not None
        start = int(self.sums[:, 0].sum()) if first is None else first
        numbers = torch.arange(start, start + len(logits), device=self.sums.device)
        log_p = logits.to(self.sums).log_softmax(dim=1)
        p = log_p.exp()
        terms = torch.cat([torch.ones_like(p[:, :1]), (p * log_p).sum(dim=1, keepdim=True), p], dim=1)
        self.sums.index_add_(0, numbers % SPLITS, terms)

    def compute(self) -> Estimate:
        """Return the mean and standard deviation over the splits of the images of all processes.

        Raises:
            ValueError: if a split has no image.
        """
        images, p_log_p, p = self.sums[:, 0], self.sums[:, 1], self.sums[:, 2:] / self.sums[:, :1]
        if not images.all():
            raise ValueError(f"expected at least {SPLITS} images, got {int(images.sum())}")
        scores = (p_log_p / images - torch.xlogy(p, p).sum(dim=1)).exp()
        return Estimate(float(scores.mean()), float(scores.std(correction=0)))
