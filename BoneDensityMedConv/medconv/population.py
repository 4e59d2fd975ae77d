"""Whom weights were trained on, as plain numbers: what a batch of CTs is compared with (`batch.drift`).

Quantities have the names of the batch's table: "hu_mean", "hu_sd" (HU of the trabecular core), "l1_volume_ml" (of L1's
mask), "p_normal", "p_osteopenia", "p_osteoporosis".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medconv.types import FloatArray, TScoreClass

LEVELS = 101  # quantiles at every hundredth
DIGITS = 4
MEASURED = ("hu_mean", "hu_sd", "l1_volume_ml")
ACQUISITION = ("kvp", "slice_thickness_mm", "contrast_agent")
NOT_TOLD = "not told"


@dataclass(frozen=True)
class Spread:
    """How a quantity is distributed over `cases` cases: quantiles at equal steps of probability from 0 to 1."""

    cases: int
    quantiles: tuple[float, ...]

    @staticmethod
    def of(values: ArrayLike) -> Spread | None:
        """Of what is a number among the values; None if nothing is."""
        known = np.asarray(values, float)
        known = known[np.isfinite(known)]
        if not len(known):
            return None
        quantiles = np.quantile(known, np.linspace(0.0, 1.0, LEVELS))
        return Spread(len(known), tuple(float(f"{q:.{DIGITS}g}") for q in quantiles))

    def at(self, shares: ArrayLike) -> FloatArray:
        """The values that these shares of cases lie below (quantiles, 0 to 1)."""
        steps = np.linspace(0.0, 1.0, len(self.quantiles))
        return np.asarray(np.interp(np.asarray(shares, float), steps, self.quantiles))

    def share_below(self, values: ArrayLike) -> FloatArray:
        """The share of cases up to each value, by straight lines between the quantiles."""
        steps = np.linspace(0.0, 1.0, len(self.quantiles))
        return np.asarray(np.interp(np.asarray(values, float), self.quantiles, steps, left=0.0, right=1.0))


@dataclass(frozen=True)
class Population:
    """What weights were trained on.

    classes: training patients by class of the reference standard. quantities: by name, of the training patients.
    acquisition: for each of ACQUISITION, cases by value in words (`told`). predicted: cases by the class that the
    weights give with their own adjustment, and with the quantities "p_…" of patients who were not trained on.
    measured: on whom this was measured, in words.
    """

    classes: Mapping[str, int]
    quantities: Mapping[str, Spread] = field(default_factory=dict)
    acquisition: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)
    measured: str = ""

    @property
    def patients(self) -> int:
        """How many were trained on."""
        return sum(self.classes.values())

    def with_answers(self, probabilities: FloatArray) -> Population:
        """The same with what the weights answer: (n, 3), classes in the order of TScoreClass."""
        found = {f"p_{c}": Spread.of(probabilities[:, i]) for i, c in enumerate(TScoreClass)}
        counts = np.bincount(probabilities.argmax(axis=1), minlength=len(TScoreClass)).tolist()
        quantities = dict(self.quantities) | {name: spread for name, spread in found.items() if spread is not None}
        predicted = {str(c): n for c, n in zip(TScoreClass, counts, strict=True)}
        return replace(self, quantities=quantities, predicted=predicted)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Population:
        """Read what `dataclasses.asdict` made. Raises KeyError, TypeError or ValueError where it is not complete."""
        quantities = {}
        for name, entry in fields["quantities"].items():
            spread = Spread(int(entry["cases"]), tuple(float(q) for q in entry["quantiles"]))
            if len(spread.quantiles) < 2 or np.any(np.diff(spread.quantiles) < 0) or spread.cases < 1:
                raise ValueError(f"the quantiles of {name} must rise and stand for at least one case")
            quantities[name] = spread
        return Population(**{**fields, "quantities": quantities})


def describe(classes: Mapping[str, int], cases: Iterable[Mapping[str, Any]], measured: str) -> Population:
    """A population from its cases' measurements: by MEASURED (numbers, NaN where unknown) and ACQUISITION (words)."""
    listed = list(cases)
    spreads = {name: Spread.of([case.get(name, np.nan) for case in listed]) for name in MEASURED}
    counts = {name: Counter(str(case.get(name, NOT_TOLD)) for case in listed) for name in ACQUISITION}
    return Population(
        classes=dict(classes),
        quantities={name: spread for name, spread in spreads.items() if spread is not None},
        acquisition={name: dict(sorted(count.items(), key=_by_number)) for name, count in counts.items()},
        measured=measured,
    )


def told(kvp: float | None, slice_thickness_mm: float | None, contrast_agent: str | None) -> dict[str, str]:
    """What a file says of how it was made, as `Population.acquisition` counts it.

    Voltages to 1 kVp, thicknesses to 0.01 mm. Only a file that tells its voltage can be trusted to tell of contrast.
    """
    silent = NOT_TOLD if kvp is None or not np.isfinite(kvp) else "not named"
    return {
        "kvp": _number(kvp, 0),
        "slice_thickness_mm": _number(slice_thickness_mm, 2),
        "contrast_agent": "named" if contrast_agent else silent,
    }


def _number(value: float | None, digits: int) -> str:
    return NOT_TOLD if value is None or not np.isfinite(value) else f"{round(value, digits):g}"


def _by_number(entry: tuple[str, int]) -> tuple[float, str]:
    try:
        return float(entry[0]), ""
    except ValueError:
        return float("inf"), entry[0]
