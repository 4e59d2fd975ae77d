"""Leaks between splits: one patient in two of them, or one CT under two ids.

Two CTs count as the same if they hold the same HU equally often on a grid of the same size, whatever their order in
the file: a copy is found although it was turned, mirrored, compressed or stored as another type. A copy that was cut or
resampled is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv import volume_io
from medconv.pipeline import Progress
from medconv.training.cohorts.cases import Cohort, LabelledCase
from medconv.types import InputRefused

TOLD_AT_ONCE = 10
HU_RANGE = (-32768, 32767)


def check_leaks(
    cohort: Cohort, *, pixels: bool = True, progress: Progress = lambda stage, fraction: None
) -> None:  # fmt: skip
    """Raise InputRefused if a patient is in two splits ("patient_in_two_splits") or a CT under two ids ("same_ct").

    pixels: also compare the CTs themselves. Only CTs on grids of the same size are read, so this is quick where sizes
    vary; making crops compares all of them without reading anything twice.
    """
    check_patients(cohort.cases)
    if not pixels:
        return
    by_size: dict[tuple[int, ...], list[LabelledCase]] = {}
    for place, case in enumerate(cohort.cases):
        progress("Comparing the CTs' sizes", place / len(cohort.cases))
        by_size.setdefault(tuple(sorted(volume_io.check_file(case.ct))), []).append(case)
    alike = [case for cases in by_size.values() if len(cases) > 1 for case in cases]
    found = {}
    for place, case in enumerate(alike):
        progress("Comparing CTs of the same size", place / len(alike))
        ct = volume_io.read_ct(case.ct)  # it owns the memory that its array shows
        found[case.case_id] = fingerprint(ct.array_zyx)
    check_fingerprints(found)


def check_patients(cases: Sequence[LabelledCase]) -> None:
    """Raise InputRefused if a patient's CTs are in two splits; names no id but those of the label sheet."""
    splits: dict[str, set[str]] = {}
    for case in cases:
        if case.split is not None:
            splits.setdefault(case.patient_id, set()).add(case.split)
    leaks = [f"'{patient}' ({' and '.join(sorted(found))})" for patient, found in splits.items() if len(found) > 1]
    if leaks:
        raise InputRefused(
            "patient_in_two_splits",
            f"{_counted(leaks, 'patient is', 'patients are')} in more than one split: {_listed(leaks)}. The figures "
            "would show what the network remembers of them.",
            "Keep all CTs of a patient in one split.",
        )


def check_fingerprints(fingerprints: Mapping[str, str]) -> None:
    """Raise InputRefused if two ids have the same fingerprint."""
    ids: dict[str, list[str]] = {}
    for case_id, found in sorted(fingerprints.items()):
        ids.setdefault(found, []).append(case_id)
    same = [" = ".join(f"'{case_id}'" for case_id in group) for group in ids.values() if len(group) > 1]
    if same:
        raise InputRefused(
            "same_ct",
            f"{_counted(same, 'CT stands', 'CTs stand')} under more than one id: {_listed(same)}.",
            "Keep one of each, with its right label.",
        )


def fingerprint(array_zyx: NDArray[Any]) -> str:
    """SHA-256 of how often each HU occurs, and of the grid's size without its order."""
    low, high = HU_RANGE
    counts = np.zeros(high - low + 1, np.int64)
    for plane in array_zyx:  # plane by plane: no second copy of the CT
        whole = np.clip(np.rint(np.nan_to_num(plane, nan=low)), low, high).astype(np.int64)
        counts += np.bincount(whole.ravel() - low, minlength=len(counts))
    shape = np.array(sorted(array_zyx.shape), np.int64)
    return hashlib.sha256(shape.tobytes() + counts.tobytes()).hexdigest()


def _counted(found: Sequence[str], one: str, many: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else many}"


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - TOLD_AT_ONCE} more" if len(found) > TOLD_AT_ONCE else ""
    return ", ".join(found[:TOLD_AT_ONCE]) + more
