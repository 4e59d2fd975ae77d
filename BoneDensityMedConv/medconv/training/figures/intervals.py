"""How sure a figure is: Wilson intervals for proportions, patient-wise bootstrap for the rest, paired comparisons.

A figure is a dict {"value", "low", "high"}, the interval at 95 %. Whole patients are resampled, within their class: a
patient's two CTs stay together, and every class stays as frequent as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.training.figures.metrics import METRICS, IntArray, compute
from medconv.types import FloatArray

CONFIDENCE = 0.95
CELLS_AT_ONCE = 1_000_000  # weights worked on at a time (8 MB: they stay in the processor's cache)


def wilson(successes: int, trials: int) -> dict[str, float]:
    """A proportion with its Wilson interval (Wilson 1927); NaN without trials."""
    from scipy.stats import binomtest

    if trials == 0:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": successes / trials, "low": float(interval.low), "high": float(interval.high)}


def bootstrap_weights(classes: IntArray, patients: Sequence[str], resamples: int, seed: int) -> FloatArray:
    """How often every case is drawn in every resample, shape (resamples, n).

    Patients are drawn with replacement among those of the same class (a patient's first case decides which).
    """
    rng = np.random.default_rng(seed)
    _, first, case_patient = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
    patient_class = np.asarray(classes)[first]
    drawn = np.zeros((resamples, len(first)))
    for c in np.unique(patient_class):
        members = np.flatnonzero(patient_class == c)
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)), resamples)
    return np.asarray(drawn[:, case_patient.ravel()])


def with_interval(value: float, spread: FloatArray) -> dict[str, float]:
    """A figure with the percentile interval of its resamples."""
    known = spread[np.isfinite(spread)]
    if len(known) == 0:
        return {"value": value, "low": float("nan"), "high": float("nan")}
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(known, [tail, 100.0 - tail])
    return {"value": value, "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Spread:
    """A figure of the cases as they are, and of every resample, shape (resamples,)."""

    value: float
    resamples: FloatArray

    def interval(self) -> dict[str, float]:
        """The figure with its interval."""
        return with_interval(self.value, self.resamples)

    def minus(self, other: Spread) -> Spread:
        """Paired difference: both over the same resamples."""
        return Spread(self.value - other.value, self.resamples - other.resamples)

    def over(self, other: Spread) -> Spread:
        """Paired ratio."""
        return Spread(self.value / other.value, self.resamples / other.resamples)


def spreads(
    targets: IntArray, probabilities: FloatArray, weights: FloatArray, names: Collection[str] = METRICS
) -> dict[str, Spread]:
    """Figures by name over the resamples. weights: of `bootstrap_weights`, taken in portions that fit into memory."""
    once = compute(targets, probabilities, np.ones((1, len(targets))), names)
    step = max(1, CELLS_AT_ONCE // max(len(targets), 1))
    portions = (weights[i : i + step] for i in range(0, len(weights), step))
    parts = [compute(targets, probabilities, portion, names) for portion in portions]
    return {name: Spread(float(once[name][0]), np.concatenate([part[name] for part in parts])) for name in names}


def figures(found: Mapping[str, Spread]) -> dict[str, dict[str, float]]:
    """Each with its interval."""
    return {name: spread.interval() for name, spread in found.items()}


def differences(first: Mapping[str, Spread], second: Mapping[str, Spread]) -> dict[str, dict[str, float]]:
    """Figures of the first minus those of the second reader of the same resamples, with intervals."""
    return {name: spread.minus(second[name]).interval() for name, spread in first.items()}


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> dict[str, float]:
    """Exact McNemar test: of the patients on whom only one of two readers is right, is it either as often?"""
    from scipy.stats import binomtest

    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(~first_right & second_right))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p}


def delong(positive: NDArray[np.bool_], first: FloatArray, second: FloatArray) -> dict[str, float]:
    """Difference of two correlated AUCs with its normal interval and p-value (DeLong et al. 1988).

    Through midranks (Sun and Xu 2014). NaN where a side has fewer than two cases.
    """
    from scipy.stats import norm, rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "p_value": float("nan")}
    by_case, by_control, areas = [], [], []
    for scores in (first, second):
        ranks = rankdata(scores)
        among_cases, among_controls = rankdata(scores[positive]), rankdata(scores[~positive])
        by_case.append((ranks[positive] - among_cases) / n)  # share of controls below each case
        by_control.append(1.0 - (ranks[~positive] - among_controls) / m)
        areas.append(float(by_case[-1].mean()))
    covariance = np.cov(by_case) / m + np.cov(by_control) / n
    value = areas[0] - areas[1]
    error = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1], 0.0)))
    half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error
    p = float(2.0 * norm.sf(abs(value) / error)) if error > 0 else 1.0
    return {"value": value, "low": value - half, "high": value + half, "p_value": p}


def told(figure: Mapping[str, float], signed: bool = False, decimals: int = 3) -> str:
    """For people: "0.560 (0.541 to 0.578)"; "not defined" where it is not."""
    if not np.isfinite(figure["value"]):
        return "not defined"
    form = f"{'+' if signed else ''}.{decimals}f"
    if not np.isfinite(figure["low"]):
        return f"{figure['value']:{form}}"
    return f"{figure['value']:{form}} ({figure['low']:{form}} to {figure['high']:{form}})"
