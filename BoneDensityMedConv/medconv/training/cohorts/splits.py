"""Who trains, who validates, who tests: decided patient by patient, from a seed, whatever the order of the files.

`check_leaks` (see `leaks`) is run on what a person laid out; what is made here cannot leak by itself.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medconv.config import CLASS_ORDER
from medconv.training.cohorts.cases import SPLIT_NAMES, TEST, TRAIN, VALIDATION, Cohort, LabelledCase, LeftOut
from medconv.training.cohorts.leaks import check_leaks as check_leaks
from medconv.training.cohorts.leaks import check_patients
from medconv.types import InputRefused, TScoreClass, UsageError

SCANNER_MODES = ("ignore", "stratify")
ORDERS_TRIED = 50
NOWHERE = "left_out"  # in splits.csv: a case that is in no split
HELD_OUT, HELD_OUT_TEXT = "scanner_held_out", "another CT of a patient whose scanner is held out"
Cell = tuple[TScoreClass, str]  # class, and scanner where splits keep scanners in proportion


@dataclass(frozen=True)
class SplitPlan:
    """How to split: numbers of CTs per class (13: the paper's), or shares of each class (0.15).

    scanners: "stratify" gives each split every scanner's share of each class. hold_out: these scanners' CTs are the
    test set, whole, and nothing else is; `test` is not used then.
    """

    validation: float = 13
    test: float = 13
    seed: int = 0
    scanners: str = "ignore"
    hold_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scanners not in SCANNER_MODES:
            raise UsageError("scanners_unknown", f"'{self.scanners}' is no way to split.", f"One of {SCANNER_MODES}.")
        for amount in (self.validation, self.test):
            if amount < 0 or (amount >= 1 and amount != int(amount)):
                text = f"{amount:g} is neither a number of CTs per class nor a share below 1."
                raise UsageError("split_amount", text, "Give for example 13, or 0.15.")


@dataclass(frozen=True)
class Fold:
    """One fold of one repeat of cross-validation: the cohort with its splits set."""

    repeat: int
    number: int
    cohort: Cohort


def split_cohort(cohort: Cohort, plan: SplitPlan) -> Cohort:
    """The cohort with every case in a split; splits that it had are decided anew.

    All CTs of a patient go together. Numbers per class are met exactly or the plan is refused; shares are met as
    nearly as whole patients allow. Raises InputRefused ("too_few"): with the numbers of each class.
    """
    cases = sorted((replace(case, split=None) for case in cohort.cases), key=lambda case: case.case_id)
    if plan.scanners == "stratify" or plan.hold_out:
        _require_scanners(cases)
    rng = np.random.default_rng(plan.seed)
    left_out: list[LeftOut] = []
    chosen: dict[str, str] = {}  # patient → split
    if plan.hold_out:
        cases, left_out = _hold_out(cases, plan.hold_out, chosen)
    parts = [(VALIDATION, plan.validation)] if plan.hold_out else [(TEST, plan.test), (VALIDATION, plan.validation)]
    for split, amount in parts:
        _fill(cases, split, amount, plan.scanners == "stratify", chosen, rng)
    decided = tuple(replace(case, split=chosen.get(case.patient_id, TRAIN)) for case in cases)
    result = replace(cohort, cases=decided, left_out=(*cohort.left_out, *left_out))
    check_classes(result)
    return result


def cross_validation(
    cohort: Cohort, folds: int = 5, repeats: int = 1, seed: int = 0, *, keep_test: bool = False
) -> Iterator[Fold]:
    """Repeated, stratified, patient-wise cross-validation (scikit-learn's StratifiedGroupKFold).

    Fold k of `folds` is the test set, the next one validation, the others train; so every case is tested once a
    repeat, and nothing is ever chosen on it. keep_test: the cohort's own test set is not touched and is tested in
    every fold; fold k of the rest is validation. Raises InputRefused ("too_few").
    """
    from sklearn.model_selection import StratifiedGroupKFold

    cases = sorted(cohort.cases, key=lambda case: case.case_id)
    pool = [case for case in cases if not (keep_test and case.split == TEST)]
    least = 2 if keep_test else 3
    if folds < least or repeats < 1:
        raise UsageError(
            "folds_too_few", f"{folds} folds are too few.", f"Give {least} or more folds, 1 or more repeats."
        )
    _require_patients(pool, folds)
    classes = np.array([CLASS_ORDER.index(case.t_class) for case in pool])
    patients = np.array([case.patient_id for case in pool])
    for repeat in range(repeats):
        state = int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])
        divide = StratifiedGroupKFold(folds, shuffle=True, random_state=state)
        place = np.empty(len(pool), int)
        for number, (_, held_out) in enumerate(divide.split(classes, classes, patients)):
            place[held_out] = number
        for number in range(folds):
            validation = number if keep_test else (number + 1) % folds
            names = {number: TEST, validation: VALIDATION}
            splits = {c.case_id: names.get(int(place[i]), TRAIN) for i, c in enumerate(pool)}
            yield Fold(repeat, number, _with_splits(cohort, splits))


def check_classes(cohort: Cohort) -> None:
    """Raise InputRefused ("too_few") if a train or validation part that is there lacks one of the three classes."""
    for split in (TRAIN, VALIDATION):
        counts = Counter(case.t_class for case in cohort.part(split))
        missing = [str(c) for c in CLASS_ORDER if not counts[c]]
        if counts and missing:
            raise InputRefused(
                "too_few",
                f"The {split} part of {cohort.name} has no case of {' and '.join(missing)} ({_numbers(cohort.cases)}).",
                "Each class must be in it; collect more cases, or ask for fewer in the other splits.",
            )


def write_splits(path: Path, cohort: Cohort) -> None:
    """Every case's split as CSV (SubjectID, Split), by id, and who is in none; appears whole or not at all."""
    rows = [(case.case_id, case.split) for case in cohort.cases]
    rows += [(item.case_id, NOWHERE) for item in cohort.left_out if item.code == HELD_OUT]
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("SubjectID", "Split"))
        writer.writerows(sorted(rows))
    partial.replace(path)


def read_splits(path: Path, cohort: Cohort) -> Cohort:
    """The cohort with the splits of a file that `write_splits` wrote.

    Raises InputRefused if it can't be read, names a case that is not there, or lacks one; or if it leaks.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            splits = {row["SubjectID"]: row["Split"] for row in csv.DictReader(stream)}
    except (OSError, KeyError, ValueError) as error:
        text = f"{path.name} holds no splits ({error or type(error).__name__})."
        raise InputRefused("splits_unreadable", text, "Expected a CSV with SubjectID and Split.") from error
    ids = {case.case_id for case in cohort.cases}
    names = (*SPLIT_NAMES, NOWHERE)
    wrong = sorted(set(splits) ^ ids) + sorted(i for i, split in splits.items() if split not in names)
    if wrong:
        raise InputRefused(
            "splits_differ",
            f"{path.name} and the cohort differ in {len(wrong)} cases (or their split is none of "
            f"{', '.join(SPLIT_NAMES)}): {', '.join(wrong[:10])}.",
            "Use the splits that were made for this cohort, or split it anew. A cohort that the run never saw is "
            "evaluated with its packed weights: medconv weights export, then medconv evaluate COHORT --weights FILE.",
        )
    gone = tuple(LeftOut(case_id, HELD_OUT, HELD_OUT_TEXT) for case_id in ids if splits[case_id] == NOWHERE)
    kept = tuple(case for case in cohort.cases if splits[case.case_id] != NOWHERE)
    result = _with_splits(replace(cohort, cases=kept, left_out=(*cohort.left_out, *sorted(gone, key=str))), splits)
    check_patients(result.cases)
    return result


def _with_splits(cohort: Cohort, splits: Mapping[str, str]) -> Cohort:
    return replace(cohort, cases=tuple(replace(c, split=splits.get(c.case_id, c.split)) for c in cohort.cases))


def _hold_out(
    cases: Sequence[LabelledCase], scanners: Sequence[str], chosen: dict[str, str]
) -> tuple[list[LabelledCase], list[LeftOut]]:
    """Whole scanners to the test set; a tested patient's CTs from other scanners fit nowhere and are left out."""
    unknown = sorted(set(scanners) - {str(case.scanner) for case in cases})
    if unknown:
        present = ", ".join(sorted({str(case.scanner) for case in cases}))
        raise UsageError("scanner_unknown", f"There is no scanner {', '.join(unknown)}.", f"There are: {present}.")
    tested = {case.patient_id for case in cases if case.scanner in scanners}
    chosen.update(dict.fromkeys(tested, TEST))
    kept = [case for case in cases if case.scanner in scanners or case.patient_id not in tested]
    gone = [case for case in cases if case.scanner not in scanners and case.patient_id in tested]
    return kept, [LeftOut(case.case_id, HELD_OUT, HELD_OUT_TEXT) for case in gone]


def _fill(
    cases: Sequence[LabelledCase], split: str, amount: float, by_scanner: bool,
    chosen: dict[str, str], rng: np.random.Generator,
) -> None:  # fmt: skip
    """Take whole patients at random into `split` until every class (of every scanner) has its number of CTs.

    A patient whose CTs would be too many is passed over; where numbers must be exact and one patient too many was
    passed over, other orders are tried.
    """
    by_patient: dict[str, list[LabelledCase]] = {}
    for case in cases:
        by_patient.setdefault(case.patient_id, []).append(case)
    free = sorted(set(by_patient) - set(chosen))
    short: Counter[Cell] = Counter()
    for _ in range(ORDERS_TRIED):
        wanted = _wanted(cases, amount, by_scanner)
        taken = []
        for patient in (free[i] for i in rng.permutation(len(free))):
            brings = Counter(_cell(case, by_scanner) for case in by_patient[patient])
            if all(wanted[cell] >= n for cell, n in brings.items()):
                taken.append(patient)
                wanted -= brings
        short = wanted
        if not short or amount < 1:
            chosen.update(dict.fromkeys(taken, split))
            return
    (t_class, scanner), missing = short.most_common(1)[0]
    raise InputRefused(
        "too_few",
        f"{amount:g} cases of each class were asked for in {split}; {missing} of {t_class}"
        f"{f' (scanner {scanner})' if scanner else ''} are missing ({_numbers(cases)}).",
        "Ask for fewer, or for a share such as 0.15; all CTs of a patient must stay together.",
    )


def _wanted(cases: Sequence[LabelledCase], amount: float, by_scanner: bool) -> Counter[Cell]:
    """How many CTs of each class (and scanner) a split is to have."""
    wanted: Counter[Cell] = Counter()
    for t_class in CLASS_ORDER:
        of_class = [case for case in cases if case.t_class is t_class]
        total = int(amount) if amount >= 1 else max(round(amount * len(of_class)), 1 if amount else 0)
        cells = Counter(_cell(case, by_scanner) for case in of_class) or Counter({(t_class, ""): 1})
        exact = {cell: total * n / cells.total() for cell, n in sorted(cells.items())}
        rest = total - sum(int(share) for share in exact.values())
        largest = sorted(exact, key=lambda cell: (int(exact[cell]) - exact[cell], cell))[:rest]
        wanted.update({cell: int(share) + (cell in largest) for cell, share in exact.items()})
    return +wanted


def _cell(case: LabelledCase, by_scanner: bool) -> Cell:
    return case.t_class, str(case.scanner) if by_scanner else ""


def _require_scanners(cases: Sequence[LabelledCase]) -> None:
    without = [case.case_id for case in cases if case.scanner is None]
    if without:
        text = f"{len(without)} cases have no Scanner in the label sheet ({', '.join(without[:10])})."
        raise InputRefused("scanner_unknown", text, "Fill the column, or split without regard to scanners.")


def _require_patients(cases: Sequence[LabelledCase], folds: int) -> None:
    for t_class in CLASS_ORDER:
        patients = {case.patient_id for case in cases if case.t_class is t_class}
        if len(patients) < folds:
            raise InputRefused(
                "too_few",
                f"{len(patients)} patients with {t_class} are too few for {folds} folds ({_numbers(cases)}).",
                f"Give {max(len(patients), 0)} folds or fewer, or collect more cases.",
            )


def _numbers(cases: Sequence[LabelledCase]) -> str:
    counts = Counter(case.t_class for case in cases)
    return "in all: " + ", ".join(f"{counts[c]} {c}" for c in CLASS_ORDER)
