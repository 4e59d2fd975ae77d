"""Predictions as a table: written beside every evaluation, and read from other tools so that these can be compared.

Columns to read, by tolerant headings: SubjectID with T-score or Class and, optionally, PatientID, kVp and Scanner, as
in a label sheet; p_normal, p_osteopenia, p_osteoporosis (probabilities), or logit_normal, …; and median_hu.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import CLASS_ORDER
from medconv.training.cohorts import label_values
from medconv.training.cohorts.label_sheet import HEADING_SEARCH_ROWS, TOLD_AT_ONCE, LabelSheet, normalised, read_labels
from medconv.training.cohorts.sheet_table import Table, is_empty, read_tables
from medconv.training.figures import metrics
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.sample import Answers, Sample
from medconv.types import FloatArray, InputRefused

NAN = float("nan")
SUM_TOLERANCE = 0.02  # probabilities are often written with two decimals
PROBABILITY = tuple((f"p{c}", f"prob{c}", f"probability{c}", str(c)) for c in CLASS_ORDER)
LOGIT = tuple((f"logit{c}",) for c in CLASS_ORDER)
HU = ("medianhu", "l1hu", "l1medianhu", "meanhu", "l1meanhu", "hu")


def write_table(path: Path, sample: Sample, answers: Answers, sets: NDArray[np.bool_] | None) -> None:
    """One case a line; `read_table` reads it again."""
    p, answered = sample.predictions, metrics.answers(answers.shown)
    head = [
        "SubjectID", "PatientID", "Class", "T-score", "median_hu", "kVp",
        *(f"p_{c}" for c in CLASS_ORDER), *(f"logit_{c}" for c in CLASS_ORDER), "answer", "prediction_set",
    ]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        for i, case in enumerate(p.case_ids):
            remaining = [] if sets is None else [str(c) for c, held in zip(CLASS_ORDER, sets[i], strict=True) if held]
            writer.writerow([
                case, sample.patients[i], CLASS_ORDER[p.classes[i]], _number(p.t_scores[i], 4),
                _number(p.median_hu[i], 2), _number(p.kvp[i], 1), *(f"{v:.6f}" for v in answers.shown[i]),
                *(_number(v, 6) for v in p.logits[i]), CLASS_ORDER[answered[i]], " or ".join(remaining),
            ])  # fmt: skip


def read_table(path: Path, reference: str) -> tuple[Sample, Answers]:
    """A table of another tool (or of `write_table`). Raises InputRefused naming rows and columns that are wrong."""
    sheet = read_labels(path)
    table, columns = _score_columns(path)
    shown, hu = _values(path, sheet, table, columns)
    kvp = np.array([row.kvp if row.kvp is not None else NAN for row in sheet.rows])
    predictions = Predictions(
        split="table",
        case_ids=tuple(row.subject_id for row in sheet.rows),
        classes=np.array([CLASS_ORDER.index(row.t_class) for row in sheet.rows], np.int64),
        t_scores=np.array([NAN if row.t_score is None else row.t_score for row in sheet.rows]),
        logits=np.log(np.maximum(shown, 1e-12)),
        median_hu=hu,
        kvp=kvp,
        signals=np.full(len(sheet.rows), NAN),
        predicted_t_scores=np.full(len(sheet.rows), NAN),
        class_prior=tuple(np.full(len(CLASS_ORDER), 1.0 / len(CLASS_ORDER)).tolist()),
        tau1_train=0.0,
    )
    groups = {
        "Tube voltage": tuple("" if math.isnan(v) else f"{v:g} kVp" for v in kvp.tolist()),
        "Scanner": tuple(row.scanner or "" for row in sheet.rows),
    }
    patients = tuple(row.patient_id for row in sheet.rows)
    return Sample(predictions, patients, reference, path.name, groups), Answers(shown, shown)


def _score_columns(path: Path) -> tuple[Table, dict[str, Sequence[int]]]:
    """The sheet with the scores, and where the scores and HU stand."""
    for table in read_tables(path):
        for row in table.rows[:HEADING_SEARCH_ROWS]:
            names = [normalised(cell) if not is_empty(cell) else "" for cell in row]
            for kind, wanted in (("probability", PROBABILITY), ("logit", LOGIT)):
                found = [next((names.index(n) for n in known if n in names), -1) for known in wanted]
                if min(found) >= 0:
                    hu = next((names.index(n) for n in HU if n in names), -1)
                    return table, {kind: found, "hu": [hu] if hu >= 0 else []}
    raise InputRefused(
        "scores_missing",
        f"{path.name} has no columns with three probabilities or logits.",
        "Expected p_normal, p_osteopenia, p_osteoporosis (or logit_normal, …) beside SubjectID and T-score or Class.",
    )


def _values(
    path: Path, sheet: LabelSheet, table: Table, columns: dict[str, Sequence[int]]
) -> tuple[FloatArray, FloatArray]:
    """Probabilities (n, 3) and HU (n,) of the sheet's rows; all problems are told at once."""
    kind = "probability" if "probability" in columns else "logit"
    rows, hu, problems = [], [], []
    for labelled in sheet.rows:
        cells = table.rows[labelled.row - 1]
        try:
            numbers = [label_values.number(_cell(cells, place)) for place in columns[kind]]
            rows.append(_softmax(numbers) if kind == "logit" else _checked(numbers))
            measured = [_cell(cells, place) for place in columns["hu"]]
            hu.append(label_values.number(measured[0]) if measured and not is_empty(measured[0]) else NAN)
        except label_values.Problem as problem:
            problems.append(f"row {labelled.row} {problem}")
    if problems:
        more = f"; and {len(problems) - TOLD_AT_ONCE} more" if len(problems) > TOLD_AT_ONCE else ""
        raise InputRefused(
            "scores_wrong", f"{path.name}: {'; '.join(problems[:TOLD_AT_ONCE])}{more}.", "Mend the table."
        )
    return np.array(rows), np.array(hu)


def _cell(cells: Sequence[Any], place: int) -> Any:
    cell = cells[place] if place < len(cells) else None
    return "" if cell is None else cell


def _checked(numbers: list[float]) -> list[float]:
    total = sum(numbers)
    if min(numbers) < 0 or max(numbers) > 1 + SUM_TOLERANCE or abs(total - 1.0) > SUM_TOLERANCE:
        raise label_values.Problem(f"has probabilities {', '.join(f'{v:g}' for v in numbers)}, which don't sum to 1")
    return [v / total for v in numbers]


def _softmax(numbers: list[float]) -> list[float]:
    powers = [math.exp(v - max(numbers)) for v in numbers]
    return [v / sum(powers) for v in powers]


def _number(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"
