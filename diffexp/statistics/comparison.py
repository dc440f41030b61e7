"""Comparison of all pairs of several estimates, with the error rate of the entire family of comparisons controlled.

Holm's procedure (1979) goes from the largest difference to the smallest and corrects each for the number of comparisons
left. Bonferroni's bound, which it uses, is loose for dependent comparisons, as those of all pairs of one table are. So
here the joint distribution of the remaining differences replaces the bound (Westfall & Young 1993; Romano & Wolf 2005):
p is the probability that the largest of their standardised differences exceeds the observed one. It never exceeds
Holm's p. At no true difference, one of them is found significant at most in 5 % of tables.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import special

from diffexp.statistics.estimates import Estimates
from diffexp.statistics.influence import Array

LEVEL = 0.05  # of significance, two-sided
_DRAWS = 10_000  # of the joint distribution
_MOST = 30  # settings; for more, Holm's bound is used
_ROUNDING = 1e-9  # relative difference that rounding explains


@dataclass(frozen=True)
class Difference:
    """The difference of two estimates.

    Attributes:
        value: the first minus the second.
        error: its standard error.
        df: degrees of freedom of the error.
        p: the two-sided p-value of this comparison alone.
        adjusted: the p-value corrected for all comparisons of the family.
        test: what it was tested against.
    """

    value: float
    error: float
    df: float
    p: float
    adjusted: float
    test: str

    @property
    def is_significant(self) -> bool:
        """Whether the two differ, at 5 % over the family."""
        return self.adjusted < LEVEL

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """Return the confidence interval of the difference, not corrected for other comparisons."""
        half = float(special.stdtrit(self.df, (1 + level) / 2)) * self.error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Comparison:
    """All pairwise differences of k estimates.

    Attributes:
        estimates: the estimates.
        differences: by (i, j) with i < j, the estimate i minus the estimate j.
    """

    estimates: Estimates
    differences: dict[tuple[int, int], Difference]

    def best_and_ties(self, *, lower_is_better: bool = True) -> tuple[int, set[int]]:
        """Return the index of the best estimate, and those of the others that do not differ from it significantly."""
        order = self.estimates.values if lower_is_better else -self.estimates.values
        best = int(np.argmin(order))
        ties = {
            other
            for other in range(len(order))
            if other != best and not self.differences[min(best, other), max(best, other)].is_significant
        }
        return best, ties


def compare(estimates: Estimates) -> Comparison:
    """Compare all pairs of estimates, which are finite. Values that differ by rounding only are equal."""
    k = len(estimates.values)
    pairs = list(itertools.combinations(range(k), 2))
    contrasts = np.zeros((len(pairs), k))
    for row, (one, other) in enumerate(pairs):
        contrasts[row, one], contrasts[row, other] = 1, -1
    values, errors = contrasts @ estimates.values, estimates.errors(contrasts)
    values[np.abs(values) <= _ROUNDING * np.abs(estimates.values).max(initial=0.0)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(values == 0, 0.0, np.abs(values) / errors)
    p: Array = 2 * special.stdtr(estimates.df, -statistic).astype(np.float64)
    adjusted = holm(p)
    if 2 < k <= _MOST:
        adjusted = np.maximum(p, np.minimum(adjusted, _joint(statistic, contrasts, estimates)))
    found = zip(values.tolist(), errors.tolist(), p.tolist(), adjusted.tolist(), strict=True)
    return Comparison(
        estimates,
        {
            pair: Difference(value, error, estimates.df, alone, together, estimates.test)
            for pair, (value, error, alone, together) in zip(pairs, found, strict=True)
        },
    )


def holm(p: Array) -> Array:
    """Return p-values (m,) adjusted by Holm's procedure."""
    order = np.argsort(p)
    steps = np.minimum((len(p) - np.arange(len(p))) * p[order], 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps) if len(p) else steps
    return adjusted


def _joint(statistic: Array, contrasts: Array, estimates: Estimates) -> Array:
    """Return p-values adjusted by the simulated joint distribution of the differences; always the same draws."""
    random = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(contrasts @ estimates.first @ contrasts.T)
    root = vectors * np.sqrt(np.maximum(values, 0))
    scale = np.linalg.norm(root, axis=1, keepdims=True)
    root = np.divide(root, scale, out=np.zeros_like(root), where=scale > 0)
    rank = max(1, int((values > 1e-12 * values.max()).sum()))
    draws = np.abs(random.standard_normal((_DRAWS, rank)) @ root[:, -rank:].T)
    if np.isfinite(estimates.df):
        draws /= np.sqrt(random.chisquare(estimates.df, (_DRAWS, 1)) / estimates.df)
    order = np.argsort(-statistic)
    largest = np.maximum.accumulate(draws[:, order[::-1]], axis=1)[:, ::-1]  # over each difference and all smaller ones
    exceeded = (1 + (largest >= statistic[order]).sum(axis=0)) / (1 + _DRAWS)
    adjusted = np.empty_like(statistic)
    adjusted[order] = np.maximum.accumulate(exceeded)
    return adjusted
