"""WHO T-score classes: their limits, their names, and whom they apply to.

Source of the limits: WHO Technical Report Series 843 (1994). T = −1.0 is normal and T = −2.5 is osteoporosis: the
boundary values belong to these classes as written. The classes apply to postmenopausal women and to men over 50.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from medconv.config import CLASS_ORDER
from medconv.types import Acquisition, QualityNote, Severity, TScoreClass

NORMAL_FROM = -1.0
OSTEOPOROSIS_UP_TO = -2.5
WHO_MINIMUM_AGE_YEARS = 50
# L1 trabecular HU, 120 kVp without contrast, against DXA (Pickhardt 2013, n = 1867): at or below 110 HU over 90 %
# specific for osteoporosis; above 200 HU a negative predictive value of 99 %.
LOW_ATTENUATION_HU = 110.0
HIGH_ATTENUATION_HU = 200.0

LABELS: Mapping[TScoreClass, str] = {
    TScoreClass.NORMAL: "Normal (T-score −1.0 or above)",
    TScoreClass.OSTEOPENIA: "Osteopenia (T-score between −2.5 and −1.0)",
    TScoreClass.OSTEOPOROSIS: "Osteoporosis (T-score −2.5 or below)",
}
# Codes of the notes without which the class must not be read: they stand directly under it, in this order.
OUTSIDE_SCOPE, INDETERMINATE, DISAGREEMENT = "outside_who_scope", "indeterminate", "network_and_attenuation_disagree"
QUALIFYING = (OUTSIDE_SCOPE, INDETERMINATE, DISAGREEMENT)


def classify(t_score: float) -> TScoreClass:
    """WHO class of a DXA T-score. Raises ValueError if it isn't a finite number."""
    if not math.isfinite(t_score):
        raise ValueError(f"a T-score must be a finite number, got {t_score}")
    if t_score >= NORMAL_FROM:
        return TScoreClass.NORMAL
    return TScoreClass.OSTEOPOROSIS if t_score <= OSTEOPOROSIS_UP_TO else TScoreClass.OSTEOPENIA


def most_probable(probabilities: Mapping[TScoreClass, float]) -> TScoreClass:
    """The class with the highest probability; of equals, the one with the lower density, which is the safer error."""
    return max(reversed(CLASS_ORDER), key=lambda c: probabilities[c])


def headline(t_score_class: TScoreClass, codes: Collection[str], possible: Collection[str] = ()) -> str:
    """The class with its T-scores; where a note qualifies it, with what that note says in its place.

    codes: of all notes on the answer. possible: the classes that remain possible, or none if that is not known.
    """
    others = [str(c) for c in possible if c != t_score_class]
    parts = {
        INDETERMINATE: f"or {' or '.join(others)}" if others else "indeterminate",
        OUTSIDE_SCOPE: "but WHO classes do not apply",
        DISAGREEMENT: "but the attenuation disagrees",
    }
    added = [words for code, words in parts.items() if code in codes]
    return ", ".join([t_score_class.capitalize(), *added]) if added else LABELS[t_score_class]


def scope_notes(acquisition: Acquisition) -> list[QualityNote]:
    """Whether WHO classes apply to this person, as far as the file tells."""
    age = acquisition.patient_age_years
    if age is not None and age < WHO_MINIMUM_AGE_YEARS:
        return [
            QualityNote(
                OUTSIDE_SCOPE,
                Severity.WARNING,
                f"Age {age}: WHO T-score classes apply to postmenopausal women and to men over 50. Read the "
                "attenuation, not the class.",
            )
        ]
    return []


def agreement_notes(t_score_class: TScoreClass, mean_hu: float, vertebra: str = "L1") -> list[QualityNote]:
    """A warning if the network's class and the vertebra's attenuation point to opposite ends of the scale."""
    low_but_normal = t_score_class is TScoreClass.NORMAL and mean_hu <= LOW_ATTENUATION_HU
    high_but_osteoporosis = t_score_class is TScoreClass.OSTEOPOROSIS and mean_hu > HIGH_ATTENUATION_HU
    if not (low_but_normal or high_but_osteoporosis):
        return []
    usual = "osteoporosis" if low_but_normal else "normal density"
    return [
        QualityNote(
            DISAGREEMENT,
            Severity.WARNING,
            f"Indeterminate, consider DXA: the network says {t_score_class}, but {mean_hu:.0f} HU in {vertebra} is "
            f"usual for {usual} (Pickhardt 2013, L1).",
        )
    ]
