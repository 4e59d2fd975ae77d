"""The one look at the test set: the network beside the HU-only reader and the ceiling, on the same patients."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from medconv.config import CLASS_ORDER
from medconv.simulate.cohort import CohortModel
from medconv.training.baseline import class_balanced, fit_cumulative_logit, to_120_kvp
from medconv.training.calibration import expected_calibration_error
from medconv.training.choice import LogitReading
from medconv.training.crops import CropSet
from medconv.training.intervals import bootstrap_weights, figures, paired_differences
from medconv.training.metrics import CLASSES
from medconv.types import Adjustment, FloatArray


def evaluate_network(
    logits: FloatArray, reading: LogitReading, adjustment: Adjustment, cases: CropSet, resamples: int
) -> dict[str, Any]:
    """The network's figures on one split, with the confusion matrix (rows: truth) and calibration."""
    probabilities = reading.probabilities(logits, adjustment)
    return {
        "cases": len(cases),
        "cases_by_class": {str(c): int(np.sum(cases.classes == i)) for i, c in enumerate(CLASS_ORDER)},
        "metrics": figures(cases.classes, probabilities, _weights(cases, resamples)),
        "confusion": confusion_matrix(cases.classes, probabilities.argmax(axis=1), labels=CLASSES).tolist(),
        "ece_at_cohort_prior": expected_calibration_error(cases.classes, reading.natural(logits)),
        "ece_as_shown": expected_calibration_error(cases.classes, probabilities),
    }


def compare_readers(
    network: FloatArray, training: CropSet, test: CropSet, cohort: CohortModel, resamples: int
) -> dict[str, Any]:
    """HU-only readers (fitted on the training set) and the ideal reader of z, with paired differences to the network.

    network: the network's adjusted probabilities on the test set. All readers answer class-balanced.
    """
    prior = np.array([np.mean(training.classes == c) for c in CLASSES])
    readers = {
        "hu_only": class_balanced(
            fit_cumulative_logit(training.median_hu, training.classes).probabilities(test.median_hu), prior
        ),
        "hu_only_kvp_corrected": class_balanced(
            fit_cumulative_logit(to_120_kvp(training.median_hu, training.kvp), training.classes).probabilities(
                to_120_kvp(test.median_hu, test.kvp)
            ),
            prior,
        ),
        "ideal_reader": class_balanced(
            cohort.class_given_signal(test.signals), np.array([cohort.class_prior()[c] for c in CLASS_ORDER])
        ),
    }
    weights = _weights(test, resamples)
    return {
        name: {
            "metrics": figures(test.classes, probabilities, weights),
            "network_minus_reader": paired_differences(
                test.classes, network, probabilities, weights, ("balanced_accuracy", "osteoporosis_auc")
            ),
        }
        for name, probabilities in readers.items()
    }


def _weights(cases: CropSet, resamples: int) -> FloatArray:
    return bootstrap_weights(cases.classes, [str(i) for i in range(len(cases))], resamples, seed=0)
