"""Small cohorts on disk for the tests of the data side: simulated L1 cases in the folder layouts."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import SimpleITK as sitk

from medconv.grid import to_image
from medconv.simulate.l1_case import simulate_l1_case
from medconv.simulate.scan import Scan
from medconv.training.cohorts.cases import Cohort, LabelledCase
from medconv.tscore import classify
from medconv.types import L1Case
from medconv.volume_io import SIMULATED_MARK

T_SCORES = (0.4, -1.7, -3.1)  # normal, osteopenia, osteoporosis
SCAN = Scan(kvp=120.0, in_plane_spacing_mm=1.0, slice_thickness_mm=3.0, slice_increment_mm=3.0)


@cache
def l1_case(number: int) -> tuple[L1Case, float]:
    """Simulated L1 number i and its T-score; classes take turns."""
    t_score = T_SCORES[number % 3]
    case, _ = simulate_l1_case(number, scan=SCAN, t_score=t_score)
    return case, t_score


def write_image(path: Path, array_zyx: np.ndarray, case: L1Case, mark: str = SIMULATED_MARK) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = to_image(array_zyx, case.ct.geometry)
    image.SetMetaData("descrip", mark)
    sitk.WriteImage(image, str(path))


def write_case(folder: Path, name: str, number: int, split: str = "", ending: str = ".nii.gz") -> Path:
    """CT and mask of simulated L1 number i; returns the CT's path."""
    case, _ = l1_case(number)
    path = folder / split / f"{name}{ending}"
    write_image(path, case.ct.array_zyx, case)
    write_image(folder / "masks" / f"{name}.nii.gz", case.mask_zyx.astype(np.uint8), case)
    return path


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def write_xlsx(path: Path, sheets: Mapping[str, Iterable[Sequence[Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_cohort(folder: Path, splits: Mapping[str, Sequence[int]]) -> Path:
    """The authors' layout with masks: split folder → numbers of its cases, named s00, s01, …"""
    rows: list[Sequence[Any]] = [("SubjectID", "T-score", "kVp")]
    for split, numbers in splits.items():
        for number in numbers:
            write_case(folder, f"s{number:02}", number, split)
            rows.append((f"s{number:02}", l1_case(number)[1], 120))
    write_csv(folder / "labels.csv", rows)
    return folder


def named_cohort(t_scores: Mapping[str, float], **changes: Mapping[str, Any]) -> Cohort:
    """A cohort without files. changes: field → value by case id ("patient_id", "scanner", "split")."""
    cases = []
    for case_id, t_score in t_scores.items():
        given = {field: values[case_id] for field, values in changes.items() if case_id in values}
        fields = {"patient_id": case_id, "ct": Path(f"{case_id}.nii.gz"), "mask": None} | given
        cases.append(LabelledCase(case_id=case_id, t_class=classify(t_score), t_score=t_score, **fields))
    return Cohort("named", tuple(cases))
