"""What `medconv train` says of a cohort, a run and a cross-validation."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medconv import RESEARCH_USE_ONLY

if TYPE_CHECKING:
    from medconv.training.cohorts.cases import Cohort
    from medconv.training.runs.run import TrainedRun

FOLDS = "folds.csv"


def print_cohort(cohort: Cohort, left_out: str) -> None:
    """How many CTs of which class and split; what was left out."""
    counts = Counter((str(case.split or "not split yet"), str(case.t_class)) for case in cohort.cases)
    print(f"{cohort.name}: {len(cohort.cases)} CTs, reference standard {cohort.reference}")
    for split in dict.fromkeys(split for split, _ in counts):
        print(f"  {split:<14}" + ", ".join(f"{n} {c}" for (s, c), n in sorted(counts.items()) if s == split))
    for text in [left_out, *(note.message for note in cohort.notes)]:
        if text:
            print(f"  {text}")


def print_run(out: Path, folder: Path, cohort: Cohort, trained: TrainedRun) -> None:
    """What was trained and chosen, where it is, and the next commands."""
    from medconv.training.figures.choice import RunChoice

    row = trained.rows[trained.epoch]
    print(
        f"Trained {len(trained.rows)} epochs; epoch {trained.epoch + 1} is kept: balanced accuracy on validation "
        f"{row.validation_balanced_accuracy:.3f} (n = {len(trained.predictions)})."
    )
    print(RunChoice.load(out).reason)
    print(f"Run: {out} (best.npz, log.csv, choice.json, predictions_validation.npz)")
    if cohort.part("test"):
        print(f"Next: medconv evaluate {out} {folder} --split test")
    print(f"      medconv weights export {out} --out {out.resolve().name}.npz")
    print(RESEARCH_USE_ONLY)


def _fold_figures(trained: TrainedRun) -> dict[str, Any]:
    from medconv.training.figures.metrics import osteoporosis_auc
    from medconv.training.runs.readout import softmax

    row = trained.rows[trained.epoch]
    answers = softmax(trained.predictions.logits)
    return {
        "epoch": row.epoch + 1,
        "validation_cases": len(trained.predictions),
        "validation_balanced_accuracy": row.validation_balanced_accuracy,
        "validation_osteoporosis_auc": osteoporosis_auc(trained.predictions.classes, answers),
    }


def write_folds(path: Path, found: Sequence[tuple[str, TrainedRun]]) -> None:
    """One row a fold as CSV."""
    from medconv.training.runs.run_folder import write_whole

    rows = [{"run": name, **_fold_figures(trained)} for name, trained in found]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def print_folds(out: Path, folder: Path, found: Sequence[tuple[str, TrainedRun]]) -> None:
    """Mean and spread over the folds, on validation."""
    figures = [_fold_figures(trained) for _, trained in found]
    for key, label in (
        ("validation_balanced_accuracy", "balanced accuracy"), ("validation_osteoporosis_auc", "osteoporosis AUC"),
    ):  # fmt: skip
        values = [figure[key] for figure in figures]
        print(f"{label} on validation: {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} (SD over folds)")
    print(f"Runs: {out} ({len(found)} folders, {FOLDS}); each fold's test part has not been read.")
    print(f"Next: medconv evaluate {out / found[0][0]} {folder} --split test, and so on")
    print(RESEARCH_USE_ONLY)
