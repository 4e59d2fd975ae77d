"""Which classes can't be told apart for this patient: a set that holds the true one in a stated share of patients.

Ordinal conformal prediction: starting with the most probable class, the set grows to the more probable neighbour until
it holds more than a threshold of the probability (Lu, Angelopoulos and Pomerantz, MICCAI 2022). The threshold comes
with the weights; it was set on validation patients (`training.conformal`), so the coverage holds for patients like
these. The set grows from the answer that the weights' own adjustment gives, and does not move with tau.
"""

from __future__ import annotations

from collections.abc import Mapping

from medconv.config import CLASS_ORDER
from medconv.types import QualityNote, Severity, TScoreClass

NAMES = {
    (TScoreClass.NORMAL, TScoreClass.OSTEOPENIA): "normal or osteopenia",
    (TScoreClass.OSTEOPENIA, TScoreClass.OSTEOPOROSIS): "osteopenia or osteoporosis",
    CLASS_ORDER: "normal, osteopenia or osteoporosis",
}


def mass_before(probabilities: Mapping[TScoreClass, float]) -> dict[TScoreClass, float]:
    """How much probability the growing set holds when each class is reached: 0 for the most probable one.

    probabilities: with the weights' own adjustment, summing to 1. Of equals the lower density comes first.
    """
    p = [probabilities[c] for c in CLASS_ORDER]
    low = high = max(range(len(p)), key=lambda i: (p[i], i))
    found, mass = {CLASS_ORDER[low]: 0.0}, p[low]
    while high - low + 1 < len(p):
        take_denser = high + 1 == len(p) or (low > 0 and p[low - 1] > p[high + 1])
        low, high, added = (low - 1, high, low - 1) if take_denser else (low, high + 1, high + 1)
        found[CLASS_ORDER[added]] = mass
        mass = min(mass + p[added], 1.0)
    return found


def prediction_set(probabilities: Mapping[TScoreClass, float], threshold: float) -> tuple[TScoreClass, ...]:
    """The classes that remain possible, neighbours in CLASS_ORDER, never empty."""
    before = mass_before(probabilities)
    return tuple(c for c in CLASS_ORDER if before[c] <= threshold)


def set_notes(classes: tuple[TScoreClass, ...], alpha: float) -> list[QualityNote]:
    """A warning if more than one class remains possible."""
    if len(classes) < 2:
        return []
    return [
        QualityNote(
            "indeterminate",
            Severity.WARNING,
            f"Indeterminate, consider DXA: {NAMES[classes]} is possible (a set that held the true class in "
            f"{1 - alpha:.0%} of the validation patients).",
        )
    ]
