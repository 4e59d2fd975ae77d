"""An answer as DICOM beside the CT it came from: L1 as a Segmentation object, and a structured report.

Patient and study are copied from the CT's series, nothing else about a person is in it. The same CT, weights and
settings give the same bytes: UIDs are made from what the objects hold, dates are the CT's own. So an archive that is
sent an answer twice keeps it once, and anything that differs is another object (docs/dicom-results.md).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from medconv import __version__, dicom_report, dicom_segment
from medconv.dicom_source import SourceSlices, check_installed, check_path, quiet, source_slices
from medconv.dicom_source import check_series as check_series
from medconv.dicom_source import enhanced_file as enhanced_file
from medconv.types import BoolArray, InputRefused, L1Mask

SEGMENTATION, REPORT = "{}_segmentation.dcm", "{}_report.dcm"
# What our UIDs are names in (RFC 9562, version 5); written as 2.25.<number> (PS3.5 B.2), which needs no registration.
NAMESPACE = uuid.UUID("6f0d6c6e-2f0b-5f43-9d4c-9d6c0f6b7a51")
UNNAMED = "2.25.1"  # while the digest that names an object is still being made


def check_request(ct: Path) -> None:
    """Refuse before any work what can't end in DICOM results. Raises MissingRequirement, UsageError."""
    check_installed()
    check_path(ct)


def write_dicom(folder: Path, mask: L1Mask, document: Mapping[str, Any], files: Sequence[str]) -> tuple[str, ...]:
    """Write the Segmentation object and the report into `folder`; returns their names.

    mask: what the answer rests on, on the CT's grid. document: of result.json. files: of the CT's series.
    Raises InputRefused where the series can't carry them, MissingRequirement without highdicom.
    """
    check_installed()
    vertebra = document["level"]["used_as"] if document["level"] else "L1"
    source = source_slices(files, mask)
    try:
        with quiet():
            made = _objects(source, vertebra, document, mask.block_zyx)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputRefused(
            "dicom_header_unfit",
            f"The series' header can't be carried over into DICOM results ({type(error).__name__}).",
            "Mend or export the series again, or leave out --dicom.",
        ) from error
    names = tuple(name.format(vertebra.lower()) for name in (SEGMENTATION, REPORT))
    for name, content in zip(names, made, strict=True):
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return names


def uid_of(*words: str) -> str:
    """The UID of what these words name: the same words, the same UID, on every machine."""
    return f"2.25.{uuid.uuid5(NAMESPACE, ' '.join(words)).int}"


def _objects(
    source: SourceSlices, vertebra: str, document: Mapping[str, Any], mask_zyx: BoolArray
) -> tuple[bytes, bytes]:
    sha256 = document["model"]["sha256"]
    drawn = hashlib.sha256(source.planes.tobytes()).hexdigest()
    uids = {
        "object": UNNAMED,
        "device": uid_of("device", __version__, sha256),
        **{name: uid_of(name, source.series_uid, vertebra, drawn) for name in ("tracking", "core", "class")},
    }
    level = document["level"] or {"segmenter": "", "found_as": "", "decided_by": "", "identity": ""}
    segmentation = dicom_segment.segmentation(source, vertebra, level, sha256, uids["tracking"], UNNAMED)
    named = _named(segmentation, source.series_uid)
    report = dicom_report.report(source, segmentation, vertebra, document, uids)
    return named, _named(report, source.series_uid)


def _named(made: Any, source_series_uid: str) -> bytes:
    """Give the object the UIDs that its content deserves, and none of this moment's; returns it as a file's bytes."""
    from pydicom.uid import UID

    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in made:
            delattr(made, keyword)
    # highdicom alone: the scanner and its hospital are in the CT, and the time is this moment's.
    library = made.ContributingEquipmentSequence[-1]
    del library.ContributionDateTime
    made.ContributingEquipmentSequence = [library]
    _name_dimensions(made, UNNAMED)
    digest = hashlib.sha256(_file_bytes(made)).hexdigest()
    kind = str(made.Modality)
    made.SOPInstanceUID = UID(uid_of("instance", kind, source_series_uid, digest))
    made.SeriesInstanceUID = UID(uid_of("series", kind, source_series_uid, digest))
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    _name_dimensions(made, uid_of("dimensions", kind, source_series_uid, digest))
    return _file_bytes(made)


def _name_dimensions(made: Any, uid: str) -> None:
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(sequence, ()):
            item.DimensionOrganizationUID = uid


def _file_bytes(made: Any) -> bytes:
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
