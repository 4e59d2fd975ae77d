"""`medconv cohort`: is a folder of patients fit to train from, and who trains, validates and tests?"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from medconv import RESEARCH_USE_ONLY, console
from medconv.command_line import Commands
from medconv.types import UsageError

if TYPE_CHECKING:
    from medconv.training.cohorts.cases import Cohort


def add_cohort(commands: Commands) -> None:
    p = commands.add_parser("cohort", help="check a folder of CTs and labels, and split it patient by patient")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="what is in it, what is left out, and whether patients or CTs leak")
    _add_folder(check)
    check.add_argument("--splits", type=Path, metavar="FILE", help="splits to check (default: COHORT/splits.csv)")
    check.set_defaults(run=run_check)
    split = actions.add_parser("split", help="write splits.csv: train, validation, test, or folds")
    _add_folder(split)
    split.add_argument("--validation", type=float, default=13, metavar="N", help="per class, or a share (default 13)")
    split.add_argument("--test", type=float, default=13, metavar="N", help="per class, or a share (default 13)")
    split.add_argument("--seed", type=int, default=0)
    split.add_argument("--by-scanner", action="store_true", help="each split gets every scanner's share")
    split.add_argument(
        "--hold-out", action="append", default=[], metavar="SCANNER", help="this scanner is the test set"
    )
    split.add_argument("--folds", type=int, metavar="K", help="cross-validation instead; one file a fold")
    split.add_argument("--repeats", type=int, default=1, metavar="N", help="of the cross-validation (default 1)")
    split.add_argument("--out", type=Path, metavar="FILE|DIR", help="default: COHORT/splits.csv, COHORT/folds")
    split.set_defaults(run=run_split)


def _add_folder(p: argparse.ArgumentParser) -> None:
    p.add_argument("cohort", type=Path, metavar="COHORT", help="folder of CTs with labels.xlsx or labels.csv")
    p.add_argument("--labels", type=Path, metavar="FILE", help="label sheet, if not COHORT/labels.xlsx or .csv")


def run_check(options: argparse.Namespace) -> int:
    """Read the cohort, compare its patients and CTs, and print what is in it. Raises InputRefused."""
    from medconv.training.cohorts.cohort_folder import read_cohort
    from medconv.training.cohorts.leaks import check_leaks

    try:
        cohort = read_cohort(options.cohort, options.labels, splits=options.splits, progress=console.say)
        check_leaks(cohort, progress=console.say)
    finally:
        console.clear()
    print(describe(cohort))
    print("No patient is in two splits, and no CT stands under two ids.")
    print(RESEARCH_USE_ONLY)
    return 0


def run_split(options: argparse.Namespace) -> int:
    """Decide the splits and write them. Raises InputRefused, UsageError."""
    from medconv.training.cohorts import splits
    from medconv.training.cohorts.cohort_folder import SPLITS, read_cohort

    try:
        cohort = read_cohort(options.cohort, options.labels, decided=False, progress=console.say)
    finally:
        console.clear()
    if options.folds is not None:
        if options.by_scanner or options.hold_out:
            raise UsageError("folds_by_scanner", "Folds don't know scanners.", "Leave out --by-scanner and --hold-out.")
        out = options.out or options.cohort / "folds"
        out.mkdir(parents=True, exist_ok=True)
        for fold in splits.cross_validation(cohort, options.folds, options.repeats, options.seed):
            file = out / f"repeat{fold.repeat + 1}_fold{fold.number + 1}.csv"
            splits.write_splits(file, fold.cohort)
            print(f"{file}\n{describe(fold.cohort)}")
        return 0
    scanners = "stratify" if options.by_scanner else "ignore"
    plan = splits.SplitPlan(options.validation, options.test, options.seed, scanners, tuple(options.hold_out))
    result = splits.split_cohort(cohort, plan)
    out = options.out or options.cohort / SPLITS
    splits.write_splits(out, result)
    print(f"{describe(result)}\nSplits: {out}")
    return 0


def describe(cohort: Cohort) -> str:
    """CTs, patients, classes and scanners of every split, as a table."""
    from medconv.config import CLASS_ORDER
    from medconv.training.cohorts.cases import SPLIT_NAMES

    rows = [("", "CTs", "patients", *map(str, CLASS_ORDER), "scanners")]
    for split in (*SPLIT_NAMES, None):
        cases = [case for case in cohort.cases if case.split == split]
        if not cases:
            continue
        classes = Counter(case.t_class for case in cases)
        scanners = Counter(case.scanner or "not told" for case in cases)
        told = ", ".join(f"{name} {n}" for name, n in sorted(scanners.items()))
        counts = (len(cases), len({case.patient_id for case in cases}), *(classes[c] for c in CLASS_ORDER))
        rows.append((split or "undecided", *map(str, counts), told))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:], strict=True)), row[-1]])
        for row in rows
    ]
    return "\n".join([f"{cohort.name}: labels by {cohort.reference}", *lines])
