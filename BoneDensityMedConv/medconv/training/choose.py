"""Choices made on the validation set, and only there: the logits' scale, the adjustment method and its tau."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv import tau_adjustment
from medconv.config import CLASS_ORDER
from medconv.training.metrics import balanced_accuracy, bootstrap_indices, expected_calibration_error
from medconv.types import Adjustment, FloatArray, TScoreClass


@dataclass(frozen=True)
class LogitReading:
    """How a network's logits are read: what its training fixes."""

    class_prior: Mapping[TScoreClass, float]
    minority_classes: tuple[TScoreClass, ...]
    tau1_train: float

    def probabilities(self, logits: FloatArray, adjustment: Adjustment) -> FloatArray:
        """Adjusted probabilities of every case, shape (n, 3), by the product's own `tau_adjustment`."""
        return np.array([self._one(row, adjustment) for row in logits.tolist()])

    def _one(self, logits: list[float], adjustment: Adjustment) -> list[float]:
        by_class = tau_adjustment.adjust(
            dict(zip(CLASS_ORDER, logits, strict=True)),
            adjustment,
            class_prior=self.class_prior,
            minority_classes=self.minority_classes,
            tau1_train=self.tau1_train,
        )
        return [by_class[c] for c in CLASS_ORDER]


@dataclass(frozen=True)
class Choice:
    """The default adjustment with why, and every candidate's balanced accuracy."""

    adjustment: Adjustment
    reason: str
    candidates: dict[str, float]


def fit_logit_scale(logits: FloatArray, classes: NDArray[np.int64], log_prior: FloatArray, tau1: float) -> float:
    """The factor s > 0 that makes softmax(s·z + tau1·log π) most likely: temperature scaling (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    def loss(log_scale: float) -> float:
        adjusted = np.exp(log_scale) * logits + tau1 * log_prior
        shifted = adjusted - adjusted.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return -float(log_p[np.arange(len(classes)), classes].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 1.5), method="bounded").x))


def candidates(tau1_train: float) -> list[Adjustment]:
    """What is tried: `log_prior` with tau2 from 0 to 1.5, `temperature` with tau1 = 1 and tau2 from 0.3 to 1.5."""
    shifts = [Adjustment("log_prior", tau1_train, round(0.1 * i, 2)) for i in range(16)]
    return shifts + [Adjustment("temperature", 1.0, round(0.1 * i, 2)) for i in range(3, 16)]


def choose_adjustment(reading: LogitReading, logits: FloatArray, classes: NDArray[np.int64]) -> Choice:
    """The candidate with the best balanced accuracy on validation; theory decides among those as good as it.

    For balanced accuracy theory says `log_prior` with tau2 = 1 (class-balanced probabilities). It is taken unless
    another is better by more than one standard error (bootstrap) of the difference: with some hundred patients the
    best of many candidates is otherwise mostly luck.
    """
    theory = Adjustment("log_prior", reading.tau1_train, 1.0)
    found = {adjustment: reading.probabilities(logits, adjustment) for adjustment in candidates(reading.tau1_train)}
    scores = {adjustment: balanced_accuracy(classes, p) for adjustment, p in found.items()}
    best = max(scores, key=lambda adjustment: scores[adjustment])
    samples = bootstrap_indices(classes, 200, seed=0)
    gains = [
        balanced_accuracy(classes[i], found[best][i]) - balanced_accuracy(classes[i], found[theory][i]) for i in samples
    ]
    gain, error = scores[best] - scores[theory], float(np.std(gains))
    chosen = best if gain > error else theory
    reason = (
        f"On validation {describe(best)} had the best balanced accuracy ({scores[best]:.3f}); {describe(theory)}, "
        f"which theory prescribes, had {scores[theory]:.3f} (difference {gain:.3f}, standard error {error:.3f}). "
        f"Chosen: {describe(chosen)}."
    )
    return Choice(chosen, reason, {describe(a): score for a, score in scores.items()})


def describe(adjustment: Adjustment) -> str:
    """For people: method and taus."""
    return f"{adjustment.method} (tau1 = {adjustment.tau1:g}, tau2 = {adjustment.tau2:g})"


def calibration(classes: NDArray[np.int64], reading: LogitReading, logits: FloatArray) -> float:
    """ECE of the training population's own posterior (`log_prior` with tau2 = 0), for a set of its frequencies."""
    natural = reading.probabilities(logits, Adjustment("log_prior", reading.tau1_train, 0.0))
    return expected_calibration_error(classes, natural)
