"""A folder of CTs and a sheet of labels as a `Cohort`: the authors' layout, a flat folder, or DICOM folders.

    train_data/ val_data/ test_data/   one CT a case, or one DICOM folder; or all of them in the folder itself
    masks/                             <SubjectID>.nii.gz: L1 or a label map; without it the CTs are L1 alone
    labels.xlsx or labels.csv          see `label_sheet`
    splits.csv                         what `medconv cohort split` decided, where the folders do not
    cohort.json, truth.csv             of simulated cohorts

What doesn't fit together (a CT without label, a label without CT, a damaged file) is left out and listed.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from medconv import volume_io
from medconv.pipeline import Progress
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts.cases import SPLIT_FOLDERS, Cohort, LabelledCase, LeftOut
from medconv.training.cohorts.found_cts import MASKS, FoundCT, find_cts
from medconv.training.cohorts.label_sheet import LabelRow, LabelSheet, read_labels
from medconv.training.cohorts.label_values import CT_ENDINGS, without_ending
from medconv.training.cohorts.splits import check_classes, read_splits
from medconv.types import InputRefused, QualityNote, Severity

LABEL_FILES, ABOUT, TRUTH = ("labels.xlsx", "labels.csv"), "cohort.json", "truth.csv"
SPLITS = "splits.csv"
LOG = logging.getLogger(__name__)
LAYOUT = (
    "Expected CTs (NIfTI, NRRD or DICOM folders) in train_data, val_data and test_data or in the folder itself, and "
    "labels.xlsx or labels.csv with SubjectID and T-score or Class."
)


def read_cohort(
    folder: Path,
    labels: Path | None = None,
    *,
    splits: Path | None = None,
    decided: bool = True,
    progress: Progress = lambda stage, fraction: None,
) -> Cohort:
    """Read a cohort folder; no voxels are read yet.

    labels: the label sheet; None takes labels.xlsx or labels.csv of the folder. splits: a file of `splits.write_splits`
    that decides anew; None takes splits.csv of the folder, if nothing else decides. decided: False leaves them open.
    Raises InputRefused: no such folder, a bad sheet (`label_sheet`), one id for two CTs, a split that lacks a class,
    nothing left. Everything else that does not fit is in `Cohort.left_out`.
    """
    if not folder.is_dir():
        raise InputRefused("cohort_missing", f"There is no folder {folder.name}.", LAYOUT, str(folder))
    sheet = read_labels(_label_file(folder, labels))
    rows = {row.subject_id: row for row in sheet.rows}
    found = find_cts(folder, frozenset(rows))
    _refuse_twice(found)
    _refuse_two_splits(found, rows)
    model, about = _simulation(folder)
    cases: list[LabelledCase] = []
    left_out = _without_partner(found, sheet)
    masks = _masks(folder)
    for place, ct in enumerate(found):
        progress("Looking at the CTs", place / len(found))
        if ct.name not in rows:
            continue
        try:
            cases.append(_case(ct, rows[ct.name], masks))
        except InputRefused as refusal:
            left_out.append(LeftOut(ct.name, refusal.code, refusal.message))
    if not cases:
        raise InputRefused(
            "cohort_empty", f"{folder.name} holds no CT with a label. {summary(left_out)}".strip(), LAYOUT
        )
    cohort = Cohort(
        name=str(about.get("name") or folder.resolve().name),
        cases=tuple(sorted(cases, key=lambda case: case.case_id)),
        reference=str(about.get("reference") or ("simulated" if model else "DXA")),
        model=model,
        truth=_truth(folder / TRUTH),
        left_out=tuple(sorted(left_out, key=lambda item: (item.code, item.case_id))),
        notes=(*sheet.notes, *_zeros_note(left_out)),
    )
    if decided:
        cohort = _decided(cohort, folder, splits)
    _tell(cohort)
    return cohort


def _decided(cohort: Cohort, folder: Path, splits: Path | None) -> Cohort:
    if splits is None and not any(case.split for case in cohort.cases) and (folder / SPLITS).is_file():
        splits = folder / SPLITS
    if splits is not None:
        cohort = read_splits(splits, cohort)
    check_classes(cohort)
    return cohort


def _tell(cohort: Cohort) -> None:
    """What a person must know of the reading, on the screen, whichever command reads."""
    for text in [note.message for note in cohort.notes] + [summary(cohort.left_out)]:
        if text:
            LOG.warning("%s: %s", cohort.name, text)


def summary(left_out: Sequence[LeftOut], told: int = 10) -> str:
    """What was left out in one text: counts by code, and the first ids of each; empty if nothing was."""
    parts = []
    for code in sorted({item.code for item in left_out}):
        ids = [item.case_id for item in left_out if item.code == code]
        more = f" and {len(ids) - told} more" if len(ids) > told else ""
        parts.append(f"{len(ids)} {code} ({', '.join(ids[:told])}{more})")
    return f"Left out: {'; '.join(parts)}." if parts else ""


def _label_file(folder: Path, labels: Path | None) -> Path:
    if labels is not None:
        return labels
    present = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    if len(present) == 1:
        return present[0]
    what = "both labels.xlsx and labels.csv" if present else "no labels.xlsx or labels.csv"
    raise InputRefused(
        "labels_ambiguous" if present else "labels_missing",
        f"{folder.name} holds {what}.",
        "Keep one of them, or say which with --labels FILE." if present else f"{LAYOUT} Or give --labels FILE.",
    )


def _refuse_twice(found: Sequence[FoundCT]) -> None:
    first: dict[str, FoundCT] = {}
    for ct in found:
        before = first.setdefault(ct.name, ct)
        if before is not ct:
            where = [f"{c.path.parent.name}/{c.path.name}" for c in (before, ct)]
            raise InputRefused(
                "ct_twice", f"'{ct.name}' has two CTs: {where[0]} and {where[1]}.", "Keep one, or give each its own id."
            )


def _refuse_two_splits(found: Sequence[FoundCT], rows: Mapping[str, LabelRow]) -> None:
    for ct in found:
        told = rows[ct.name].split if ct.name in rows else None
        if ct.split and told and ct.split != told:
            raise InputRefused(
                "split_contradicts",
                f"'{ct.name}' lies in {SPLIT_FOLDERS[ct.split]}, but the label sheet puts it into {told}.",
                "Move the CT, or mend or remove the sheet's Split column.",
            )


def _without_partner(found: Sequence[FoundCT], sheet: LabelSheet) -> list[LeftOut]:
    names, ids = {ct.name for ct in found}, {row.subject_id for row in sheet.rows}
    lonely = [LeftOut(ct.name, "no_label", f"no row of {sheet.name}") for ct in found if ct.name not in ids]
    rows = [row for row in sheet.rows if row.subject_id not in names]
    return lonely + [LeftOut(row.subject_id, "no_ct", f"row {row.row} of {sheet.name} has no CT") for row in rows]


def _zeros_note(left_out: Sequence[LeftOut]) -> tuple[QualityNote, ...]:
    """A hint where ids would match but for the zeros that spreadsheets take off."""
    rows = {item.case_id.lstrip("0"): item.case_id for item in left_out if item.code == "no_ct"}
    for item in left_out:
        if item.code == "no_label" and (row := rows.get(item.case_id.lstrip("0"))):
            text = f"The CT '{item.case_id}' and the row '{row}' differ in leading zeros only: keep ids as text."
            return (QualityNote("leading_zeros", Severity.WARNING, text),)
    return ()


def _masks(folder: Path) -> dict[str, Path] | None:
    """Masks by id; None if there is no folder of masks, so that the CTs must be L1 alone."""
    if not (folder / MASKS).is_dir():
        return None
    files = sorted(entry for entry in (folder / MASKS).iterdir() if entry.name.lower().endswith(CT_ENDINGS))
    return {without_ending(file.name): file for file in files}


def _case(ct: FoundCT, row: LabelRow, masks: dict[str, Path] | None) -> LabelledCase:
    """Raises InputRefused if the CT or its mask can't be read, or the mask is missing."""
    volume_io.check_file(ct.path)
    mask = None if masks is None else masks.get(ct.name)
    if mask is None and (masks is not None or ct.path.is_dir()):
        raise InputRefused("no_mask", f"{MASKS} holds no mask of it", "")
    if mask is not None:
        volume_io.check_file(mask)
    return LabelledCase(
        case_id=row.subject_id,
        patient_id=row.patient_id,
        ct=ct.path,
        mask=mask,
        t_class=row.t_class,
        t_score=row.t_score,
        label=row.label,
        kvp=row.kvp,
        scanner=row.scanner,
        split=ct.split or row.split,
    )


def _simulation(folder: Path) -> tuple[CohortModel | None, dict[str, Any]]:
    """The population of a simulated cohort and all that cohort.json says; nothing without that file."""
    if not (folder / ABOUT).is_file():
        return None, {}
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        told = about.get("model")
        known = {field.name for field in fields(CohortModel)}
        return CohortModel(**{k: v for k, v in told.items() if k in known}) if told else None, about
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputRefused(
            "cohort_unreadable", f"{ABOUT} of {folder.name} can't be read ({error}).", "Simulate the cohort again."
        ) from error


def _truth(path: Path) -> dict[str, dict[str, Any]] | None:
    """Hidden variables by case id, numbers as numbers; None without the file."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    key = next((name for name in ("SubjectID", "case_id", "subject_id") if rows and name in rows[0]), None)
    if key is None:
        raise InputRefused("cohort_unreadable", f"{path.name} has no SubjectID column.", "Simulate the cohort again.")
    return {row[key]: {name: _number_or_text(value) for name, value in row.items()} for row in rows}


def _number_or_text(text: str | None) -> float | str:
    try:
        return float(text or "")
    except ValueError:
        return text or ""
