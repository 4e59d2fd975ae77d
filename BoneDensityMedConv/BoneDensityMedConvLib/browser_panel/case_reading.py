"""From what a person typed to a CT and its mask in memory: no MRML, no trame, so it can run in a thread.

Where the mask's numbering is known, all its vertebrae are read, as at the command line: the level of L1 can then be
checked against its neighbours, and another segmentation be compared with each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medconv.types import CTVolume, InputRefused, L1Mask, QualityNote, SpineSegmentation, UsageError
from medconv.vertebrae import LABEL_MAPS as NUMBERINGS
from medconv.vertebrae import is_vertebra

LABEL_MAPS = (
    {"id": "totalsegmentator", "label": "TotalSegmentator (L1 = 31)"},
    {"id": "verse", "label": "VerSe, CTSpine1K (L1 = 20)"},
    {"id": "other", "label": "Another number"},
)


@dataclass(frozen=True)
class CaseRequest:
    """Which files to load. `note` is told when they are loaded.

    label_map: how the mask is numbered, as `vertebrae.read_label_map` takes it; "" if only L1's number, `label`, is
    known. label None: the mask holds L1 alone.
    """

    ct_path: Path
    mask_path: Path | None = None
    label: int | None = None
    label_map: str = ""
    series: str | None = None
    name: str = ""
    is_simulated: bool = False
    note: str = ""


@dataclass(frozen=True)
class ReadCase:
    """A CT and, if a mask was given, L1 on its grid; `note` is worth telling the person.

    spine: L1 with its neighbours, where their names are known.
    """

    ct: CTVolume
    l1: L1Mask | None
    name: str
    note: str = ""
    spine: SpineSegmentation | None = None


def request_from_form(
    ct_path: str, mask_path: str, label_map: str, label_number: Any, series: str | None
) -> CaseRequest:
    """What the form asks for. Raises UsageError if the CT is missing or L1's number is no number."""
    if not ct_path.strip():
        raise UsageError("ct_missing", "No CT was given.", "Type the path of a CT file or of a DICOM folder.")
    mask = path_as_typed(mask_path) if mask_path.strip() else None
    label = _label(label_map, label_number)
    names = label_map if label_map in NUMBERINGS else ""
    return CaseRequest(path_as_typed(ct_path), mask, label, names, series=series or None)


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
        "totalsegmentator",
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
    spine: SpineSegmentation | None = None
    notes: list[QualityNote] = []
    if request.mask_path is not None and request.label_map:
        spine, mask, notes = _named(request.mask_path, request.label_map, ct)
    if request.mask_path is not None and mask is None:
        labels, geometry, _owner = read_labels(request.mask_path)
        mask, notes = l1_mask.from_labels(labels, geometry, request.label, ct.geometry, request.mask_path.name)
    told = [request.note, *(note.message for note in notes)]
    return ReadCase(ct, mask, request.name or ct.source, " ".join(text for text in told if text), spine)


def _named(
    path: Path, label_map: str, ct: CTVolume
) -> tuple[SpineSegmentation | None, L1Mask | None, list[QualityNote]]:
    """The whole label map with L1 in it; without L1 nothing, so that its number is looked for and missed by name.

    A mask that names no neighbour of L1 is L1 alone.
    """
    from medconv.label_map_file import read_segmentation
    from medconv.segmentation_comparison import structure_mask

    try:
        found, notes = read_segmentation(path, label_map, ct.geometry)
    except InputRefused as refusal:
        if refusal.code != "label_absent":
            raise
        return None, None, []
    mask = structure_mask(found, "L1")
    held = [name for name in found.names.values() if is_vertebra(name) and structure_mask(found, name) is not None]
    return (found if mask is not None and len(held) > 1 else None), mask, notes


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
    if label_map in NUMBERINGS:
        return NUMBERINGS[label_map]["L1"]
    if isinstance(label_number, bool) or not isinstance(label_number, int) or label_number < 1:
        raise UsageError("label_not_a_number", "L1's number in the mask is missing.", "Give a whole number from 1 up.")
    return label_number
