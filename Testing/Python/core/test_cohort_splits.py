"""Splits and leaks: patients stay together, numbers are met, the seed decides and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core.cohort_writer import T_SCORES, l1_case, named_cohort, write_case, write_cohort, write_csv, write_image
from core.phantom import Phantom

from medconv.cli import main
from medconv.training.cohorts.cases import SPLIT_NAMES, TEST, TRAIN, VALIDATION, Cohort
from medconv.training.cohorts.cohort_folder import read_cohort
from medconv.training.cohorts.leaks import check_leaks, check_patients, fingerprint
from medconv.training.cohorts.splits import (
    SplitPlan,
    check_classes,
    cross_validation,
    read_splits,
    split_cohort,
    write_splits,
)
from medconv.types import InputRefused, TScoreClass, UsageError

PAPER = {"normal": 207, "osteopenia": 136, "osteoporosis": 46}


def paper_cohort() -> Cohort:
    """389 patients in the paper's classes."""
    t_scores = {}
    for t_score, (name, count) in zip(T_SCORES, PAPER.items(), strict=True):
        t_scores |= {f"{name}-{i:03}": t_score for i in range(count)}
    return named_cohort(t_scores)


def visits_cohort(patients: int = 60) -> Cohort:
    """One to three CTs a patient, three scanners, some patients on two of them."""
    rng = np.random.default_rng(1)
    t_scores, patient_id, scanner = {}, {}, {}
    for patient in range(patients):
        for visit in range(int(rng.integers(1, 4))):
            case_id = f"p{patient:02}-{visit}"
            t_scores[case_id] = T_SCORES[(patient + (visit == 2)) % 3]
            patient_id[case_id] = f"p{patient:02}"
            scanner[case_id] = "ABC"[(patient // 3 + (visit == 1 and patient % 7 == 0)) % 3]
    return named_cohort(t_scores, patient_id=patient_id, scanner=scanner)


def counts(cohort: Cohort, split: str) -> dict[str, int]:
    return {str(c): n for c, n in Counter(case.t_class for case in cohort.part(split)).items()}


def splits_of(cohort: Cohort) -> dict[str, str | None]:
    return {case.case_id: case.split for case in cohort.cases}


def assert_patients_stay_together(cohort: Cohort) -> None:
    places: dict[str, set] = {}
    for case in cohort.cases:
        places.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(found) == 1 for found in places.values())


def test_the_papers_split_has_its_numbers() -> None:
    cohort = split_cohort(paper_cohort(), SplitPlan(validation=13, test=13, seed=3))
    even = dict.fromkeys(PAPER, 13)
    assert counts(cohort, VALIDATION) == even
    assert counts(cohort, TEST) == even
    assert counts(cohort, TRAIN) == {"normal": 181, "osteopenia": 110, "osteoporosis": 20}


def test_the_seed_decides_and_the_order_of_the_files_does_not() -> None:
    cohort = visits_cohort()
    shuffled = replace(
        cohort, cases=tuple(cohort.cases[i] for i in np.random.default_rng(0).permutation(len(cohort.cases)))
    )
    for plan in (SplitPlan(5, 5, 1), SplitPlan(0.2, 0.2, 1, "stratify"), SplitPlan(3, 5, 1, hold_out=("B",))):
        assert splits_of(split_cohort(cohort, plan)) == splits_of(split_cohort(shuffled, plan))
        assert splits_of(split_cohort(cohort, plan)) != splits_of(split_cohort(cohort, replace(plan, seed=2)))
    folds = [splits_of(fold.cohort) for fold in cross_validation(cohort, 4, 2, seed=5)]
    assert folds == [splits_of(fold.cohort) for fold in cross_validation(shuffled, 4, 2, seed=5)]


def test_all_cts_of_a_patient_go_together_and_numbers_are_still_exact() -> None:
    for seed in range(5):
        cohort = split_cohort(visits_cohort(), SplitPlan(validation=6, test=7, seed=seed))
        assert_patients_stay_together(cohort)
        assert set(counts(cohort, VALIDATION).values()) == {6}
        assert set(counts(cohort, TEST).values()) == {7}


def test_patients_with_several_cts_are_not_preferred() -> None:
    cohort = visits_cohort(150)
    visits = Counter(case.patient_id for case in cohort.cases)
    overall = np.mean(list(visits.values()))
    tested = [visits[c.patient_id] for s in range(30) for c in _one_a_patient(split_cohort(cohort, SplitPlan(9, 9, s)))]
    assert np.mean(tested) == pytest.approx(overall, abs=0.3)  # of 1 to 3; the last places need few CTs


def _one_a_patient(cohort: Cohort) -> list:
    return list({case.patient_id: case for case in cohort.part(TEST)}.values())


def test_shares_of_each_class_are_met_as_nearly_as_patients_allow() -> None:
    cohort = split_cohort(paper_cohort(), SplitPlan(validation=0.15, test=0.2, seed=0))
    assert counts(cohort, TEST) == {name: round(0.2 * n) for name, n in PAPER.items()}
    assert counts(cohort, VALIDATION) == {name: round(0.15 * n) for name, n in PAPER.items()}


def test_stratified_by_scanner_every_split_has_each_scanners_share() -> None:
    base = paper_cohort()
    scanner = {case.case_id: "A" if i % 4 else "B" for i, case in enumerate(base.cases)}
    cohort = replace(base, cases=tuple(replace(c, scanner=scanner[c.case_id]) for c in base.cases))
    result = split_cohort(cohort, SplitPlan(validation=12, test=12, seed=0, scanners="stratify"))
    for split in (VALIDATION, TEST):
        found = Counter((case.t_class, case.scanner) for case in result.part(split))
        assert found == {(c, s): n for c in TScoreClass for s, n in (("A", 9), ("B", 3))}


def test_a_scanner_that_is_held_out_is_the_test_set_and_its_patients_are_nowhere_else() -> None:
    cohort = visits_cohort()
    result = split_cohort(cohort, SplitPlan(validation=4, seed=0, hold_out=("C",)))
    assert {case.scanner for case in result.part(TEST)} == {"C"}
    assert len(result.part(TEST)) == sum(case.scanner == "C" for case in cohort.cases)
    assert_patients_stay_together(result)
    gone = {item.case_id for item in result.left_out if item.code == "scanner_held_out"}
    on_both = {c.patient_id for c in cohort.cases if c.scanner == "C"}
    assert gone == {c.case_id for c in cohort.cases if c.scanner != "C" and c.patient_id in on_both}
    assert gone, "the cohort must have patients on two scanners, or this tests nothing"
    with pytest.raises(UsageError, match="There is no scanner D"):
        split_cohort(cohort, SplitPlan(4, hold_out=("D",)))


def test_too_few_of_a_class_are_refused_with_the_numbers() -> None:
    few = named_cohort({f"{i:02}": T_SCORES[i % 3] if i < 24 else 0.4 for i in range(60)})
    with pytest.raises(InputRefused) as caught:
        split_cohort(few, SplitPlan(validation=5, test=5))
    assert caught.value.code == "too_few"
    assert "2 of " in caught.value.message
    assert "44 normal, 8 osteopenia, 8 osteoporosis" in caught.value.message
    with pytest.raises(InputRefused, match="The train part of named has no case of osteopenia and osteoporosis"):
        split_cohort(few, SplitPlan(validation=4, test=4))


def test_an_amount_is_a_number_or_a_share() -> None:
    for amount in (2.5, -1):
        with pytest.raises(UsageError):
            SplitPlan(validation=amount)


def test_a_scanner_aware_split_needs_the_scanners() -> None:
    with pytest.raises(InputRefused, match="389 cases have no Scanner"):
        split_cohort(paper_cohort(), SplitPlan(scanners="stratify"))


def test_cross_validation_tests_every_case_once_a_repeat_and_never_trains_on_its_patient() -> None:
    cohort = visits_cohort()
    folds = list(cross_validation(cohort, folds=5, repeats=2, seed=0))
    assert [(fold.repeat, fold.number) for fold in folds] == [(r, k) for r in range(2) for k in range(5)]
    for repeat in range(2):
        mine = [fold.cohort for fold in folds if fold.repeat == repeat]
        for split in (TEST, VALIDATION):
            tested = [case.case_id for fold in mine for case in fold.part(split)]
            assert sorted(tested) == sorted(case.case_id for case in cohort.cases)
    for fold in folds:
        assert_patients_stay_together(fold.cohort)
    assert splits_of(folds[0].cohort) != splits_of(folds[5].cohort)


def test_folds_have_the_classes_in_proportion() -> None:
    for fold in cross_validation(paper_cohort(), folds=5, seed=1):
        found = counts(fold.cohort, TEST)
        assert all(abs(found[name] - n / 5) < 2 for name, n in PAPER.items()), found


def test_cross_validation_can_leave_a_test_set_alone() -> None:
    cohort = split_cohort(paper_cohort(), SplitPlan(13, 13, 0))
    tested = {case.case_id for case in cohort.part(TEST)}
    validated = []
    for fold in cross_validation(cohort, folds=4, keep_test=True):
        assert {case.case_id for case in fold.cohort.part(TEST)} == tested
        validated += [case.case_id for case in fold.cohort.part(VALIDATION)]
    assert sorted([*validated, *tested]) == sorted(case.case_id for case in cohort.cases)


def test_more_folds_than_patients_of_a_class_are_refused() -> None:
    with pytest.raises(InputRefused, match="3 patients with osteoporosis are too few for 5 folds"):
        next(cross_validation(named_cohort({str(i): T_SCORES[2] if i < 3 else T_SCORES[i % 2] for i in range(40)}), 5))


def test_splits_are_written_and_read_back(tmp_path: Path) -> None:
    cohort = visits_cohort()
    split = split_cohort(cohort, SplitPlan(4, 4, 0))
    write_splits(tmp_path / "splits.csv", split)
    assert splits_of(read_splits(tmp_path / "splits.csv", cohort)) == splits_of(split)
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]


def test_splits_of_another_cohort_or_with_a_leak_are_refused(tmp_path: Path) -> None:
    cohort = named_cohort({"a": 0.0, "b": -2.0, "c": -3.0}, patient_id={"a": "p", "b": "p"})
    path = tmp_path / "splits.csv"
    path.write_text("SubjectID,Split\na,train\nx,test\n")
    with pytest.raises(InputRefused, match=r"differ in 3 cases .*: b, c, x"):
        read_splits(path, cohort)
    path.write_text("SubjectID,Split\na,train\nb,test\nc,test\n")
    with pytest.raises(InputRefused, match="1 patient is in more than one split: 'p' \\(test and train\\)"):
        read_splits(path, cohort)
    path.write_text("nothing")
    with pytest.raises(InputRefused, match="splits"):
        read_splits(path, cohort)


def test_a_part_that_lacks_a_class_is_refused_but_a_test_set_alone_is_not() -> None:
    t_scores = {"a": 0.0, "b": -2.0, "c": -3.0, "d": 0.0}
    splits = dict.fromkeys("abc", TRAIN) | {"d": TEST}
    check_classes(named_cohort(t_scores, split=splits))
    check_classes(named_cohort(t_scores, split=dict.fromkeys(t_scores, TEST)))
    with pytest.raises(InputRefused, match="no case of osteopenia and osteoporosis"):
        check_classes(named_cohort(t_scores, split=splits | {"d": VALIDATION}))


# --- leaks ----------------------------------------------------------------------------------------------------------


def test_a_patient_in_two_splits_is_an_error_that_names_the_first_ten() -> None:
    ids = [f"c{i:02}" for i in range(24)]
    patients = {case_id: f"p{i // 2:02}" for i, case_id in enumerate(ids)}
    splits = {case_id: (TRAIN, TEST)[i % 2] for i, case_id in enumerate(ids)}
    cohort = named_cohort(dict.fromkeys(ids, 0.0), patient_id=patients, split=splits)
    with pytest.raises(InputRefused) as caught:
        check_patients(cohort.cases)
    assert caught.value.code == "patient_in_two_splits"
    assert caught.value.message.startswith("12 patients are in more than one split: 'p00' (test and train), ")
    assert "'p09' (test and train) and 2 more" in caught.value.message
    assert "p10" not in caught.value.message
    check_patients(named_cohort(dict.fromkeys(ids, 0.0), patient_id=patients).cases)  # nothing decided yet


def test_one_ct_under_two_ids_is_found_also_if_it_was_turned_or_stored_otherwise(tmp_path: Path) -> None:
    write_cohort(tmp_path, {"train_data": range(3), "val_data": range(3, 6)})
    check_leaks(read_cohort(tmp_path))
    case, t_score = l1_case(1)
    write_case(tmp_path, "copy", 1, "val_data")
    write_image(tmp_path / "val_data" / "copy.nii.gz", case.ct.array_zyx[:, ::-1].astype(np.float32), case)
    with (tmp_path / "labels.csv").open("a") as stream:
        stream.write(f"copy,{t_score},120\n")
    with pytest.raises(InputRefused) as caught:
        check_leaks(read_cohort(tmp_path))
    assert caught.value.code == "same_ct"
    assert "1 CT stands under more than one id: 'copy' = 's01'" in caught.value.message
    check_leaks(read_cohort(tmp_path), pixels=False)


def test_the_fingerprint_is_of_the_values_not_of_their_order(vertebra: Phantom) -> None:
    hu = vertebra.ct.array_zyx[20:60, 40:90, 50:120]
    assert fingerprint(hu) == fingerprint(np.moveaxis(hu, 0, 2)[::-1]) == fingerprint(hu.astype(np.float64))
    changed = hu.copy()
    changed[3, 4, 5] += 1
    assert fingerprint(hu) != fingerprint(changed)
    assert fingerprint(np.full((4, 4, 4), np.nan)) == fingerprint(np.full((4, 4, 4), np.nan))


def test_split_names_are_those_of_the_contract() -> None:
    assert SPLIT_NAMES == ("train", "validation", "test")


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_checks_splits_and_reads_back_what_it_wrote(tmp_path: Path, capsys) -> None:
    for number in range(12):
        write_case(tmp_path, f"s{number:02}", number)
    head = ("SubjectID", "T-score", "PatientID", "Scanner")
    rows = [(f"s{n:02}", l1_case(n)[1], f"p{min(n, 10):02}", "GE" if n % 4 else "Canon") for n in range(12)]
    write_csv(tmp_path / "labels.csv", [head, *rows, ("absent", 0.0, "q", "GE")])
    assert main(["cohort", "check", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "undecided   12        11       4           4             4  Canon 3, GE 9" in told.out
    assert "Left out: 1 no_ct (absent)." in told.err
    assert main(["cohort", "split", str(tmp_path), "--validation", "1", "--test", "1", "--seed", "4"]) == 0
    cohort = read_cohort(tmp_path)
    for split, count in ((TRAIN, 2), (VALIDATION, 1), (TEST, 1)):
        assert counts(cohort, split) == {str(c): count for c in TScoreClass}
    assert main(["cohort", "split", str(tmp_path), "--folds", "3", "--repeats", "2"]) == 0
    assert len(list((tmp_path / "folds").glob("repeat?_fold?.csv"))) == 6
    fold = read_cohort(tmp_path, splits=tmp_path / "folds" / "repeat2_fold3.csv")
    assert_patients_stay_together(fold)
    assert main(["cohort", "split", str(tmp_path), "--folds", "20"]) == 3
    assert "4 patients with normal are too few for 20 folds" in capsys.readouterr().err


def test_a_held_out_scanner_survives_writing_and_reading(tmp_path: Path) -> None:
    cohort = visits_cohort()
    split = split_cohort(cohort, SplitPlan(4, hold_out=("C",)))
    write_splits(tmp_path / "splits.csv", split)
    again = read_splits(tmp_path / "splits.csv", cohort)
    assert splits_of(again) == splits_of(split)
    assert {item.case_id for item in again.left_out} == {item.case_id for item in split.left_out} != set()
