"""How good a classifier is: the paper's figures, calibration, and intervals. By scikit-learn where it can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from medconv.types import FloatArray

CLASSES = (0, 1, 2)  # indices in config.CLASS_ORDER: normal, osteopenia, osteoporosis
OSTEOPOROSIS = 2
Metric = Callable[[NDArray[np.int64], FloatArray], float]


def balanced_accuracy(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """Mean of the classes' recalls: macro sensitivity."""
    return float(metrics.balanced_accuracy_score(targets, probabilities.argmax(axis=1)))


def macro_specificity(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """Mean over classes of the specificity one-versus-rest."""
    confusion = metrics.multilabel_confusion_matrix(targets, probabilities.argmax(axis=1), labels=CLASSES)
    return float(np.mean(confusion[:, 0, 0] / confusion[:, 0].sum(axis=1)))


def weighted_f1(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """F1 weighted by class frequency, as the authors' code has it."""
    return float(metrics.f1_score(targets, probabilities.argmax(axis=1), average="weighted"))


def macro_auc(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """Area under the ROC curve, macro mean of one-versus-rest."""
    return float(metrics.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro", labels=CLASSES))


def osteoporosis_auc(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """AUC of osteoporosis against the rest."""
    return float(metrics.roc_auc_score(targets == OSTEOPOROSIS, probabilities[:, OSTEOPOROSIS]))


def accuracy(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """Share of right answers at the cohort's own class frequencies."""
    return float(metrics.accuracy_score(targets, probabilities.argmax(axis=1)))


def two_classes_off(targets: NDArray[np.int64], probabilities: FloatArray) -> float:
    """Share of patients called normal with osteoporosis, or the reverse."""
    return float(np.mean(np.abs(targets - probabilities.argmax(axis=1)) == 2))


def expected_calibration_error(targets: NDArray[np.int64], probabilities: FloatArray, bins: int = 15) -> float:
    """Mean gap between the top class's probability and how often it is right, over equal bins (Guo et al. 2017)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = [abs(right[index == b].mean() - confidence[index == b].mean()) * np.mean(index == b) for b in set(index)]
    return float(sum(gaps))


METRICS: dict[str, Metric] = {
    "balanced_accuracy": balanced_accuracy,
    "accuracy": accuracy,
    "macro_specificity": macro_specificity,
    "weighted_f1": weighted_f1,
    "macro_auc": macro_auc,
    "osteoporosis_auc": osteoporosis_auc,
    "two_classes_off": two_classes_off,
}


def evaluate(
    targets: NDArray[np.int64], probabilities: FloatArray, resamples: int = 500, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Every metric with its 95 % bootstrap interval: {name: {value, low, high}}. Patients are resampled in classes.

    targets: (n,) class indices. probabilities: (n, 3). Stratified resampling keeps every class present.
    """
    samples = bootstrap_indices(targets, resamples, seed)
    result = {}
    for name, metric in METRICS.items():
        spread = [metric(targets[i], probabilities[i]) for i in samples]
        low, high = np.percentile(spread, [2.5, 97.5])
        result[name] = {"value": metric(targets, probabilities), "low": float(low), "high": float(high)}
    return result


def paired_difference(
    metric: Metric, targets: NDArray[np.int64], first: FloatArray, second: FloatArray, resamples: int = 500,
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """`metric` of the first minus that of the second reader on the same patients, with its 95 % bootstrap interval."""
    samples = bootstrap_indices(targets, resamples, seed)
    spread = [metric(targets[i], first[i]) - metric(targets[i], second[i]) for i in samples]
    low, high = np.percentile(spread, [2.5, 97.5])
    return {"value": metric(targets, first) - metric(targets, second), "low": float(low), "high": float(high)}


def bootstrap_indices(targets: NDArray[np.int64], resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Stratified bootstrap: index arrays, each with every class as often as in `targets`."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(targets == c) for c in np.unique(targets)]
    return [np.concatenate([rng.choice(m, len(m)) for m in members]) for _ in range(resamples)]
