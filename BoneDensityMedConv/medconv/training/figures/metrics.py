"""How good a classifier's answers are: the paper's five figures, and ordinal ones that it lacks.

All are computed for many weightings of the cases at once, so that a thousand bootstrap resamples cost as much as one
look with a library; tests compare them with scikit-learn and torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from medconv.config import CLASS_ORDER
from medconv.types import FloatArray

IntArray = NDArray[np.int64]
CLASSES = tuple(range(len(CLASS_ORDER)))  # normal, osteopenia, osteoporosis
OSTEOPOROSIS = 2


def answers(probabilities: FloatArray) -> IntArray:
    """The most probable class of every case, shape (n,); of equals the lower density, as `tscore.most_probable`."""
    return np.asarray(len(CLASSES) - 1 - probabilities[:, ::-1].argmax(axis=1), np.int64)


def confusions(targets: IntArray, answered: IntArray, weights: FloatArray) -> FloatArray:
    """Weighted counts, shape (R, 3, 3): rows truth, columns answer. weights: (R, n)."""
    cells = np.zeros((len(targets), len(CLASSES) ** 2))
    cells[np.arange(len(targets)), targets * len(CLASSES) + answered] = 1.0
    return np.asarray((weights @ cells).reshape(-1, len(CLASSES), len(CLASSES)))


def confusion_matrix(targets: IntArray, answered: IntArray) -> IntArray:
    """Counts, shape (3, 3): rows truth, columns answer."""
    return np.rint(confusions(targets, answered, np.ones((1, len(targets))))[0]).astype(np.int64)


def roc_auc(positive: NDArray[np.bool_], scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve by the Mann-Whitney count, ties half, shape (R,); NaN where a side is empty."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    with_it = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=1)
    without = np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=1)
    below = np.cumsum(without, axis=1) - 0.5 * without
    return _ratio((with_it * below).sum(axis=1), with_it.sum(axis=1) * without.sum(axis=1))


def accuracy_of(confusion: FloatArray) -> FloatArray:
    """Share of right answers at the cases' own class frequencies."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum(axis=(-2, -1)))


def recalls_of(confusion: FloatArray) -> FloatArray:
    """Sensitivity of every class, shape (R, 3); NaN for a class that no case has."""
    return _ratio(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1))


def specificities_of(confusion: FloatArray) -> FloatArray:
    """Specificity of every class against the rest, shape (R, 3)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=(-2, -1))[..., None]
    others = total - confusion.sum(axis=-1)
    return _ratio(others - (confusion.sum(axis=-2) - right), others)


def weighted_f1_of(confusion: FloatArray) -> FloatArray:
    """F1 weighted by class frequency, as the authors' code has it; 0 for a class neither there nor answered."""
    right, truth, told = (
        np.diagonal(confusion, axis1=-2, axis2=-1),
        confusion.sum(axis=-1),
        confusion.sum(axis=-2),
    )
    f1 = np.nan_to_num(_ratio(2.0 * right, truth + told))
    return _ratio((f1 * truth).sum(axis=-1), truth.sum(axis=-1))


def quadratic_kappa_of(confusion: FloatArray) -> FloatArray:
    """Cohen's kappa with quadratic weights (Cohen 1968): an error by two classes counts four times one by one class."""
    penalty = np.subtract.outer(np.array(CLASSES), np.array(CLASSES)) ** 2
    by_chance = confusion.sum(axis=-1)[..., :, None] * confusion.sum(axis=-2)[..., None, :]
    expected = _ratio((penalty * by_chance).sum(axis=(-2, -1)), confusion.sum(axis=(-2, -1)))
    return 1.0 - _ratio((penalty * confusion).sum(axis=(-2, -1)), expected)


def two_classes_off_of(confusion: FloatArray) -> FloatArray:
    """Share of patients called normal with osteoporosis, or the reverse."""
    return _ratio(confusion[..., 0, 2] + confusion[..., 2, 0], confusion.sum(axis=(-2, -1)))


# Name → from confusion matrices (..., 3, 3) to the figure (...).
OF_CONFUSION: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "balanced_accuracy": lambda confusion: np.nanmean(recalls_of(confusion), axis=-1),
    "accuracy": accuracy_of,
    "macro_specificity": lambda confusion: np.nanmean(specificities_of(confusion), axis=-1),
    "weighted_f1": weighted_f1_of,
    "quadratic_kappa": quadratic_kappa_of,
    "two_classes_off": two_classes_off_of,
}
LABELS: Mapping[str, str] = {
    "balanced_accuracy": "Balanced accuracy (macro sensitivity)",
    "accuracy": "Accuracy at the cases' own class frequencies",
    "macro_specificity": "Specificity (macro)",
    "weighted_f1": "F1 (weighted)",
    "macro_auc": "AUC (macro, one-versus-rest)",
    "osteoporosis_auc": "AUC osteoporosis against the rest",
    "quadratic_kappa": "Kappa (quadratic weights)",
    "two_classes_off": "Two classes off",
}


METRICS = tuple(LABELS)


def compute(
    targets: IntArray, probabilities: FloatArray, weights: FloatArray, names: Collection[str] = METRICS
) -> dict[str, FloatArray]:
    """Figures by name, one for each weighting of the cases, shape (R,). weights: (R, n)."""
    counts = confusions(targets, answers(probabilities), weights)
    found = {name: OF_CONFUSION[name](counts) for name in names if name in OF_CONFUSION}
    wanted = CLASSES if "macro_auc" in names else ((OSTEOPOROSIS,) if "osteoporosis_auc" in names else ())
    areas = {c: roc_auc(targets == c, probabilities[:, c], weights) for c in wanted}
    if "macro_auc" in names:
        found["macro_auc"] = np.mean(list(areas.values()), axis=0)
    if "osteoporosis_auc" in names:
        found["osteoporosis_auc"] = areas[OSTEOPOROSIS]
    return {name: found[name] for name in names}


def figure(name: str, targets: IntArray, probabilities: FloatArray) -> float:
    """One figure for the cases as they are; NaN where it is not defined."""
    return float(compute(targets, probabilities, np.ones((1, len(targets))), (name,))[name][0])


def balanced_accuracy(targets: IntArray, probabilities: FloatArray) -> float:
    """Mean of the classes' recalls: macro sensitivity. Logits serve as well as probabilities."""
    return figure("balanced_accuracy", targets, probabilities)


def osteoporosis_auc(targets: IntArray, probabilities: FloatArray) -> float:
    """AUC of osteoporosis against the rest."""
    return figure("osteoporosis_auc", targets, probabilities)


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient, NaN where there is nothing to divide by."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0))
