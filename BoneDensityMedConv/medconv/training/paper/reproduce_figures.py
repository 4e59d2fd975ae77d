"""Our figures beside the paper's: the same five, in percent, with intervals over patients and the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from medconv.config import CLASS_ORDER
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts.crops import CropSet
from medconv.training.figures import baseline, metrics
from medconv.training.figures.choice import LogitReading, RunChoice, describe
from medconv.training.figures.intervals import bootstrap_weights, spreads, wilson, with_interval
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.sample import answers_of_run
from medconv.training.paper.paper_tables import FIGURES
from medconv.types import Adjustment, FloatArray

METRIC_OF: Mapping[str, str] = {
    "accuracy": "accuracy",
    "sensitivity": "balanced_accuracy",
    "specificity": "macro_specificity",
    "f1": "weighted_f1",
    "auc": "macro_auc",
}
RESAMPLES, RESAMPLES_OF_MANY, MANY = 1000, 300, 500
SIGNIFICANCE = 0.05
USUAL_DISAGREEMENT = 0.3  # assumed where fewer than two networks can be compared
Z_95 = 1.959964

# The forms of Table VI, by what they do to one network's logits z at a printed τ2.
FORMS: Mapping[str, str] = {
    "log_prior": "log prior: z + (τ1 − τ2)·log π",
    "temperature": "temperature (Eq. III-C): osteoporosis' logit / τ2",
    "legacy_test": "test script's sign: z + τ2·log π",
}


@dataclass(frozen=True)
class Patients:
    """The cases of a test set that every run answered, with the weights of their bootstrap resamples (R, n)."""

    case_ids: tuple[str, ...]
    classes: metrics.IntArray
    weights: FloatArray
    one_ct_each: bool

    @staticmethod
    def of(crops: CropSet, patient_of: Mapping[str, str]) -> Patients:
        """patient_of: patient by case id."""
        patients = [patient_of[case_id] for case_id in crops.case_ids]
        resamples = RESAMPLES if len(crops) <= MANY else RESAMPLES_OF_MANY
        weights = bootstrap_weights(crops.classes, patients, resamples, seed=0)
        return Patients(crops.case_ids, crops.classes, weights, len(set(patients)) == len(patients))


def raw(predictions: Predictions) -> FloatArray:
    """Softmax of the network's own logits, as the paper's rows without adjustment, shape (n, 3)."""
    z = predictions.logits - predictions.logits.max(axis=1, keepdims=True)
    return np.asarray(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))


def adjusted(predictions: Predictions, form: str, tau2: float) -> FloatArray:
    """Probabilities in one of FORMS at a τ2 of Table VI, shape (n, 3)."""
    tau1 = predictions.tau1_train if form == "log_prior" else 1.0
    return LogitReading.of(predictions).probabilities(predictions.logits, Adjustment(form, tau1, tau2))


def chosen(predictions: Predictions, choice: RunChoice) -> FloatArray:
    """Probabilities as the run's choice on validation shows them, shape (n, 3)."""
    return answers_of_run(predictions, choice).shown


def told_choices(choices: Sequence[RunChoice]) -> str:
    """The adjustments that validation chose, one a seed."""
    return "; ".join(dict.fromkeys(describe(choice.adjustment) for choice in choices))


def row_figures(patients: Patients, by_seed: Sequence[FloatArray]) -> dict[str, Any]:
    """The five figures in percent: mean over seeds with its interval over patients, SD over seeds, and each seed's.

    by_seed: probabilities (n, 3) of each seed's run. The interval resamples the same patients for all seeds; accuracy
    of one run on independent patients has Wilson's.
    """
    names = list(METRIC_OF.values())
    found = [spreads(patients.classes, p, patients.weights, names) for p in by_seed]
    figures: dict[str, Any] = {}
    for name in FIGURES:
        parts = [spread[METRIC_OF[name]] for spread in found]
        values = [part.value for part in parts]
        mean = with_interval(float(np.mean(values)), np.mean([part.resamples for part in parts], axis=0))
        if name == "accuracy" and len(parts) == 1 and patients.one_ct_each:
            right = int(np.sum(metrics.answers(by_seed[0]) == patients.classes))
            mean = wilson(right, len(patients.classes))
        figures[name] = {key: 100.0 * value for key, value in mean.items()}
        figures[name]["sd"] = 100.0 * float(np.std(values, ddof=1)) if len(values) > 1 else None
        figures[name]["by_seed"] = [100.0 * value for value in values]
    return figures


def references(
    training: CropSet, cases: CropSet, patients: Patients, model: CohortModel | None
) -> dict[str, dict[str, Any]]:
    """What a row must be seen beside: HU alone (the strongest reader) and, of a simulated cohort, the ideal reader.

    Both answer with all classes equally frequent.
    """
    found: dict[str, dict[str, Any]] = {}
    fitted_on = baseline.HuCases(training.median_hu, training.kvp, training.classes)
    if baseline.can_be_fitted(fitted_on) and np.isfinite(cases.median_hu).any():
        readers = baseline.hu_readers(fitted_on, cases.median_hu, cases.kvp)
        best = readers[baseline.strongest(readers)]
        found["hu"] = {"label": f"HU alone ({best.label})", "figures": row_figures(patients, [best.balanced])}
    if model is not None and np.isfinite(cases.signals).all():
        prior = np.array([model.class_prior()[c] for c in CLASS_ORDER])
        ideal = baseline.class_balanced(model.class_given_signal(cases.signals), prior)
        found["ideal"] = {"label": "Ideal reader of the image's signal", "figures": row_figures(patients, [ideal])}
    return found


def disagreement(patients: Patients, networks: Sequence[FloatArray]) -> float | None:
    """Mean over pairs of networks of the share of patients on whom just one of the two is right; None below two."""
    right = [metrics.answers(p) == patients.classes for p in networks]
    shares = [float(np.mean(a != b)) for a, b in combinations(right, 2)]
    return float(np.mean(shares)) if shares else None


def smallest_significant_difference(patients: int, disagreeing: float) -> float:
    """Points of accuracy from which on two networks on the same patients differ (exact McNemar, two-sided, 5 %).

    disagreeing: share of patients on whom just one of them is right. Infinite if no difference would do.
    """
    from scipy.stats import binomtest

    discordant = round(patients * disagreeing)
    for difference in range(discordant % 2, discordant + 1, 2):
        if binomtest((discordant - difference) // 2, max(discordant, 1)).pvalue < SIGNIFICANCE:
            return 100.0 * difference / patients
    return float("inf")


def smallest_unpaired_difference(first: int, second: int, accuracy: float) -> float:
    """The same for different patients, by the normal approximation at a common accuracy (0 to 1)."""
    return 100.0 * Z_95 * float(np.sqrt(accuracy * (1.0 - accuracy) * (1.0 / first + 1.0 / second)))
