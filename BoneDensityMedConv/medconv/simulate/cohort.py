"""Who is simulated: T-scores, what of them the image can show, and the best that any reader of the image could do.

T = mean + sd·(r·z + sqrt(1 − r²)·ε) with z, ε ~ N(0, 1): z is the whole of what the image carries, r its correlation
with the DXA T-score. z is in turn the weighted sum of independent features (trabecular density, texture, cortical
thickness, size), so a reader of the density alone falls short of a reader of everything.

Sources: mean and sd give the class shares of the Austin cohort of the MedConv paper (46/136/207 of 389); r = 0.77 is
what the paper's 65.4 % balanced accuracy needs. The features' shares are our assumption: density has 0.67, so that
density alone correlates with T at 0.77·sqrt(0.67) = 0.63, the figure of a multicentre HU study (n = 504).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medconv.types import FloatArray, TScoreClass

FEATURES = ("density", "texture", "cortex", "size")
DEFAULT_SHARES: Mapping[str, float] = {"density": 0.67, "texture": 0.13, "cortex": 0.15, "size": 0.05}
WHO_LIMITS = (-2.5, -1.0)  # osteoporosis up to the first, normal from the second (WHO TRS 843, 1994)
CLASS_RANGES: Mapping[TScoreClass, tuple[float, float]] = {
    TScoreClass.NORMAL: (WHO_LIMITS[1], math.inf),
    TScoreClass.OSTEOPENIA: WHO_LIMITS,
    TScoreClass.OSTEOPOROSIS: (-math.inf, WHO_LIMITS[0]),
}


@dataclass(frozen=True)
class BayesCeiling:
    """What a reader who knew z exactly would reach on this cohort; no network can do better on average."""

    balanced_accuracy: float
    auc_osteoporosis: float
    accuracy: float


@dataclass(frozen=True)
class PatientSignal:
    """One patient's T-score, image-borne signal z and its standardised features (high = dense, regular, thick, big)."""

    t_score: float
    signal: float
    features: Mapping[str, float]


@dataclass(frozen=True)
class CohortModel:
    """The joint distribution of T-score and image. `shares` are the features' parts of z's variance, summing to 1."""

    t_score_mean: float = -0.89
    t_score_sd: float = 1.36
    signal_correlation: float = 0.77
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))

    def __post_init__(self) -> None:
        if not 0.0 <= self.signal_correlation <= 1.0:
            raise ValueError(f"signal_correlation must lie in 0..1, got {self.signal_correlation}")
        if set(self.shares) != set(FEATURES) or not math.isclose(sum(self.shares.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"shares must name {FEATURES} and sum to 1, got {dict(self.shares)}")

    def draw(self, rng: np.random.Generator, t_score: float | None = None) -> PatientSignal:
        """A random patient; with `t_score` given, one of the patients who have that T-score.

        The same random numbers with a higher T-score give a higher signal.
        """
        r = self.signal_correlation
        deviates = rng.standard_normal(2 + len(FEATURES))
        standard_t = deviates[0] if t_score is None else (t_score - self.t_score_mean) / self.t_score_sd
        signal = r * standard_t + math.sqrt(1.0 - r**2) * deviates[1]
        # Features given their weighted sum: the part of independent deviates that leaves the sum alone, plus the sum.
        weights = np.sqrt([self.shares[name] for name in FEATURES])
        free = deviates[2:]
        values = free - weights * (weights @ free) + weights * signal
        return PatientSignal(
            t_score=self.t_score_mean + self.t_score_sd * float(standard_t),
            signal=float(signal),
            features=dict(zip(FEATURES, values.tolist(), strict=True)),
        )

    def class_prior(self) -> dict[TScoreClass, float]:
        """Share of each WHO class in the cohort."""
        low, high = (_normal_cdf((limit - self.t_score_mean) / self.t_score_sd) for limit in WHO_LIMITS)
        return {
            TScoreClass.NORMAL: float(1.0 - high),
            TScoreClass.OSTEOPENIA: float(high - low),
            TScoreClass.OSTEOPOROSIS: float(low),
        }

    def class_given_signal(self, signal: FloatArray) -> FloatArray:
        """P(normal), P(osteopenia), P(osteoporosis) given z, shape (n, 3)."""
        r = self.signal_correlation
        spread = math.sqrt(max(1.0 - r**2, 1e-12))
        standard_limits = [(limit - self.t_score_mean) / self.t_score_sd for limit in WHO_LIMITS]
        low, high = (_normal_cdf((limit - r * signal) / spread) for limit in standard_limits)
        return np.stack([1.0 - high, high - low, low], axis=-1)

    def bayes_ceiling(self, steps: int = 20001, prior: Mapping[TScoreClass, float] | None = None) -> BayesCeiling:
        """By integration over z (trapezoid rule over ±8 SD).

        prior: the classes' shares among those who are tested, where they differ from the population's (a test set with
        as many of each class): within a class patients are as they are. Without osteoporosis, or with nothing else,
        the AUC is NaN.
        """
        z = np.linspace(-8.0, 8.0, steps)
        weight = np.exp(-0.5 * z**2)
        weight /= weight.sum()
        posterior = self.class_given_signal(z)  # (steps, 3)
        own_prior = weight @ posterior
        balanced_accuracy = float(weight @ (posterior / own_prior).max(axis=1)) / 3.0
        asked = own_prior if prior is None else np.array([prior[t_class] for t_class in TScoreClass])
        joint = weight[:, np.newaxis] * posterior * (asked / own_prior)  # of z and class, (steps, 3)
        # AUC = P(a patient with osteoporosis has the lower z); osteoporosis' probability falls strictly with z.
        with_disease, without = joint[:, 2], joint[:, :2].sum(axis=1)
        auc = math.nan
        if with_disease.any() and without.any():
            without = without / without.sum()
            above = 1.0 - np.cumsum(without) + 0.5 * without
            auc = float((with_disease / with_disease.sum()) @ above)
        return BayesCeiling(balanced_accuracy, auc, float(joint.max(axis=1).sum()))


def t_score_within(model: CohortModel, t_class: TScoreClass, rng: np.random.Generator) -> float:
    """A random T-score of that class: the model's distribution between the class's limits, by drawing again."""
    low, high = CLASS_RANGES[t_class]
    while True:
        t_score = model.t_score_mean + model.t_score_sd * float(rng.standard_normal())
        if low < t_score < high:
            return t_score


def _normal_cdf(x: FloatArray | float) -> FloatArray:
    from scipy.special import ndtr

    return np.asarray(ndtr(x))
