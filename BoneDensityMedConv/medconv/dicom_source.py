"""The slices of a DICOM series that hold L1, and where L1 lies on each: what DICOM results refer to.

Results lie on the slices themselves (their positions, their pixels), never on a grid that was computed from them.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.packages import how_to_install
from medconv.types import FloatArray, InputRefused, L1Mask, MissingRequirement, UsageError

UTF_8 = "ISO_IR 192"
# Dates and times of the CT, the nearest to the making of its images first.
MOMENTS = ("Content", "Acquisition", "Series", "Study")
NO_DATE, NO_TIME = "19000101", "000000"  # of a series without any date (de-identified): the standard wants one
# DICOM type 2: must be there, may be empty (PS3.3 C.7.1.1 Patient, C.7.2.1 General Study).
MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
SEXES = ("M", "F", "O", "")
CT_SLICE, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.2"  # made of slices afterwards
IN_PLANE_TOLERANCE = 0.1  # pixels
_POSITION_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness",
]  # fmt: skip


@dataclass(frozen=True)
class SourceSlices:
    """The slices that hold L1, in the CT's slice order.

    headers: pydicom datasets without pixels, in Unicode, with empty values where the standard allows none to be absent;
    one a slice, or that of an enhanced CT alone. planes: L1 on each slice, shape (slices, rows, columns), 0/1.
    frame_positions_lps_mm: of an enhanced CT, where each slice lies, shape (slices, 3); else None.
    pixel_spacing_mm: between rows, between columns. gap_mm: between neighbouring slices of the series.
    """

    headers: tuple[Any, ...]
    planes: NDArray[np.uint8]
    frame_positions_lps_mm: FloatArray | None
    pixel_spacing_mm: tuple[float, float]
    thickness_mm: float
    gap_mm: float

    @property
    def moment(self) -> tuple[str, str]:
        """Date and time (DICOM's DA and TM) of the CT's images: the results' own, see docs/dicom-results.md."""
        first = self.headers[0]
        for name in MOMENTS:
            if date := str(first.get(f"{name}Date") or ""):
                return date, str(first.get(f"{name}Time") or "") or NO_TIME
        return NO_DATE, NO_TIME

    @property
    def series_uid(self) -> str:
        return str(self.headers[0].SeriesInstanceUID)


def check_installed() -> None:
    """Raises MissingRequirement without highdicom and pydicom."""
    try:
        import highdicom  # noqa: F401
        import pydicom  # noqa: F401
    except ImportError as error:
        raise MissingRequirement(
            "highdicom_missing",
            f"DICOM results need the packages highdicom and pydicom ({error}).",
            how_to_install("batch"),
        ) from error


def check_path(ct: Path) -> None:
    """Refuse, before any work, a CT that no DICOM result can refer to. Raises UsageError."""
    if ct.is_file() and not enhanced_file(ct):
        raise UsageError(
            "dicom_needs_series",
            f"--dicom needs a CT as a DICOM series (a folder) or as an enhanced CT (one DICOM file with all slices); "
            f"{ct.name} is neither.",
            "Give the folder with the CT's slices, or leave out --dicom.",
        )


def enhanced_file(ct: Path) -> tuple[str, ...]:
    """The file as a series of one if it is an enhanced (multi-frame) CT, else nothing."""
    if not ct.is_file():  # a reader would wait for ever on a pipe
        return ()
    try:
        kind = str(_header(str(ct), ["SOPClassUID"]).get("SOPClassUID"))
    except InputRefused:
        return ()
    return (str(ct),) if kind in (ENHANCED_CT, LEGACY_ENHANCED_CT) else ()


def check_series(files: Sequence[str]) -> None:
    """Refuse a series whose headers lack what every DICOM result must repeat. Reads one header. Raises InputRefused."""
    header = _header(files[0])
    needed = {
        "StudyInstanceUID": "study", "SeriesInstanceUID": "series", "SOPInstanceUID": "images",
        "FrameOfReferenceUID": "frame of reference",
    }  # fmt: skip
    missing = [name for keyword, name in needed.items() if not str(header.get(keyword) or "").strip()]
    if missing:
        raise InputRefused(
            "dicom_without_uids",
            f"The series has no UID of its {', '.join(missing)}: a DICOM result can't say what it belongs to.",
            "Export the series again with its UIDs, or leave out --dicom.",
        )
    if str(header.get("SOPClassUID")) != CT_SLICE and not _is_enhanced(header):
        raise InputRefused(
            "dicom_not_ct_slices",
            "DICOM results need a series of CT slices (CT Image Storage, one file a slice) or an enhanced CT.",
            "Give the original CT series, or leave out --dicom.",
        )


def source_slices(files: Sequence[str], mask: L1Mask) -> SourceSlices:
    """The slices that hold the mask, with the mask on their own pixels.

    files: those of the series that the CT was read from, in any order. mask: on the CT's grid or on one cut from it.
    Raises InputRefused where the files and the CT's grid don't belong together, or a header can't be carried over.
    """
    check_series(files)
    with quiet():
        stack = _Stack.of(files, np.reshape(mask.ct_geometry.direction, (3, 3))[:, 2])
        first, row, column = stack.index_of(mask)
        used = np.flatnonzero(mask.block_zyx.any(axis=(1, 2)))
        numbers = used if stack.enhanced is None else used[:1]
        headers = tuple(_carried_over(_header(stack.files[first + k])) for k in numbers)
    rows, columns = int(headers[0].Rows), int(headers[0].Columns)
    _, height, width = mask.block_zyx.shape
    if row < 0 or column < 0 or row + height > rows or column + width > columns:
        raise _not_of_this_ct()
    planes = np.zeros((len(used), rows, columns), np.uint8)
    planes[:, row : row + height, column : column + width] = mask.block_zyx[used]
    positions = None if stack.enhanced is None else stack.positions_lps_mm[first + used]
    down, across = map(float, stack.pixel_spacing)
    gap = stack.gap_mm
    return SourceSlices(headers, planes, positions, (down, across), stack.thickness_mm or gap, gap)


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom's warnings of odd values off: they quote the values, and those may name a patient."""
    import logging

    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


@dataclass(frozen=True)
class _Stack:
    """The files of a series in slice order, with where each slice lies.

    files: the same one for every frame of an enhanced CT, whose header is `enhanced`. thickness_mm: 0 if it isn't told.
    positions_lps_mm: shape (slices, 3). orientation: row and column direction. pixel_spacing: between rows, columns.
    """

    files: tuple[str, ...]
    positions_lps_mm: FloatArray
    orientation: FloatArray
    pixel_spacing: FloatArray
    thickness_mm: float
    normal: FloatArray
    enhanced: Any = None

    @staticmethod
    def of(files: Sequence[str], normal: FloatArray) -> _Stack:
        from pydicom import dcmread

        tags = {name: dcmread(name, stop_before_pixels=True, specific_tags=_POSITION_TAGS) for name in files}
        once = {str(header.SOPInstanceUID): (name, header) for name, header in tags.items()}
        header = next(iter(tags.values()))
        enhanced = _header(files[0]) if _is_enhanced(header) else None
        try:
            if enhanced is not None:
                frames = range(len(enhanced.PerFrameFunctionalGroupsSequence))
                placed = [(files[0], _group(enhanced, k, "PlanePositionSequence")) for k in frames]
                plane, measures = (
                    _group(enhanced, 0, name) for name in ("PlaneOrientationSequence", "PixelMeasuresSequence")
                )
            else:
                placed, plane, measures = list(once.values()), header, header
            found = sorted(
                (float(np.dot(position, normal)), name, position)
                for name, place in placed
                for position in [tuple(float(v) for v in place.ImagePositionPatient)]
            )
            orientation = np.array([float(v) for v in plane.ImageOrientationPatient])
            spacing = np.array([float(v) for v in measures.PixelSpacing])
            thickness = float(measures.get("SliceThickness") or 0)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise _not_of_this_ct() from error
        positions = np.array([position for _, _, position in found])
        names = tuple(name for _, name, _ in found)
        return _Stack(names, positions, orientation, spacing, thickness, normal, enhanced)

    @property
    def gap_mm(self) -> float:
        return float(np.median(np.abs(np.diff(self.positions_lps_mm @ self.normal))))

    def index_of(self, mask: L1Mask) -> tuple[int, int, int]:
        """Slice, row and column of the first voxel of the mask's block."""
        direction = np.reshape(mask.ct_geometry.direction, (3, 3))
        in_plane = np.concatenate([direction[:, 0], direction[:, 1]])
        if len(self.files) < 2 or np.abs(in_plane - self.orientation).max() > 1e-3:
            raise _not_of_this_ct()
        # By the CT's first slice, which is exact: slices that are not quite evenly spaced drift from the grid.
        heights, origin = self.positions_lps_mm @ self.normal, np.asarray(mask.ct_geometry.origin_lps_mm)
        first = int(np.abs(heights - origin @ self.normal).argmin())
        x, y, z = mask.start_xyz
        aside = origin - self.positions_lps_mm[first]
        column = float(aside @ self.orientation[:3] / self.pixel_spacing[1])
        row = float(aside @ self.orientation[3:] / self.pixel_spacing[0])
        off = max(abs(column - round(column)), abs(row - round(row)), abs(float(aside @ self.normal)) / self.gap_mm)
        if off > IN_PLANE_TOLERANCE or first + z + len(mask.block_zyx) > len(self.files):
            raise _not_of_this_ct()
        return first + z, round(row) + y, round(column) + x


def _is_enhanced(header: Any) -> bool:
    return str(header.get("SOPClassUID")) in (ENHANCED_CT, LEGACY_ENHANCED_CT)


def _group(header: Any, frame: int, name: str) -> Any:
    """A frame's own functional group, else the one that all frames share (PS3.3 C.7.6.16)."""
    own = header.PerFrameFunctionalGroupsSequence[frame]
    return (own[name] if name in own else header.SharedFunctionalGroupsSequence[0][name])[0]


def _header(file_name: str, tags: list[str] | None = None) -> Any:
    """A file's header, or these tags of it. Raises InputRefused."""
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException, InvalidDicomError

    # pydicom lets through what damage raises within it: TypeError without a transfer syntax, NotImplementedError for an
    # unknown VR, ValueError for text, zlib.error for a deflated file. Values are converted when they are asked for.
    damage = (BytesLengthException, EOFError, NotImplementedError, TypeError, ValueError, zlib.error)
    try:
        with quiet():
            header = dcmread(file_name, stop_before_pixels=True, specific_tags=tags)
            header.get("SOPClassUID")
            return header
    except (InvalidDicomError, OSError, *damage) as error:
        raise InputRefused(
            "unreadable", "A file of the series can't be read as DICOM.", "Export the series again."
        ) from error


def _carried_over(header: Any) -> Any:
    """A slice's header made fit to be repeated: in Unicode, absent values empty, unreadable dates and sexes empty."""
    from pydicom.valuerep import DA, TM

    header.decode()  # out of the series' own character set
    header.SpecificCharacterSet = UTF_8
    for keyword in MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    if str(header.PatientSex or "") not in SEXES:
        header.PatientSex = ""
    for element in header:
        if element.VR in ("DA", "TM") and element.value:
            try:
                kind = DA if element.VR == "DA" else TM
                element.value = str(kind(str(element.value)))
            except ValueError:
                element.value = None
    return header


def _not_of_this_ct() -> InputRefused:
    return InputRefused(
        "dicom_does_not_fit",
        "The mask can't be laid onto the slices of the DICOM series: their positions don't fit the CT as it was read.",
        "Export the series again, or leave out --dicom.",
    )
