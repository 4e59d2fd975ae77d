"""One table of the paper as one document, <table>.json: page, sheet and plot are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medconv import RESEARCH_USE_ONLY
from medconv.config import CLASS_ORDER
from medconv.report import versions
from medconv.training.cohorts.cases import SPLIT_NAMES, TEST, TRAIN, Cohort
from medconv.training.figures.choice import RunChoice
from medconv.training.figures.predictions import Predictions
from medconv.training.paper.paper_notes import notes_of
from medconv.training.paper.paper_runs import Budget, PlannedRow, PlannedRun
from medconv.training.paper.paper_tables import (
    FIG4,
    OUR_TEST_PATIENTS,
    PAPER_PER_CLASS,
    PAPER_TEST_PATIENTS,
    SOURCE,
    TOTALSEGMENTATOR,
    PaperTable,
)
from medconv.training.paper.reproduce import EXTRA, Data, Say, load_answers
from medconv.training.paper.reproduce_figures import (
    FORMS,
    USUAL_DISAGREEMENT,
    Patients,
    adjusted,
    chosen,
    disagreement,
    raw,
    references,
    row_figures,
    smallest_significant_difference,
    smallest_unpaired_difference,
    told_choices,
)
from medconv.types import FloatArray

MARKS = "abcdefghijklmnopqrstuvwxyz"
Reading = Callable[[Predictions, RunChoice], FloatArray]


def table_document(
    table: PaperTable, rows: Sequence[PlannedRow], data: Data, out: Path, budget: Budget, said: Sequence[str], say: Say
) -> dict[str, Any]:
    """All runs of the rows must be finished. said: sentences on how this was run, for the header."""
    splits = (TEST, EXTRA) if data.extra else (TEST,)
    sets = _Sets(data, splits, out)
    entries = []
    for place, planned in enumerate(rows):
        say(f"Figures of row {place + 1} of {len(rows)}", place / len(rows))
        entries.append(_row(table, planned, sets))
    networks = _distinct_answers(rows, sets, splits[-1])
    disagreeing = disagreement(sets.patients(rows[0].runs[0], splits[-1]), networks)
    return {
        **_head(table.key, table.title, data),
        "x": table.x,
        "budget": {"name": budget.name, "epochs": budget.epochs, "width": budget.width},
        "how": [*budget.told(), *said, *_left_out(data, rows[0].runs[0])],
        "seeds": len(rows[0].runs),
        "patients": {split: _counts(sets.patients(rows[0].runs[0], split).classes) for split in splits},
        "significance": _significance(disagreeing),
        "rows": entries,
        "references": {split: sets.references(rows[0].runs[0], split) for split in splits},
        "notes": _notes(table.key, rows, entries),
    }


def class_document(data: Data) -> dict[str, Any]:
    """Fig. 4: how many cases of each class, in the paper and here."""
    cohort = data.cohorts[TOTALSEGMENTATOR]
    here = {split: _case_counts(cohort, split) for split in SPLIT_NAMES}
    paper = {"validation": dict.fromkeys(map(str, CLASS_ORDER), PAPER_PER_CLASS)} | {
        "test": dict.fromkeys(map(str, CLASS_ORDER), PAPER_PER_CLASS)
    }
    paper["train"] = {str(c): n - 2 * PAPER_PER_CLASS for c, n in FIG4.items()}
    notes = [{"mark": "", "text": note.text, "rows": []} for note, _ in notes_of("fig4", ())]
    return {
        **_head("fig4", "Fig. 4: how frequent the classes are", data),
        "classes": {"paper": {split: paper[split] for split in SPLIT_NAMES}, "ours": here},
        "how": [],
        "notes": notes,
    }


class _Sets:
    """Answers and patients of every run, read once."""

    def __init__(self, data: Data, splits: Sequence[str], out: Path) -> None:
        self.data, self.splits, self.out = data, splits, out
        self._answers: dict[tuple[str, str], Predictions] = {}
        self._patients: dict[tuple[str, str, object], Patients] = {}

    def answers(self, run: PlannedRun, split: str) -> Predictions:
        key = (run.name, split)
        if key not in self._answers:
            self._answers[key] = load_answers(run, self.data, self.out, split)
        return self._answers[key]

    def choice(self, run: PlannedRun) -> RunChoice:
        return RunChoice.load(self.out / "runs" / run.name)

    def patients(self, run: PlannedRun, split: str) -> Patients:
        crops = self.data.crops(run.segmenter, split, run.settings.preprocessing)
        key = (run.segmenter, split, run.settings.preprocessing)
        if key not in self._patients:
            cohorts = self.data.extra if split == EXTRA else self.data.cohorts
            patient_of = {case.case_id: case.patient_id for case in cohorts[run.segmenter].cases}
            self._patients[key] = Patients.of(crops, patient_of)
        return self._patients[key]

    def figures(self, runs: Sequence[PlannedRun], reading: Reading) -> dict[str, Any]:
        """The five figures by split."""
        return {
            split: row_figures(
                self.patients(runs[0], split), [reading(self.answers(run, split), self.choice(run)) for run in runs]
            )
            for split in self.splits
        }

    def references(self, run: PlannedRun, split: str) -> dict[str, Any]:
        grid = run.settings.preprocessing
        cohort = self.data.extra[run.segmenter] if split == EXTRA else self.data.cohorts[run.segmenter]
        training = self.data.crops(run.segmenter, TRAIN, grid)
        cases = self.data.crops(run.segmenter, split, grid)
        return references(training, cases, self.patients(run, split), cohort.model)


def _row(table: PaperTable, planned: PlannedRow, sets: _Sets) -> dict[str, Any]:
    tau2 = planned.row.recipe.tau2
    entry: dict[str, Any] = {
        "label": planned.row.label,
        "recipe": asdict(planned.row.recipe),
        "runs": [run.name for run in planned.runs],
        "not_pretrained": planned.not_pretrained,
        "paper": asdict(planned.row.figures),
        "ours": sets.figures(planned.runs, _reading("log_prior", tau2)),
        "chosen": sets.figures(planned.runs, chosen),
        "validation_chose": told_choices([sets.choice(run) for run in planned.runs]),
        "forms": None,
    }
    if table.key == "table6":
        entry["forms"] = {form: sets.figures(planned.runs, _reading(form, tau2)) for form in FORMS}
    return entry


def _reading(form: str, tau2: float | None) -> Reading:
    if tau2 is None:
        return lambda predictions, _: raw(predictions)
    return lambda predictions, _: adjusted(predictions, form, tau2)


def _distinct_answers(rows: Sequence[PlannedRow], sets: _Sets, split: str) -> list[FloatArray]:
    """Raw answers of every training once, on the same patients."""
    runs = {run.name: run for row in rows for run in row.runs}
    first = sets.answers(rows[0].runs[0], split).case_ids
    found = [sets.answers(run, split) for run in runs.values()]
    return [raw(answers) for answers in found if answers.case_ids == first]


def _significance(disagreeing: float | None) -> dict[str, Any]:
    share = USUAL_DISAGREEMENT if disagreeing is None else disagreeing
    paired = {str(n): smallest_significant_difference(n, share) for n in (OUR_TEST_PATIENTS, PAPER_TEST_PATIENTS)}
    return {
        "disagreement": share,
        "measured": disagreeing is not None,
        "paired_points": {n: value if np.isfinite(value) else None for n, value in paired.items()},
        "unpaired_points": smallest_unpaired_difference(PAPER_TEST_PATIENTS, OUR_TEST_PATIENTS, 0.55),
    }


def _left_out(data: Data, run: PlannedRun) -> list[str]:
    """A sentence where cases have no crop, because the product would refuse them."""
    cohort, grid = data.cohorts[run.segmenter], run.settings.preprocessing
    gone = {s: len(cohort.part(s)) - len(data.crops(run.segmenter, s, grid)) for s in SPLIT_NAMES}
    told = ", ".join(f"{count} of {split}" for split, count in gone.items() if count)
    return [f"Left out, because their masks or CTs can't be measured: {told}."] if told else []


def _notes(table: str, rows: Sequence[PlannedRow], entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Footnotes with their marks; a note on the whole table has none. The rows get their marks."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        entry["marks"] = []
    for note, marked in notes_of(table, tuple(row.row for row in rows)):
        mark = MARKS[sum(bool(n["mark"]) for n in found)] if marked else ""
        for place in marked:
            entries[place]["marks"].append(mark)
        found.append({"mark": mark, "text": note.text, "rows": [entries[i]["label"] for i in marked]})
    return found


def _head(key: str, title: str, data: Data) -> dict[str, Any]:
    cohort = data.cohorts[TOTALSEGMENTATOR]
    return {
        "research_use": RESEARCH_USE_ONLY,
        "table": key,
        "title": title,
        "source": SOURCE,
        "cohort": {
            "name": cohort.name,
            "reference_standard": cohort.reference,
            "simulated": cohort.model is not None,
            "cases": {split: _case_counts(cohort, split) for split in SPLIT_NAMES},
        },
        "versions": versions(),
    }


def _case_counts(cohort: Cohort, split: str) -> dict[str, int]:
    return {str(c): sum(case.t_class == c for case in cohort.part(split)) for c in CLASS_ORDER}


def _counts(classes: Any) -> dict[str, int]:
    counts: Mapping[str, int] = {str(c): int(np.sum(classes == i)) for i, c in enumerate(CLASS_ORDER)}
    return dict(counts)
