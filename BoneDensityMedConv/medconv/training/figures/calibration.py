"""Whether probabilities mean what they say: calibration errors, Brier score, reliability bins, temperature scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import CLASS_ORDER
from medconv.training.figures.intervals import wilson
from medconv.training.figures.metrics import CLASSES, IntArray
from medconv.types import FloatArray

BINS = 15
LOG_SCALE_BOUNDS = (-2.5, 1.5)


def expected_calibration_error(targets: IntArray, probabilities: FloatArray, bins: int = BINS) -> float:
    """Mean gap between the top class's probability and how often it is right, over equal bins (Guo et al. 2017)."""
    return _gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets, bins)


def classwise_calibration_error(targets: IntArray, probabilities: FloatArray, bins: int = BINS) -> float:
    """Mean over the classes of the gap between a class's probability and its frequency (Kull et al. 2019)."""
    return float(np.mean([_gap(probabilities[:, c], targets == c, bins) for c in CLASSES]))


def brier_score(targets: IntArray, probabilities: FloatArray) -> float:
    """Mean of Σ_c (p_c − y_c)² (Brier 1950): 0 is perfect, 2/3 is a third for each class, 2 is sure and wrong."""
    return float(np.mean(np.sum((probabilities - np.eye(len(CLASSES))[targets]) ** 2, axis=1)))


def negative_log_likelihood(targets: IntArray, probabilities: FloatArray) -> float:
    """Mean −log p of the true class, in nats."""
    return -float(np.mean(np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-12))))


def summary(targets: IntArray, probabilities: FloatArray) -> dict[str, float]:
    """All four figures by name."""
    return {
        "ece": expected_calibration_error(targets, probabilities),
        "classwise_ece": classwise_calibration_error(targets, probabilities),
        "brier": brier_score(targets, probabilities),
        "nll": negative_log_likelihood(targets, probabilities),
    }


def ece_by_chance(probabilities: FloatArray, resamples: int, seed: int) -> float:
    """What the ECE of a perfectly calibrated reader stays below in 95 % of samples of this size.

    With few patients the ECE is far from 0 by chance alone. Truth is drawn from the probabilities themselves
    (consistency resampling, Bröcker and Smith 2007).
    """
    rng = np.random.default_rng(seed)
    edges = np.cumsum(probabilities, axis=1)[:, :-1]
    drawn = [
        (rng.random((len(probabilities), 1)) * np.ones((1, len(CLASSES) - 1)) > edges).sum(axis=1)
        for _ in range(resamples)
    ]
    return float(np.percentile([expected_calibration_error(t, probabilities) for t in drawn], 95.0))


def reliability(targets: IntArray, probabilities: FloatArray, bins: int = 10) -> dict[str, list[dict[str, Any]]]:
    """For every class its bins: mean probability, observed share with its Wilson interval, count. Empty bins go."""
    return {str(c): _bins(probabilities[:, i], targets == i, bins) for i, c in enumerate(CLASS_ORDER)}


def fit_logit_scale(
    logits: FloatArray, classes: IntArray, log_prior: FloatArray, tau1: float, sample_prior: FloatArray | None = None
) -> float:
    """The s > 0 that makes softmax(s·z + tau1·log π) most likely: temperature scaling (Guo et al. 2017; T = 1/s).

    logits: z, (n, 3). log_prior: log π of the training population, (3,). sample_prior: class frequencies of these very
    cases where they were drawn otherwise (the paper's validation set has 13 of each class); None: as in training.
    """
    from scipy.optimize import minimize_scalar

    shift = tau1 * log_prior if sample_prior is None else (tau1 - 1.0) * log_prior + np.log(sample_prior)

    def loss(log_scale: float) -> float:
        adjusted = np.exp(log_scale) * logits + shift
        shifted = adjusted - adjusted.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return -float(log_p[np.arange(len(classes)), classes].mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_SCALE_BOUNDS, method="bounded").x))


def _gap(confidence: FloatArray, happened: NDArray[np.bool_], bins: int) -> float:
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    apart = np.bincount(index, weights=happened - confidence, minlength=bins)
    return float(np.abs(apart[counts > 0]).sum() / len(confidence))


def _bins(confidence: FloatArray, happened: NDArray[np.bool_], bins: int) -> list[dict[str, Any]]:
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return [
        {
            "mean_probability": float(confidence[index == b].mean()),
            "count": int(np.sum(index == b)),
            "observed": wilson(int(happened[index == b].sum()), int(np.sum(index == b))),
        }
        for b in range(bins)
        if np.any(index == b)
    ]
