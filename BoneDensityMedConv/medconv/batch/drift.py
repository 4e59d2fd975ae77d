"""Does a batch look like what the weights were trained on? In figures, and in words with what to do about it.

Every comparison has its share of 5 % chance of a false alarm over all of them (Bonferroni); a difference beyond chance
is graded by its size, because in 100,000 CTs the smallest one is beyond chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from medconv.batch import drift_statistics as statistics
from medconv.batch.drift_words import ACQUISITION, CAN_NOT_JUDGE, CLASSES_REMEDY, QUANTITIES, Words
from medconv.population import NOT_TOLD, Population, Spread
from medconv.types import FloatArray

FALSE_ALARMS = 0.05  # of a batch of the training population, over all comparisons
FEW_CASES = 10
MOVED = 0.5  # all values moved if one side of the distance is less than half of the other
UNUSUAL_SHARE = 0.01  # values that training did not have are told from this share of the cases on


class Verdict(StrEnum):
    """How a batch compares with training in one respect."""

    ALIKE = "alike"  # no more apart than chance explains
    SMALL = "small"  # beyond chance, but small
    CLEAR = "clear"
    STRONG = "strong"
    TOO_FEW = "too_few"


@dataclass(frozen=True)
class Finding:
    """One respect in which a batch was compared. figures: plain numbers by name, for summary.json."""

    subject: str
    verdict: Verdict
    message: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_alarm(self) -> bool:
        return self.verdict in (Verdict.SMALL, Verdict.CLEAR, Verdict.STRONG)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": str(self.verdict)}


@dataclass(frozen=True)
class Batch:
    """The answered cases of a batch, each CT once. The names are those of `Population`."""

    quantities: Mapping[str, FloatArray]
    acquisition: Mapping[str, Mapping[str, int]]
    predicted: Mapping[str, int]

    @property
    def cases(self) -> int:
        return sum(self.predicted.values())


def compare(batch: Batch, population: Population | None) -> list[Finding]:
    """All findings, alarms first, the strongest of them first. A population of None can't be compared with."""
    if population is None:
        return [Finding("population", Verdict.TOO_FEW, CAN_NOT_JUDGE)]
    if batch.cases < FEW_CASES:
        few = f"{batch.cases} answered cases are too few to compare with training ({FEW_CASES} at least)."
        return [Finding("population", Verdict.TOO_FEW, few)]
    made = _comparisons(batch, population)
    alpha = FALSE_ALARMS / max(len(made), 1)
    order = list(Verdict)[::-1]
    return sorted((make(alpha) for make in made), key=lambda f: (not f.is_alarm, order.index(f.verdict)))


def unusual(batch: Batch, population: Population | None) -> list[Finding]:
    """Values of tube voltage and slice thickness that training did not have, in more than single cases."""
    findings: list[Finding] = []
    if population is None:
        return findings
    for name in ("kvp", "slice_thickness_mm"):
        known, here = population.acquisition.get(name, {}), batch.acquisition.get(name, {})
        strange = {value: n for value, n in here.items() if value != NOT_TOLD and not _within(value, known)}
        told, cases = _without_unknown(here), sum(strange.values())
        if not known or not strange or statistics.wilson(cases, sum(told.values()))[0] < UNUSUAL_SHARE:
            continue
        subject, unit, _ = ACQUISITION[name]
        message = (
            f"{subject} that training did not have: {_listed(strange, unit)} in {cases} of {sum(told.values())} CTs."
        )
        remedy = "Nothing is known about answers to such CTs: leave them out, or check them with DXA."
        findings.append(Finding(f"{name}_outside_training", Verdict.CLEAR, message, remedy, {"cases": cases}))
    return findings


def _comparisons(batch: Batch, population: Population) -> list[Callable[[float], Finding]]:
    """What can be compared: each a finding at its share of false alarms."""
    made: list[Callable[[float], Finding]] = []
    for name, words in QUANTITIES.items():
        values, trained_on = batch.quantities.get(name, np.zeros(0)), population.quantities.get(name)
        if trained_on is not None and len(values) >= FEW_CASES:
            made.append(partial(_quantity, name, words, values, trained_on))
    if population.predicted:
        made.append(partial(_classes, batch.predicted, population.predicted))
    for name in ACQUISITION:
        here = _without_unknown(batch.acquisition.get(name, {}))
        there = _without_unknown(population.acquisition.get(name, {}))
        if there and sum(here.values()) >= FEW_CASES:
            made.append(partial(_acquisition, name, here, there))
    return made


def _quantity(name: str, words: Words, values: FloatArray, trained_on: Spread, alpha: float) -> Finding:
    distance = statistics.compare(values, trained_on, alpha)
    index = statistics.stability_index(values, trained_on)
    here, there = float(np.median(values)), float(trained_on.at(0.5))
    smallest = statistics.smallest_shift(trained_on, distance.limit)
    figures = {
        "cases": len(values), "median": here, "median_in_training": there, "ks": distance.value,
        "ks_limit": distance.limit, "stability_index": index,
    }  # fmt: skip
    if math.isfinite(smallest):
        figures["smallest_shift_seen"] = smallest
    medians = f"median {words.form.format(here)} against {words.form.format(there)}, n = {len(values)}"
    if not distance.is_beyond_chance:
        text = f"{words.name} {_verb(words)} as in training ({medians})."
        if math.isfinite(smallest) and words.shifts:
            text += f" A shift of less than about {words.form.format(smallest)} would not show with so many CTs."
        return Finding(name, Verdict.ALIKE, text, figures=figures)
    verdict = _graded(index)
    how = _how(values, trained_on)
    text = f"{words.name} {_verb(words)} {_extent(verdict)}{how} than in training: {medians}."
    return Finding(name, verdict, text, words.remedy, figures)


def _classes(here: Mapping[str, int], there: Mapping[str, int], alpha: float) -> Finding:
    p, index = statistics.shares_differ(here, there), statistics.stability_index_of(here, there)
    cases, trained_on = sum(here.values()), sum(there.values())
    shares = [
        f"{name} {n / cases:.0%} ({low:.0%} to {high:.0%}) against {there.get(name, 0) / trained_on:.0%}"
        for name, n in here.items()
        for low, high in [statistics.wilson(n, cases)]
    ]
    figures = {"cases": cases, "p_value": p, "p_limit": alpha, "stability_index": index}
    told = ", ".join(shares) + f", n = {cases}."
    if p >= alpha:
        return Finding("classes", Verdict.ALIKE, f"Classes are given as often as in training: {told}", figures=figures)
    verdict = _graded(index)
    message = f"Classes are given {_extent(verdict)}in other shares than in training: {told}"
    return Finding("classes", verdict, message, CLASSES_REMEDY, figures)


def _acquisition(name: str, here: Mapping[str, int], there: Mapping[str, int], alpha: float) -> Finding:
    subject, unit, remedy = ACQUISITION[name]
    p, index = statistics.shares_differ(here, there), statistics.stability_index_of(here, there)
    figures = {"cases": sum(here.values()), "p_value": p, "p_limit": alpha, "stability_index": index}
    if name == "contrast_agent":
        share, trained = (source.get("named", 0) / sum(source.values()) for source in (here, there))
        told = f"named in {share:.0%} of the CTs against {trained:.0%} in training, n = {sum(here.values())}."
        text = {True: f"{subject} about as frequent as in training: {told}", False: f"{subject} {told}"}
    else:
        told = f"{_listed(here, unit)} here, {_listed(there, unit)} in training."
        text = {True: f"{subject} are as in training: {told}", False: f"{subject} differ from training: {told}"}
    if p >= alpha:
        return Finding(name, Verdict.ALIKE, text[True], figures=figures)
    return Finding(name, _graded(index), text[False], remedy, figures)


def _graded(index: float) -> Verdict:
    small, strong = statistics.INDEX_LIMITS
    return Verdict.SMALL if index < small else Verdict.CLEAR if index < strong else Verdict.STRONG


def _extent(verdict: Verdict) -> str:
    return {Verdict.SMALL: "slightly ", Verdict.STRONG: "much "}.get(verdict, "")


def _verb(words: Words) -> str:
    return "are" if words.name.startswith("The HU") else "is"


def _how(values: FloatArray, trained_on: Spread) -> str:
    """ "lower" or "higher"; where the shares of cases up to a value lie above and below training's, how they spread."""
    lower, higher = statistics.ks_sides(values, trained_on)
    if min(lower, higher) < MOVED * max(lower, higher):
        return "lower" if lower > higher else "higher"
    low, high = np.percentile(values, [25, 75])
    known_low, known_high = trained_on.at((0.25, 0.75))
    return "more spread out" if high - low > known_high - known_low else "closer together"


def _within(value: str, known: Mapping[str, int]) -> bool:
    """Whether a number lies between those of training."""
    numbers = [float(name) for name in known if name != NOT_TOLD]
    return bool(numbers) and min(numbers) <= float(value) <= max(numbers)


def _without_unknown(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if name != NOT_TOLD}


def _listed(counts: Mapping[str, int], unit: str, most: int = 4) -> str:
    """ "120 kVp 78 %, 100 kVp 13 %": the most frequent first."""
    total = sum(counts.values())
    listed = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    parts = [f"{name} {unit} {n / total:.0%}" for name, n in listed[:most]]
    return ", ".join(parts) + (f" and {len(listed) - most} others" if len(listed) > most else "")
