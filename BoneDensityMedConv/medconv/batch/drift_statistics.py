"""Figures that say how far a batch lies from the training population, and how far chance alone would take it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.population import Spread
from medconv.types import FloatArray

Z_95 = 1.959964  # of the normal distribution, two-sided 95 %
# Of the stability index: below the first nothing worth telling, from the second a shift that calls for action
# (Siddiqi, Credit Risk Scorecards, Wiley 2006).
INDEX_LIMITS = (0.1, 0.25)
INDEX_BINS = 10
EXPECTED_AT_LEAST = 5.0  # cases a cell, for chi-squared (Cochran 1954); rarer values are taken together


@dataclass(frozen=True)
class Distance:
    """How far two samples lie apart. value: 0 (alike) to 1. limit: what chance reaches in a share alpha of batches."""

    value: float
    limit: float

    @property
    def is_beyond_chance(self) -> bool:
        return self.value > self.limit


def ks_distance(values: FloatArray, trained_on: Spread) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the shares of cases up to any value."""
    return max(ks_sides(values, trained_on))


def ks_sides(values: FloatArray, trained_on: Spread) -> tuple[float, float]:
    """Its two sides: by how much at most the share up to a value lies above training's (lower values), and below it."""
    below = trained_on.share_below(np.sort(values))
    steps = np.arange(len(values) + 1) / len(values)
    return float((steps[1:] - below).max()), float((below - steps[:-1]).max())


def ks_limit(cases: int, trained_on: int, alpha: float) -> float:
    """What `ks_distance` of two samples of one population stays below, but for a share `alpha` of batches.

    sqrt(ln(2/alpha)/2 · (1/n + 1/m)): Smirnov 1948 for two samples; for one sample and every n it is the bound of
    Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990).
    """
    return math.sqrt(0.5 * math.log(2.0 / alpha) * (1.0 / cases + 1.0 / trained_on))


def compare(values: FloatArray, trained_on: Spread, alpha: float) -> Distance:
    """The Kolmogorov-Smirnov distance with its limit."""
    return Distance(ks_distance(values, trained_on), ks_limit(len(values), trained_on.cases, alpha))


def stability_index(values: FloatArray, trained_on: Spread) -> float:
    """Population stability index Σ (a − e)·ln(a/e) over the tenths of the training population, a here, e in training.

    A tenth without a case counts as half a case.
    """
    edges = trained_on.at(np.linspace(0.0, 1.0, INDEX_BINS + 1))[1:-1]
    here = np.bincount(np.searchsorted(edges, values, side="right"), minlength=INDEX_BINS)
    there = np.diff(np.concatenate([[0.0], trained_on.share_below(edges), [1.0]]))
    return _index(here, np.maximum(there, 1e-6))


def stability_index_of(here: Mapping[str, int], there: Mapping[str, int]) -> float:
    """The same over named values, given as counts."""
    names = sorted(set(here) | set(there))
    expected = np.maximum([there.get(name, 0) for name in names], 0.5)
    return _index(np.array([here.get(name, 0) for name in names]), expected / expected.sum())


def _index(here: NDArray[Any], expected: FloatArray) -> float:
    actual = np.maximum(here, 0.5) / max(here.sum(), 1)
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def shares_differ(here: Mapping[str, int], there: Mapping[str, int]) -> float:
    """p-value that two sets of counts are of one population: chi-squared test of homogeneity; 1 with one value."""
    from scipy.stats import chi2

    names = sorted(set(here) | set(there))
    counts = np.array([[source.get(name, 0) for name in names] for source in (here, there)], float)
    counts = _rare_together(counts)
    if counts.shape[1] < 2 or not counts.sum(axis=1).all():
        return 1.0
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.shape[1] - 1))


def _rare_together(counts: FloatArray) -> FloatArray:
    """Columns with too few cases to test are added up, into one that is large enough if need be."""
    least = counts.sum(axis=0) * counts.sum(axis=1).min() / max(counts.sum(), 1.0)
    order = np.argsort(least)
    counts, least = counts[:, order], least[order]
    rare = int(np.searchsorted(least, EXPECTED_AT_LEAST))
    while 0 < rare < counts.shape[1] and least[:rare].sum() < EXPECTED_AT_LEAST:
        rare += 1
    return counts if rare == 0 else np.column_stack([counts[:, :rare].sum(axis=1), counts[:, rare:]])


def wilson(cases: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); 0 to 1 without cases."""
    if of == 0:
        return 0.0, 1.0
    share, spread = cases / of, Z_95**2 / of
    middle = share + spread / 2.0
    half = math.sqrt(spread * (share * (1.0 - share) + spread / 4.0))
    # The share itself lies within, also where rounding says otherwise (no case, all cases).
    return max(min((middle - half) / (1.0 + spread), share), 0.0), min(
        max((middle + half) / (1.0 + spread), share), 1.0
    )


def smallest_shift(trained_on: Spread, limit: float) -> float:
    """By how much all values must move for `ks_distance` to reach a limit, as far as quantiles tell; inf if above 1."""
    if limit >= 1.0:
        return math.inf
    quantiles = np.asarray(trained_on.quantiles)
    low, high = 0.0, float(quantiles[-1] - quantiles[0])
    for _ in range(40):
        middle = (low + high) / 2.0
        apart = np.abs(trained_on.share_below(quantiles + middle) - trained_on.share_below(quantiles)).max()
        low, high = (low, middle) if apart >= limit else (middle, high)
    return high
