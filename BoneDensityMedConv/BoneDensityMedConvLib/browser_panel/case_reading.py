"""From what a person typed to a CT and its L1 mask in memory: no MRML, no trame, so it can run in a thread."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medconv.types import CTVolume, L1Mask, QualityNote, UsageError

LABEL_MAPS = (
    {"id": "totalsegmentator", "label": "TotalSegmentator (L1 = 31)"},
    {"id": "verse", "label": "VerSe, CTSpine1K (L1 = 20)"},
    {"id": "other", "label": "Another number"},
)


@dataclass(frozen=True)
class CaseRequest:
    """Which files to load. `label` None: the mask holds L1 alone. `note` is told when they are loaded."""

    ct_path: Path
    mask_path: Path | None = None
    label: int | None = None
    series: str | None = None
    name: str = ""
    is_simulated: bool = False
    note: str = ""


@dataclass(frozen=True)
class ReadCase:
    """A CT and, if a mask was given, L1 on its grid; `note` is worth telling the person."""

    ct: CTVolume
    l1: L1Mask | None
    name: str
    note: str = ""


def request_from_form(
    ct_path: str, mask_path: str, label_map: str, label_number: Any, series: str | None
) -> CaseRequest:
    """What the form asks for. Raises UsageError if the CT is missing or L1's number is no number."""
    if not ct_path.strip():
        raise UsageError("ct_missing", "No CT was given.", "Type the path of a CT file or of a DICOM folder.")
    mask = path_as_typed(mask_path) if mask_path.strip() else None
    return CaseRequest(path_as_typed(ct_path), mask, _label(label_map, label_number), series=series or None)


def path_as_typed(text: str) -> Path:
    """A path as people paste it: with spaces around it, in quotes, or with ~ for the home folder."""
    return Path(text.strip().strip("\"'").strip()).expanduser()


def sample_request() -> CaseRequest:
    """The sample CT with its mask. Raises MissingRequirement if it is not there and can't be obtained."""
    from medconv.sample_data import obtain_sample

    sample = obtain_sample()
    return CaseRequest(
        sample.ct_path,
        sample.mask_path,
        sample.label,
        name=sample.title,
        is_simulated=sample.is_simulated,
        note=sample.reason,
    )


def read_case(request: CaseRequest) -> ReadCase:
    """Read CT and mask. Raises MedConvError for whatever can't be read or doesn't fit together."""
    from medconv import l1_mask
    from medconv.volume_io import read_ct, read_labels

    ct = read_ct(request.ct_path, request.series)
    if request.is_simulated:
        ct = replace(ct, is_simulated=True)
    mask: L1Mask | None = None
    notes: list[QualityNote] = []
    if request.mask_path is not None:
        labels, geometry, _owner = read_labels(request.mask_path)
        mask, notes = l1_mask.from_labels(labels, geometry, request.label, ct.geometry, request.mask_path.name)
    told = [request.note, *(note.message for note in notes)]
    return ReadCase(ct, mask, request.name or ct.source, " ".join(text for text in told if text))


def series_choices(folder: Path) -> list[dict[str, str]]:
    """The DICOM series of a folder that have more than one slice: their UID and what to call them on the page."""
    from medconv import dicom_series

    found = dicom_series.list_series(folder)
    return [
        {"id": one.uid, "label": f"{one.description or one.uid}, {len(one.files)} slices, {one.modality}"}
        for one in found
        if len(one.files) > 1
    ]


def _label(label_map: str, label_number: Any) -> int:
    from medconv.vertebrae import LABEL_MAPS

    if label_map in LABEL_MAPS:
        return LABEL_MAPS[label_map]["L1"]
    if isinstance(label_number, bool) or not isinstance(label_number, int) or label_number < 1:
        raise UsageError("label_not_a_number", "L1's number in the mask is missing.", "Give a whole number from 1 up.")
    return label_number
