"""What the quality summary keeps of every row of the table: counts and a few numbers a case."""

from __future__ import annotations

import heapq
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medconv import population, tau_adjustment
from medconv.batch.drift import Batch
from medconv.batch.jobs import Status
from medconv.config import CLASS_ORDER, ModelCard
from medconv.types import FloatArray

QUANTITIES = ("hu_mean", "hu_sd", "l1_volume_ml")
LOGITS = tuple(f"logit_{c}" for c in CLASS_ORDER)
SHOWN = 10  # cases listed by name, in every list
PER_CODE = 3  # examples of each code
# Notes that every case of these weights has say nothing about a case.
OF_EVERY_CASE = frozenset({"trained_on_simulated_ct", "simulated_ct"})
BETWEEN_CODES = re.compile(r"[\s,;|]+")


@dataclass
class Ended:
    """Cases without an answer, of one status and code. message, next_step: as one of them has it."""

    cases: int = 0
    message: str = ""
    next_step: str = ""
    examples: list[str] = field(default_factory=list)


@dataclass
class Rows:
    """All rows so far.

    copies: CTs that are there more than once, by the first one's id. undecided: answers whose prediction set holds
    every class. most_warned: (warnings, case id) of the SHOWN with most, as a heap. numbers, given, acquisition: of
    the answered CTs, each CT once.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    ended: defaultdict[tuple[str, str], Ended] = field(default_factory=lambda: defaultdict(Ended))
    notes: dict[str, Counter[str]] = field(default_factory=lambda: {"warnings": Counter(), "notes": Counter()})
    copies: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    levels_in_doubt: int = 0
    most_warned: list[tuple[float, str]] = field(default_factory=list)
    warned_about: dict[str, list[str]] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in (*QUANTITIES, *LOGITS)}
    )
    given: array[int] = field(default_factory=lambda: array("b"))
    acquisition: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in population.ACQUISITION}
    )

    def add(self, row: Mapping[str, Any]) -> None:
        """Take up one row, by `jobs.COLUMNS`."""
        case_id, status = str(row["case_id"]), str(row["status"])
        self.statuses[status] += 1
        if row.get("same_pixels_as"):
            self.copies[str(row["same_pixels_as"])] += 1
        if status != Status.OK:
            self._add_unanswered(case_id, status, row)
            return
        self.classes[str(row["t_score_class"])] += 1
        self.levels_in_doubt += is_true(row.get("level_in_doubt"))
        self.undecided += len(codes(row.get("prediction_set"))) == len(CLASS_ORDER)
        for kind, counter in self.notes.items():
            counter.update(set(codes(row.get(kind))) - OF_EVERY_CASE)
        warned = sorted(set(codes(row.get("warnings"))) - OF_EVERY_CASE)
        if warned and keep_largest(self.most_warned, len(warned), case_id):
            self.warned_about[case_id] = warned
            self._remember_page(case_id, row)
        if not row.get("same_pixels_as"):
            self._add_numbers(row)

    def _add_unanswered(self, case_id: str, status: str, row: Mapping[str, Any]) -> None:
        ended = self.ended[status, str(row.get("code") or "not told")]
        ended.cases += 1
        if not ended.examples or case_id < min(ended.examples):
            ended.message, ended.next_step = str(row.get("message") or ""), str(row.get("next_step") or "")
        ended.examples = sorted([*ended.examples, case_id])[: SHOWN if status == Status.SET_ASIDE else PER_CODE]
        if case_id in ended.examples:
            self._remember_page(case_id, row)

    def _add_numbers(self, row: Mapping[str, Any]) -> None:
        """A CT that is there twice counts once here."""
        for name, values in self.numbers.items():
            values.append(number(row.get(name)))
        self.given.append(list(CLASS_ORDER).index(row["t_score_class"]))
        agent = str(row.get("contrast_agent") or "")
        told = population.told(number(row.get("kvp")), number(row.get("slice_thickness_mm")), agent)
        for name, value in told.items():
            self.acquisition[name][value] += 1

    def _remember_page(self, case_id: str, row: Mapping[str, Any]) -> None:
        page = next((file for file in codes(row.get("files")) if file.endswith(".html")), "")
        if page:
            self.pages[case_id] = page

    def column(self, name: str) -> FloatArray:
        """A quantity of all answered CTs, each once; NaN where unknown."""
        return np.array(self.numbers[name], float)

    def batch(self, card: ModelCard) -> Batch:
        """For comparing with training: classes and probabilities by the weights' own adjustment."""
        quantities = {name: self.column(name) for name in QUANTITIES}
        quantities = {name: values[np.isfinite(values)] for name, values in quantities.items()}
        logits = np.column_stack([self.column(name) for name in LOGITS])
        logits = logits[np.isfinite(logits).all(axis=1)]
        probabilities = tau_adjustment.adjust_rows(
            logits,
            card.default_adjustment,
            class_prior=np.array([card.class_prior[c] for c in CLASS_ORDER]),
            is_minority=np.array([c in card.minority_classes for c in CLASS_ORDER]),
            tau1_train=card.tau1_train,
        )
        counts = np.bincount(probabilities.argmax(axis=1), minlength=len(CLASS_ORDER)).tolist()
        quantities |= {f"p_{c}": probabilities[:, i] for i, c in enumerate(CLASS_ORDER)}
        predicted = {str(c): n for c, n in zip(CLASS_ORDER, counts, strict=True)}
        return Batch(quantities, self.acquisition, predicted)


@dataclass
class Times:
    """Seconds by stage and memory over all cases that were worked on."""

    seconds: dict[str, array[float]] = field(default_factory=dict)
    peak_mb: array[float] = field(default_factory=lambda: array("d"))
    slowest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, case_id: str, measured: Mapping[str, float]) -> None:
        """Take up what was measured of one case; names that end in "_mb" are memory."""
        for name, value in measured.items():
            if not name.endswith("_mb"):
                self.seconds.setdefault(name, array("d")).append(float(value))
        if "peak_mb" in measured:
            self.peak_mb.append(float(measured["peak_mb"]))
        if "total" in measured:
            keep_largest(self.slowest, float(measured["total"]), case_id)


def keep_largest(heap: list[tuple[float, str]], measure: float, case_id: str, most: int = SHOWN) -> bool:
    """Keep the `most` largest; of equals, those first in the alphabet. True if this one is among them for now."""
    entry = (measure, _Last(case_id))
    if len(heap) < most:
        heapq.heappush(heap, entry)
        return True
    return heapq.heappushpop(heap, entry) is not entry


class _Last(str):
    """A name that sorts the other way round."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


def largest(heap: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """The largest first."""
    return [(measure, str(case_id)) for measure, case_id in sorted(heap, reverse=True)]


def codes(value: Any) -> list[str]:
    """The codes or files of a cell, which may be a sequence or text."""
    if value is None or value == "":
        return []
    return [part for part in BETWEEN_CODES.split(value) if part] if isinstance(value, str) else [str(v) for v in value]


def is_true(value: Any) -> bool:
    """A cell's yes or no."""
    return str(value).strip().lower() in ("true", "1", "yes")


def number(value: Any) -> float:
    """A cell's number, NaN where there is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
