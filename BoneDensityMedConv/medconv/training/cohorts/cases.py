"""Who is in a cohort: labelled CTs of patients, and which part of the work each belongs to. Nouns only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medconv.simulate.cohort import CohortModel
from medconv.types import QualityNote, TScoreClass

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_NAMES = (TRAIN, VALIDATION, TEST)
# Folders of the layout that the authors' repository describes.
SPLIT_FOLDERS: Mapping[str, str] = {TRAIN: "train_data", VALIDATION: "val_data", TEST: "test_data"}


@dataclass(frozen=True)
class LabelledCase:
    """One CT with its DXA label.

    case_id: unique in the cohort; patient_id: whose CT it is (a patient may have several).
    ct: a NIfTI or NRRD file, or a DICOM folder. mask: L1's mask or a label map; None: the CT file is itself the
        masked L1 (the authors' files), everything outside being one constant value.
    label: L1's number in `mask`; None takes every voxel above 0.
    t_score: None where only the class is known. scanner: a site or model name for splits that keep scanners apart.
    split: one of SPLIT_NAMES, None while nothing is decided.
    """

    case_id: str
    patient_id: str
    ct: Path
    mask: Path | None
    t_class: TScoreClass
    t_score: float | None = None
    label: int | None = None
    kvp: float | None = None
    scanner: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A CT or a row of the label sheet that is not in the cohort: its id, a stable code, and why in words."""

    case_id: str
    code: str
    message: str


@dataclass(frozen=True)
class Cohort:
    """Labelled cases, in the order of their ids. `model` and `truth` are there for simulated cohorts only.

    truth: hidden variables by case id, as the simulator's truth sheet has them ("signal" is z).
    reference: what the labels were measured with ("DXA", "QCT", "simulated"), for every figure that is reported.
    left_out: what the folder or the sheet holds beyond the cases. notes: how something was read.
    """

    name: str
    cases: tuple[LabelledCase, ...]
    reference: str = "DXA"
    model: CohortModel | None = None
    truth: Mapping[str, Mapping[str, Any]] | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[QualityNote, ...] = ()

    def part(self, split: str) -> tuple[LabelledCase, ...]:
        """The cases of one split."""
        return tuple(case for case in self.cases if case.split == split)
