"""The network beside other readers of the same patients: HU alone, and the ideal reader of a simulated cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from medconv.config import CLASS_ORDER
from medconv.simulate.cohort import CohortModel
from medconv.training.figures import intervals
from medconv.training.figures.baseline import HuReader, class_balanced, strongest
from medconv.training.figures.intervals import Spread
from medconv.training.figures.metrics import OSTEOPOROSIS, IntArray, answers
from medconv.types import FloatArray

DECISIVE = {"balanced_accuracy": "balanced accuracy", "osteoporosis_auc": "osteoporosis AUC"}


def compare_with_hu(
    targets: IntArray, network: FloatArray, readers: Mapping[str, HuReader], hu: FloatArray, weights: FloatArray,
    independent: bool,
) -> dict[str, Any]:  # fmt: skip
    """Each HU reader's figures and paired differences, on the patients whose HU could be measured.

    network: its probabilities as shown, (n, 3). weights: bootstrap, (R, n). independent: one CT a patient, so that
    McNemar's and DeLong's tests hold.
    """
    known = np.isfinite(hu)
    y, kept = targets[known], weights[:, known]
    own = intervals.spreads(y, network[known], kept)
    chosen = strongest(readers)
    compared = {}
    for name, reader in readers.items():
        compared[name] = {"label": reader.label} | _compare(own, intervals.spreads(y, reader.balanced[known], kept))
        if independent:
            compared[name] |= _tests(y, network[known], reader.balanced[known])
    found = compared[chosen]["network_minus_reader"]
    return {
        "cases": int(known.sum()),
        "without_hu": int((~known).sum()),
        "readers": compared,
        "strongest": chosen,
        "network": intervals.figures(own),
        "verdict": verdict(found, readers[chosen].label),
        "beaten": {name: bool(found[name]["low"] > 0) for name in DECISIVE},
    }


def verdict(differences: Mapping[str, Mapping[str, float]], reader: str) -> str:
    """In plain words: does the network beat this reader? It does in a figure whose whole interval lies above 0."""
    better = [label for name, label in DECISIVE.items() if differences[name]["low"] > 0]
    worse = [label for name, label in DECISIVE.items() if differences[name]["high"] < 0]
    figures = ", ".join(f"{label} {intervals.told(differences[name], signed=True)}" for name, label in DECISIVE.items())
    if worse:
        said = f"The network is worse than HU alone in {' and '.join(worse)}"
    elif len(better) == len(DECISIVE):
        said = "The network is better than HU alone"
    elif better:
        other = next(label for label in DECISIVE.values() if label not in better)
        said = f"The network is better than HU alone in {better[0]}, but does not beat it in {other}"
    else:
        said = "The network does not beat HU alone"
    return f"{said}. Network minus HU reader ({reader}), same patients, 95 % interval: {figures}."


def compare_with_ideal(
    targets: IntArray, network: FloatArray, signals: FloatArray, model: CohortModel, weights: FloatArray
) -> dict[str, Any]:
    """Of a simulated cohort: the Bayes ceiling, the ideal reader of z on these patients, and the network's shares.

    The ceiling's AUC and accuracy are those of the class mix of these patients.
    """
    prior = np.array([model.class_prior()[c] for c in CLASS_ORDER])
    ideal = class_balanced(model.class_given_signal(signals), prior)
    mix = {c: float(np.mean(targets == i)) for i, c in enumerate(CLASS_ORDER)}
    ceiling = asdict(model.bayes_ceiling(prior=mix))
    limits = {"balanced_accuracy": ceiling["balanced_accuracy"], "osteoporosis_auc": ceiling["auc_osteoporosis"]}
    own, best = intervals.spreads(targets, network, weights), intervals.spreads(targets, ideal, weights)
    return {
        "signal_correlation": model.signal_correlation,
        "ceiling": ceiling,
        "share_of_ceiling": {
            name: {key: value / limits[name] for key, value in own[name].interval().items()} for name in DECISIVE
        },
        "ideal_reader": _compare(own, best),
        "share_of_ideal_reader": {name: own[name].over(best[name]).interval() for name in DECISIVE},
    }


def _compare(network: Mapping[str, Spread], reader: Mapping[str, Spread]) -> dict[str, Any]:
    return {
        "metrics": intervals.figures(reader),
        "network_minus_reader": intervals.differences(network, reader),
    }


def _tests(targets: IntArray, network: FloatArray, reader: FloatArray) -> dict[str, Any]:
    """McNemar's for the right answers, DeLong's for the osteoporosis AUC."""
    right = [answers(p) == targets for p in (network, reader)]
    scores = [p[:, OSTEOPOROSIS] for p in (network, reader)]
    return {
        "mcnemar": intervals.mcnemar(right[0], right[1]),
        "delong_osteoporosis_auc": intervals.delong(targets == OSTEOPOROSIS, scores[0], scores[1]),
    }
