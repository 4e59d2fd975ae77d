"""The sheet of labels: SubjectID with a DXA T-score or a WHO class, and what else is known of each CT.

Headings are found by tolerant names. Values are never guessed: what can be read in one way only is read (a decimal
comma, a number stored as text), all else is a problem, and all problems of a sheet are told at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medconv.training.cohorts import label_values as values
from medconv.training.cohorts.cases import SPLIT_NAMES
from medconv.training.cohorts.label_values import WHO_NUMBERING, Problem
from medconv.training.cohorts.sheet_table import Table, is_empty, read_tables
from medconv.tscore import classify
from medconv.types import InputRefused, QualityNote, Severity, TScoreClass

TOLD_AT_ONCE = 10
HEADING_SEARCH_ROWS = 10  # a title may stand above the headings
# Field → headings in lower case without spaces and signs; the first one found counts.
HEADINGS: Mapping[str, tuple[str, ...]] = {
    "subject": ("subjectid", "subject", "caseid", "case", "imageid", "scanid", "ctid", "filename", "file", "id"),
    "t_score": ("tscore", "dxatscore", "tscoredxa", "lumbartscore", "tscorelumbar", "tscorespine", "spinetscore"),
    "t_class": ("class", "whoclass", "whocategory", "who", "tscoreclass", "bmdclass", "diagnosis", "category"),
    "patient": ("patientid", "patient", "pid"),
    "kvp": ("kvp", "kv", "tubevoltage", "kvpeak"),
    "scanner": ("scanner", "scannermodel", "scannerid", "site", "hospital", "centre", "center"),
    "label": ("label", "l1label", "masklabel"),
    "split": ("split", "subset", "set"),
}
WHO_HEADINGS = ("whoclass", "whocategory", "who")
NEEDED = (
    "Expected a heading row with SubjectID and T-score (or Class); PatientID, kVp, Scanner, Label, Split may follow."
)


@dataclass(frozen=True)
class LabelRow:
    """One CT's labels. `row` is its place in the sheet, counted from 1. `t_score` is None where only the class is."""

    row: int
    subject_id: str
    patient_id: str
    t_class: TScoreClass
    t_score: float | None = None
    kvp: float | None = None
    scanner: str | None = None
    label: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class LabelSheet:
    """All rows in the sheet's order. `has_patients`: it has a PatientID column. `notes`: how something was read."""

    name: str
    rows: tuple[LabelRow, ...]
    has_patients: bool
    notes: tuple[QualityNote, ...] = ()


def read_labels(path: Path) -> LabelSheet:
    """Read an .xlsx or .csv sheet.

    Raises InputRefused: no sheet with the headings, a class coding that can't be known, or problems in cells, each
    with sheet, row and column (the first ten, and how many more). Raises MissingRequirement without openpyxl.
    """
    tables = read_tables(path)
    found = [(table, head) for table in tables if (head := _heading_row(table)) is not None]
    if not found:
        seen = "; ".join(
            f"{table.name + ': ' if table.name else ''}{', '.join(str(c) for c in table.rows[0] if not is_empty(c))}"
            for table in tables
        )
        raise InputRefused("labels_no_columns", f"{path.name} has no labels that can be found ({seen[:300]}).", NEEDED)
    if len(found) > 1:
        names = ", ".join(table.name for table, _ in found)
        raise InputRefused(
            "labels_ambiguous", f"{path.name} has {len(found)} sheets with labels: {names}.", "Keep one in the file."
        )
    return _Reader(path.name, *found[0]).read()


def normalised(heading: Any) -> str:
    """A heading in lower case, without what stands in brackets, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)|\[.*?\]", "", str(heading)).lower())


def _heading_row(table: Table) -> int | None:
    """Index of the row that holds an ID's heading and a T-score's or a class's."""
    for index, row in enumerate(table.rows[:HEADING_SEARCH_ROWS]):
        names = {normalised(cell) for cell in row if not is_empty(cell)}
        if names.intersection(HEADINGS["subject"]) and names.intersection(HEADINGS["t_score"] + HEADINGS["t_class"]):
            return index
    return None


class _Reader:
    """One sheet being read; collects problems, so that a person can mend them all at once."""

    def __init__(self, file: str, table: Table, head: int) -> None:
        self.where = f"{file}, sheet '{table.name}'" if table.name else file
        self.file, self.table, self.head = file, table, head
        self.headings = [str(cell).strip() if not is_empty(cell) else "" for cell in table.rows[head]]
        self.columns = self._find_columns()
        self.coding = self._class_coding()
        self.problems: list[str] = []
        self.first_row: dict[str, int] = {}
        self.as_text = 0

    def read(self) -> LabelSheet:
        rows: list[LabelRow] = []
        for number, cells in enumerate(self.table.rows[self.head + 1 :], start=self.head + 2):
            if all(is_empty(cell) for cell in cells):
                continue
            row = self._row(number, cells)
            if row is not None:
                rows.append(row)
        if not rows and not self.problems:
            raise InputRefused("labels_empty", f"{self.where} has headings and no rows.", "Fill it.")
        self._same_throughout(rows)
        if self.problems:
            raise self._refusal()
        return LabelSheet(self.file, tuple(rows), "patient" in self.columns, self._notes())

    def _find_columns(self) -> dict[str, int]:
        """Field → column index. Raises InputRefused if two columns could be the same field."""
        names = [normalised(heading) for heading in self.headings]
        columns: dict[str, int] = {}
        for field, wanted in HEADINGS.items():
            present = [i for i, name in enumerate(names) if name in wanted]
            best = min((wanted.index(names[i]) for i in present), default=0)
            meant = [i for i in present if names[i] == wanted[best]] if field == "subject" else present
            if len(meant) > 1:
                both = " and ".join(f"'{self.headings[i]}'" for i in meant)
                raise InputRefused(
                    "labels_ambiguous",
                    f"In {self.where}, {both} could both be the {HEADINGS[field][0]} column.",
                    "Rename or remove the one that is not meant.",
                )
            if meant:
                columns[field] = meant[0]
        return columns

    def _class_coding(self) -> Mapping[int, TScoreClass]:
        """What numbers in the class column mean, as its heading says; empty if it doesn't say."""
        if "t_class" not in self.columns:
            return {}
        heading = self.headings[self.columns["t_class"]]
        coding = values.coding_in(heading) or (WHO_NUMBERING if normalised(heading) in WHO_HEADINGS else {})
        column = self.columns["t_class"]
        cells = [row[column] for row in self.table.rows[self.head + 1 :] if column < len(row)]
        if not coding and (numbers := sorted({values.number(cell) for cell in cells if values.is_number(cell)})):
            raise InputRefused(
                "class_coding_unknown",
                f"In {self.where}, column '{heading}' holds numbers ({', '.join(f'{n:g}' for n in numbers[:5])}), and "
                "nothing says which class each of them is.",
                "Write normal, osteopenia, osteoporosis; or head the column with your own numbers, 'Class (0=normal, "
                "1=osteopenia, 2=osteoporosis)'; or 'WHO class' if 1 is normal, 2 osteopenia, 3 osteoporosis.",
            )
        return coding

    def _row(self, number: int, cells: tuple[Any, ...]) -> LabelRow | None:
        """One row, or None where the problems that were noted leave nothing to return."""
        before = len(self.problems)
        if any(not is_empty(cell) for cell in cells[len(self.headings) :]):
            self.problems.append(f"row {number} has more cells than there are headings (a decimal comma in a CSV?)")
        subject = self._value(number, cells, "subject", lambda cell: values.without_ending(values.identifier(cell)))
        patient = self._value(number, cells, "patient", values.identifier)
        t_score = self._value(number, cells, "t_score", values.t_score)
        named = self._value(number, cells, "t_class", lambda cell: values.t_class(cell, self.coding))
        kvp = self._value(number, cells, "kvp", values.kvp)
        label = self._value(number, cells, "label", values.label)
        split = self._value(number, cells, "split", values.split)
        scanner = self._value(number, cells, "scanner", values.identifier)
        if subject is None and len(self.problems) == before:
            self._problem(number, "subject", "is empty")
        if subject is not None and self.first_row.setdefault(subject, number) != number:
            self._problem(
                number, "subject", f"holds '{subject}', which stands in row {self.first_row[subject]} already"
            )
        if "patient" in self.columns and patient is None and len(self.problems) == before:
            self._problem(number, "patient", "is empty: whose CT is it?")
        t_class = named if t_score is None else classify(t_score)
        if t_class is None and len(self.problems) == before:
            field = "t_score" if "t_score" in self.columns else "t_class"
            self._problem(number, field, "is empty (or a formula whose value was not saved with the file)")
        if named is not None and t_class is not None and named is not t_class:
            text = f"says {named}, but a T-score of {t_score:g} is {t_class} (WHO: −1.0 is normal, −2.5 osteoporosis)"
            self._problem(number, "t_class", text)
        if len(self.problems) > before or subject is None or t_class is None:
            return None
        return LabelRow(number, subject, patient or subject, t_class, t_score, kvp, scanner, label, split)

    def _value(self, number: int, cells: tuple[Any, ...], field: str, read: Any) -> Any:
        """A field's value, None if its column or cell is empty or what is in it was noted as a problem."""
        column = self.columns.get(field)
        if column is None or column >= len(cells) or is_empty(cells[column]):
            return None
        try:
            value = read(cells[column])
        except Problem as problem:
            self._problem(number, field, str(problem))
            return None
        if isinstance(cells[column], str) and isinstance(value, float):
            self.as_text += 1
        return value

    def _same_throughout(self, rows: list[LabelRow]) -> None:
        """A split that stands in some rows only is a slip."""
        without = [row.row for row in rows if row.split is None]
        if "split" in self.columns and without and len(without) < len(rows):
            self._problem(without[0], "split", f"is empty here and in {len(without) - 1} more rows, but not in all")

    def _problem(self, row: int, field: str, text: str) -> None:
        column = self.columns.get(field)
        heading = HEADINGS[field][0] if column is None else self.headings[column]
        self.problems.append(f"row {row}, column '{heading}' {text}")

    def _refusal(self) -> InputRefused:
        told, more = self.problems[:TOLD_AT_ONCE], len(self.problems) - TOLD_AT_ONCE
        text = "; ".join(told) + (f"; and {more} more" if more > 0 else "")
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        return InputRefused("labels_wrong", f"{self.where} has {count}: {text}.", "Mend the sheet and start again.")

    def _notes(self) -> tuple[QualityNote, ...]:
        if not self.table.name or not self.as_text:  # in a CSV everything is text
            return ()
        text = f"{self.as_text} numbers of {self.where} are stored as text; they were read as numbers."
        return (QualityNote("numbers_as_text", Severity.INFO, text),)


assert set(values.SPLIT_WORDS.values()) == set(SPLIT_NAMES)
