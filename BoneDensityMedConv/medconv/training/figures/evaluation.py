"""All figures of one set of cases as one document, evaluation.json: report, plots and model card are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from medconv import RESEARCH_USE_ONLY
from medconv.config import CLASS_ORDER
from medconv.report import versions
from medconv.training.figures import calibration, conformal, intervals, metrics
from medconv.training.figures.baseline import HuReader
from medconv.training.figures.choice import RunChoice
from medconv.training.figures.decision_curve import decision_curve
from medconv.training.figures.metrics import OSTEOPOROSIS, IntArray
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.reader_comparison import DECISIVE, compare_with_hu, compare_with_ideal
from medconv.training.figures.sample import Answers, Sample, at_own_mix
from medconv.types import FloatArray

RESAMPLES = 1000
MINIMUM_IN_GROUP = 5  # of each class


def evaluate(
    sample: Sample,
    answers: Answers,
    *,
    choice: RunChoice | None = None,
    conformal_choice: Mapping[str, Any] | None = None,
    readers: Mapping[str, HuReader] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The document. choice: None for weights or a table from elsewhere; conformal_choice: then of the weights' card.

    readers: HU readers' answers for these cases, None where there is no HU to compare with.
    """
    p, targets = sample.predictions, sample.predictions.classes
    weights = intervals.bootstrap_weights(targets, sample.patients, resamples, seed)
    judged, other_mix = at_own_mix(answers.natural, targets, answers.class_prior)
    document: dict[str, Any] = {
        "research_use": RESEARCH_USE_ONLY,
        "split": p.split,
        "cohort": sample.cohort,
        "reference_standard": sample.reference,
        "cases": len(p),
        "patients": len(set(sample.patients)),
        "cases_by_class": {str(c): int(np.sum(targets == i)) for i, c in enumerate(CLASS_ORDER)},
        "class_mix_differs_from_training": other_mix,
        "metrics": _figures(sample, answers.shown, weights),
        "by_class": _by_class(sample, answers.shown, weights),
        "confusion": _confusion(targets, answers.shown),
        "calibration": _calibration(targets, answers, judged, seed),
        "choice": None if choice is None else asdict(choice),
        "conformal": _conformal(targets, answers.shown, choice, conformal_choice),
        "osteoporosis_thresholds": None if choice is None else _thresholds(sample, answers.natural, choice, weights),
        "hu": None,
        "ideal": None,
        "versions": versions(),
    }
    has_hu = readers is not None and bool(np.isfinite(p.median_hu).any())
    if readers is not None and has_hu:
        document["hu"] = compare_with_hu(targets, answers.shown, readers, p.median_hu, weights, sample.one_ct_each)
    if sample.model is not None and np.isfinite(p.signals).all():
        document["ideal"] = compare_with_ideal(targets, answers.shown, p.signals, sample.model, weights)
    document["decision_curve"] = _decision(document["hu"], sample, answers, judged, readers, weights)
    strongest = readers[document["hu"]["strongest"]] if readers is not None and has_hu else None
    document["groups"] = _groups(sample, answers.shown, strongest, resamples, seed)
    document["t_score"] = _t_score(p)
    return document


def plain(value: Any) -> Any:
    """Plain JSON types: what is not defined (NaN) is null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures(sample: Sample, shown: FloatArray, weights: FloatArray) -> dict[str, dict[str, float]]:
    targets = sample.predictions.classes
    found = intervals.figures(intervals.spreads(targets, shown, weights))
    if sample.one_ct_each:  # shares of independent patients have an exact account
        answered = metrics.answers(shown)
        found["accuracy"] = intervals.wilson(int(np.sum(answered == targets)), len(targets))
        found["two_classes_off"] = intervals.wilson(int(np.sum(np.abs(answered - targets) == 2)), len(targets))
    return found


def _share(hits: Any, among: Any, weights: FloatArray, independent: bool) -> dict[str, float]:
    """A share of the cases `among`: Wilson for independent patients, else by resampling patients."""
    found = intervals.wilson(int(np.sum(hits & among)), int(np.sum(among)))
    if independent or not among.any():
        return found
    spread = weights @ (hits & among) / np.maximum(weights @ among, 1e-9)
    return intervals.with_interval(found["value"], spread)


def _by_class(sample: Sample, shown: FloatArray, weights: FloatArray) -> dict[str, Any]:
    targets, answered, alone = sample.predictions.classes, metrics.answers(shown), sample.one_ct_each
    found = {}
    for i, c in enumerate(CLASS_ORDER):
        there, told, scores = targets == i, answered == i, shown[:, i]
        once = metrics.roc_auc(there, scores, np.ones((1, len(targets))))[0]
        found[str(c)] = {
            "sensitivity": _share(told, there, weights, alone),
            "specificity": _share(~told, ~there, weights, alone),
            "positive_predictive_value": _share(there, told, weights, alone),
            "auc": intervals.with_interval(float(once), metrics.roc_auc(there, scores, weights)),
        }
    return found


def _confusion(targets: IntArray, shown: FloatArray) -> dict[str, Any]:
    counts = metrics.confusion_matrix(targets, metrics.answers(shown))
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {"counts": counts.tolist(), "row_shares": (counts / totals).tolist()}


def _calibration(targets: IntArray, answers: Answers, judged: FloatArray, seed: int) -> dict[str, Any]:
    before = None
    if answers.unscaled is not None:
        before = calibration.summary(targets, at_own_mix(answers.unscaled, targets, answers.class_prior)[0])
    return {
        "before_scaling": before,
        "after_scaling": calibration.summary(targets, judged),
        "as_shown": calibration.summary(targets, answers.shown),
        "ece_by_chance": calibration.ece_by_chance(judged, 200, seed),
        "reliability": calibration.reliability(targets, judged),
    }


def _conformal(
    targets: IntArray, shown: FloatArray, choice: RunChoice | None, of_card: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    if choice is None:
        if not of_card:
            return None
        sets = conformal.prediction_sets(shown, float(of_card["threshold"]))
        return {**of_card, "all_patients": conformal.coverage(targets, sets, float(of_card["alpha"]))}
    sets = conformal.prediction_sets(shown, choice.conformal_threshold)
    by_class = conformal.prediction_sets(shown, choice.class_thresholds)
    return {
        "alpha": choice.alpha,
        "threshold": choice.conformal_threshold,
        "class_thresholds": list(choice.class_thresholds),
        "all_patients": conformal.coverage(targets, sets, choice.alpha),
        "by_class": conformal.coverage(targets, by_class, choice.alpha),
    }


def _thresholds(sample: Sample, natural: FloatArray, choice: RunChoice, weights: FloatArray) -> dict[str, Any]:
    """The two thresholds of P(osteoporosis) that validation chose, on these cases."""
    there, alone = sample.predictions.classes == OSTEOPOROSIS, sample.one_ct_each
    found = {}
    for name, threshold in choice.decision_thresholds.items():
        sent = natural[:, OSTEOPOROSIS] >= threshold
        found[name] = {
            "threshold": threshold,
            "sensitivity": _share(sent, there, weights, alone),
            "specificity": _share(~sent, ~there, weights, alone),
            "positive_predictive_value": _share(there, sent, weights, alone),
            "negative_predictive_value": _share(~there, ~sent, weights, alone),
        }
    return found


def _decision(
    hu: Mapping[str, Any] | None, sample: Sample, answers: Answers, judged: FloatArray,
    readers: Mapping[str, HuReader] | None, weights: FloatArray,
) -> dict[str, Any]:  # fmt: skip
    targets = sample.predictions.classes
    if hu is None or readers is None:
        return decision_curve(targets, {"network": judged[:, OSTEOPOROSIS]}, weights)
    known = np.isfinite(sample.predictions.median_hu)
    name = hu["strongest"]
    of_hu = at_own_mix(readers[name].natural, targets, answers.class_prior)[0]
    curves = {"network": judged[known, OSTEOPOROSIS], name: of_hu[known, OSTEOPOROSIS]}
    return decision_curve(targets[known], curves, weights[:, known], against=name)


def _groups(
    sample: Sample, shown: FloatArray, strongest: HuReader | None, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Figures by sub-group; None where a class has too few cases there."""
    targets, rows = sample.predictions.classes, []
    for heading, values in sample.groups.items():
        for value in sorted(set(values) - {""}, key=_by_number):
            inside = np.array([v == value for v in values])
            counts = np.bincount(targets[inside], minlength=len(CLASS_ORDER))
            row: dict[str, Any] = {
                "group": heading,
                "value": value,
                "cases": int(inside.sum()),
                "cases_by_class": dict(zip(map(str, CLASS_ORDER), counts.tolist(), strict=True)),
                "metrics": None,
                "network_minus_hu": None,
            }
            if counts.min() >= MINIMUM_IN_GROUP:
                patients = [patient for patient, here in zip(sample.patients, inside, strict=True) if here]
                weights = intervals.bootstrap_weights(targets[inside], patients, resamples, seed)
                own = intervals.spreads(targets[inside], shown[inside], weights, tuple(DECISIVE))
                row["metrics"] = intervals.figures(own)
                if strongest is not None:
                    row["network_minus_hu"] = _against_hu(sample, shown, strongest, inside, resamples, seed)
            rows.append(row)
    return rows


def _by_number(value: str) -> tuple[float, str]:
    """80 kVp before 100 kVp; what begins with no number by its name."""
    first = value.split()[0]
    return (
        (float(first), value)
        if first.replace(".", "", 1).isdigit()
        else (math.inf if value.startswith("over") else 0.0, value)
    )


def _against_hu(
    sample: Sample, shown: FloatArray, reader: HuReader, inside: Any, resamples: int, seed: int
) -> dict[str, Any] | None:
    known = inside & np.isfinite(sample.predictions.median_hu)
    targets = sample.predictions.classes[known]
    if np.bincount(targets, minlength=len(CLASS_ORDER)).min() < MINIMUM_IN_GROUP:
        return None
    patients = [patient for patient, here in zip(sample.patients, known, strict=True) if here]
    weights = intervals.bootstrap_weights(targets, patients, resamples, seed)
    both = [intervals.spreads(targets, p[known], weights, tuple(DECISIVE)) for p in (shown, reader.balanced)]
    return intervals.differences(both[0], both[1])


def _t_score(predictions: Predictions) -> dict[str, Any]:
    """Correlations with the T-score, where it is known: of HU, and of a head that predicts it."""
    from scipy.stats import pearsonr

    found: dict[str, Any] = {}
    for name, values in (("hu", predictions.median_hu), ("predicted", predictions.predicted_t_scores)):
        known = np.isfinite(values) & np.isfinite(predictions.t_scores)
        if known.sum() < 10 or np.ptp(values[known]) == 0:
            continue
        r = pearsonr(values[known], predictions.t_scores[known])
        low, high = r.confidence_interval()
        found[name] = {
            "cases": int(known.sum()),
            "r": {"value": float(r.statistic), "low": float(low), "high": float(high)},
        }
        if name == "predicted":
            apart = values[known] - predictions.t_scores[known]
            found[name] |= {"bias": float(apart.mean()), "mae": float(np.abs(apart).mean()), "sd": float(apart.std())}
    return found
