"""The label sheet: what is read, what is refused, and what a person is told."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from core.cohort_writer import write_csv, write_xlsx

from medconv.training.cohorts.label_sheet import LabelSheet, read_labels
from medconv.types import InputRefused, TScoreClass

NORMAL, OSTEOPENIA, OSTEOPOROSIS = TScoreClass.NORMAL, TScoreClass.OSTEOPENIA, TScoreClass.OSTEOPOROSIS
HEAD = ("SubjectID", "T-score")


def xlsx(tmp_path: Path, *rows: tuple) -> Path:
    return write_xlsx(tmp_path / "labels.xlsx", {"DXA": rows})


def classes(sheet: LabelSheet) -> list[TScoreClass]:
    return [row.t_class for row in sheet.rows]


def refusal(path: Path) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_labels(path)
    return caught.value


def test_the_who_boundaries_belong_where_the_who_put_them(tmp_path: Path) -> None:
    sheet = read_labels(xlsx(tmp_path, HEAD, ("a", -1.0), ("b", -1.01), ("c", -2.49), ("d", -2.5), ("e", 8.0)))
    assert classes(sheet) == [NORMAL, OSTEOPENIA, OSTEOPENIA, OSTEOPOROSIS, NORMAL]


def test_a_t_score_that_a_formula_left_beside_the_boundary_is_on_it(tmp_path: Path) -> None:
    value = (0.75 - 1.0) / 0.1 + 1e-12  # −2.4999999999990
    assert classes(read_labels(xlsx(tmp_path, HEAD, ("a", value)))) == [OSTEOPOROSIS]


@pytest.mark.parametrize(
    ("subject", "t_score"),
    [("SubjectID", "T-score"), ("ID", "T score"), ("case id", "TScore"), ("Subject", "T-Score (L1–L4)"),
     ("file name", "DXA T-score"), ("SUBJECT_ID", "t_score")],
)  # fmt: skip
def test_headings_are_found_by_tolerant_names(tmp_path: Path, subject: str, t_score: str) -> None:
    sheet = read_labels(xlsx(tmp_path, ("Age", subject, t_score), (70, "a", -1.2)))
    assert [(row.subject_id, row.t_score) for row in sheet.rows] == [("a", -1.2)]


def test_every_column_is_read(tmp_path: Path) -> None:
    head = ("SubjectID", "T-score", "Class", "PatientID", "kVp", "Scanner", "Label", "Split")
    sheet = read_labels(xlsx(tmp_path, head, ("a-1.nii.gz", -2.6, "Osteoporosis", 17.0, "120 kV", "GE 1", 31, "val")))
    (row,) = sheet.rows
    assert (row.row, row.subject_id, row.patient_id, row.t_class, row.t_score) == (2, "a-1", "17", OSTEOPOROSIS, -2.6)
    assert (row.kvp, row.scanner, row.label, row.split) == (120.0, "GE 1", 31, "validation")


def test_without_a_patient_column_every_ct_is_a_patient_of_its_own(tmp_path: Path) -> None:
    sheet = read_labels(xlsx(tmp_path, HEAD, ("a", 0), ("b", 0)))
    assert [row.patient_id for row in sheet.rows] == ["a", "b"]


def test_titles_empty_rows_and_other_sheets_do_not_disturb(tmp_path: Path) -> None:
    rows = [("Bone study 2024",), (), HEAD, ("a", -1.5), (), ("b", -3), (None, None)]
    path = write_xlsx(tmp_path / "labels.xlsx", {"Notes": [("nothing here",)], "DXA": rows})
    assert [(row.row, row.subject_id) for row in read_labels(path).rows] == [(4, "a"), (6, "b")]


def test_numbers_stored_as_text_and_decimal_commas_are_read_and_told(tmp_path: Path) -> None:
    sheet = read_labels(xlsx(tmp_path, HEAD, ("a", "-1.5"), ("b", "−2,6"), ("c", 0.5)))
    assert [row.t_score for row in sheet.rows] == [-1.5, -2.6, 0.5]
    assert [note.code for note in sheet.notes] == ["numbers_as_text"]
    assert "2 numbers of labels.xlsx, sheet 'DXA' are stored as text" in sheet.notes[0].message


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("SubjectID,T-score\nMüller,-1.5\n", "utf-8"), ("SubjectID;T-score\r\nMüller;-1,5\r\n", "utf-8-sig"),
     ("SubjectID;T-score\r\nMüller;-1,5\r\n", "cp1252"), ("SubjectID\tT-score\nMüller\t-1.5\n", "utf-16"),
     ("sep=;\nSubjectID;T-score\nMüller;-1,5\n", "utf-8"), ('SubjectID,T-score\nMüller,"-1,5"\n', "utf-8")],
)  # fmt: skip
def test_csv_files_of_any_country_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    assert [(row.subject_id, row.t_score) for row in read_labels(path).rows] == [("Müller", -1.5)]


def test_classes_may_be_named_or_numbered_where_the_heading_says_how(tmp_path: Path) -> None:
    named = xlsx(tmp_path, ("ID", "Class"), ("a", "Normal"), ("b", "low bone mass"), ("c", "OSTEOPOROTIC"))
    assert classes(read_labels(named)) == [NORMAL, OSTEOPENIA, OSTEOPOROSIS]
    who = xlsx(tmp_path, ("ID", "WHO class"), ("a", 1), ("b", 2), ("c", 3), ("d", 4))
    assert classes(read_labels(who)) == [NORMAL, OSTEOPENIA, OSTEOPOROSIS, OSTEOPOROSIS]
    own = xlsx(tmp_path, ("ID", "Class (2=normal, 1=osteopenia, 0=osteoporosis)"), ("a", 2), ("b", 1), ("c", 0))
    assert classes(read_labels(own)) == [NORMAL, OSTEOPENIA, OSTEOPOROSIS]


@pytest.mark.parametrize("heading", ["Class", "Class (0=normal, 1=osteopenia)", "Diagnosis (0=low, 1=high, 2=none)"])
def test_a_number_for_a_class_is_never_guessed(tmp_path: Path, heading: str) -> None:
    error = refusal(xlsx(tmp_path, ("ID", heading), ("a", 0), ("b", 1), ("c", 2)))
    assert error.code == "class_coding_unknown"
    assert f"sheet 'DXA', column '{heading}' holds numbers (0, 1, 2)" in error.message
    assert "Class (0=normal, 1=osteopenia, 2=osteoporosis)" in error.remedy


HEAD5 = ("SubjectID", "T-score", "Class", "kVp", "Label")
PROBLEMS = {
    "contradiction": (("x", -1.0, "osteopenia"), "row 2, column 'Class' says osteopenia, but a T-score of -1 is"),
    "empty_label": (("x", None, None), "row 2, column 'T-score' is empty"),
    "empty_id": ((None, -1.0), "row 2, column 'SubjectID' is empty"),
    "no_number": (("x", "n/a"), "row 2, column 'T-score' holds 'n/a', not a number"),
    "two_points": (("x", "-1.2.3"), "row 2, column 'T-score' holds '-1.2.3', not a number"),
    "thousands": (("x", "1,234,5"), "row 2, column 'T-score' holds '1,234,5', not a number"),
    "true": (("x", True), "row 2, column 'T-score' holds TRUE, not a number"),
    "date": (("x", datetime.datetime(2024, 5, 1)), "row 2, column 'T-score' holds a date (2024-05-01"),
    "lost_point": (("x", -25), "row 2, column 'T-score' holds -25: T-scores lie within −8 and +8"),
    "spreadsheet_error": (("#REF!", -1.0), "row 2, column 'SubjectID' holds the spreadsheet's error #REF!"),
    "abbreviation": (("x", None, "OP"), "row 2, column 'Class' holds 'OP', which is none of normal"),
    "voltage": (("x", -1.0, None, 12), "row 2, column 'kVp' holds 12: a tube voltage lies within 60 and 160 kV"),
    "class_in_label": (("x", -1.0, None, 120, "normal"), "row 2, column 'Label' holds 'normal', not a number; it is"),
    "background": (("x", -1.0, None, 120, 0), "row 2, column 'Label' holds 0; L1's number in the mask is a whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_names_sheet_row_and_column(tmp_path: Path, name: str) -> None:
    row, sentence = PROBLEMS[name]
    error = refusal(xlsx(tmp_path, HEAD5, row, ("fine", 0.3)))
    assert error.code == "labels_wrong"
    assert error.message.startswith("labels.xlsx, sheet 'DXA' has 1 problem: ")
    assert sentence in error.message


def test_a_subject_twice_is_told_with_both_rows_also_if_the_row_is_wrong_otherwise(tmp_path: Path) -> None:
    error = refusal(write_csv(tmp_path / "labels.csv", [HEAD, ("a", -1), ("b", -1), ("a", "?")]))
    assert "row 4, column 'SubjectID' holds 'a', which stands in row 2 already" in error.message
    assert "row 4, column 'T-score' holds '?'" in error.message
    assert error.message.startswith("labels.csv has 2 problems")


def test_a_decimal_comma_that_splits_a_cell_is_found(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("SubjectID,T-score\na,-1,5\n")
    assert "row 2 has more cells than there are headings (a decimal comma in a CSV?)" in refusal(path).message


def test_all_problems_are_told_at_once_ten_of_them_in_words(tmp_path: Path) -> None:
    rows = [HEAD, *((f"s{i}", "?") for i in range(14)), ("fine", 1)]
    message = refusal(write_csv(tmp_path / "labels.csv", rows)).message
    assert "has 14 problems" in message
    assert message.count("not a number") == 10
    assert "row 11" in message
    assert "row 12" not in message
    assert message.endswith("and 4 more.")


def test_a_split_column_is_all_or_nothing(tmp_path: Path) -> None:
    head = (*HEAD, "Split")
    assert [r.split for r in read_labels(xlsx(tmp_path, head, ("a", 0, None), ("b", 0, None))).rows] == [None, None]
    message = refusal(xlsx(tmp_path, head, ("a", 0, "train"), ("b", 0, None), ("c", 0, None))).message
    assert "row 3, column 'Split' is empty here and in 1 more rows" in message
    assert "holds 'dev'; expected train, validation or test" in refusal(xlsx(tmp_path, head, ("a", 0, "dev"))).message


UNREADABLE = {
    "no_columns": ([("Name", "Z-score"), ("a", 1)], "labels_no_columns"),
    "two_t_scores": ([("ID", "T-score", "T-score (L1-L4)"), ("a", 1, 1)], "labels_ambiguous"),
    "only_headings": ([HEAD], "labels_empty"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_sheet_without_one_clear_meaning_is_refused(tmp_path: Path, name: str) -> None:
    rows, code = UNREADABLE[name]
    assert refusal(xlsx(tmp_path, *rows)).code == code


def test_two_sheets_with_labels_are_refused_by_their_names(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "labels.xlsx", {"2023": [HEAD, ("a", 1)], "2024": [HEAD, ("a", 2)]})
    assert "2 sheets with labels: 2023, 2024" in refusal(path).message


def test_what_is_no_workbook_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "labels.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0 an old or a protected workbook")
    assert refusal(path).code == "labels_unreadable"
    assert refusal(tmp_path / "none.csv").code == "labels_missing"
    (tmp_path / "labels.ods").write_bytes(b"")
    assert "Save it as .xlsx" in refusal(tmp_path / "labels.ods").remedy
