"""Sets of neighbouring classes with a promised coverage: split conformal prediction for ordered classes.

The score of a class is the probability that the growing set of `medconv.prediction_set` holds before that class is
reached; the threshold is the finite-sample quantile of the true classes' scores on validation (Vovk et al. 2005; Lu,
Angelopoulos and Pomerantz, MICCAI 2022). For patients exchangeable with these the set holds the true class in at least
1 − alpha of all; with a threshold for each class in at least 1 − alpha of the patients of each class, whatever the mix.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import CLASS_ORDER
from medconv.prediction_set import mass_before
from medconv.training.figures.intervals import wilson
from medconv.training.figures.metrics import CLASSES, IntArray
from medconv.types import FloatArray

ALPHA = 0.1


def class_scores(probabilities: FloatArray) -> FloatArray:
    """Score of every class of every case, shape (n, 3), by the product's own `prediction_set.mass_before`."""
    rows = (mass_before(dict(zip(CLASS_ORDER, row, strict=True))) for row in probabilities.tolist())
    return np.array([[before[c] for c in CLASS_ORDER] for before in rows]).reshape(-1, len(CLASSES))


def finite_sample_quantile(scores: FloatArray, alpha: float) -> float:
    """The ⌈(n + 1)(1 − alpha)⌉-th smallest score; 1, which every score stays below, where n is too small for it."""
    rank = math.ceil((len(scores) + 1) * (1.0 - alpha) - 1e-9)
    return 1.0 if rank > len(scores) else float(np.sort(scores)[rank - 1])


def fit_threshold(targets: IntArray, probabilities: FloatArray, alpha: float = ALPHA) -> float:
    """The threshold for all patients. probabilities: with the chosen adjustment, (n, 3)."""
    return finite_sample_quantile(class_scores(probabilities)[np.arange(len(targets)), targets], alpha)


def fit_class_thresholds(
    targets: IntArray, probabilities: FloatArray, alpha: float = ALPHA
) -> tuple[float, float, float]:
    """A threshold for each class from the patients who have it, in CLASS_ORDER."""
    scores = class_scores(probabilities)
    normal, osteopenia, osteoporosis = (finite_sample_quantile(scores[targets == c, c], alpha) for c in CLASSES)
    return normal, osteopenia, osteoporosis


def prediction_sets(probabilities: FloatArray, thresholds: float | tuple[float, float, float]) -> NDArray[np.bool_]:
    """Which classes remain possible, (n, 3), always neighbours and never none.

    thresholds: one for all, or one for each class; with these, a gap between two possible classes is filled.
    """
    possible = class_scores(probabilities) <= np.asarray(thresholds)
    possible[np.arange(len(possible)), probabilities.shape[1] - 1 - probabilities[:, ::-1].argmax(axis=1)] = True
    possible[:, 1] |= possible[:, 0] & possible[:, 2]
    return possible


def coverage(targets: IntArray, sets: NDArray[np.bool_], alpha: float) -> dict[str, Any]:
    """How often the sets hold the truth, overall and by class with Wilson intervals, and how large they are."""
    held = sets[np.arange(len(targets)), targets]
    sizes = sets.sum(axis=1)
    return {
        "promised": 1.0 - alpha,
        "overall": wilson(int(held.sum()), len(held)),
        "by_class": {
            str(name): wilson(int(held[targets == c].sum()), int(np.sum(targets == c)))
            for c, name in enumerate(CLASS_ORDER)
        },
        "mean_size": float(sizes.mean()),
        "sizes": {str(k): int(np.sum(sizes == k)) for k in (1, 2, 3)},
        "single_class": wilson(int(np.sum(sizes == 1)), len(sizes)),
        "single_class_right": wilson(int(held[sizes == 1].sum()), int(np.sum(sizes == 1))),
    }
