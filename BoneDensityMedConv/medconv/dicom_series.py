"""One DICOM series as a CT: choose it, read it, and check that its slices make an even stack.

A missing slice, two reconstructions mixed in one series, or a tilted gantry would bend the anatomy without a word,
because an image grid has one spacing and right angles. Each is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medconv.dicom_tags import acquisition_from_tags, numbers, positive_number
from medconv.grid import geometry_of
from medconv.types import Acquisition, CTVolume, FloatArray, InputRefused

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
SERIES_DESCRIPTION, MODALITY, INSTANCE_UID, FRAMES = "0008|103e", "0008|0060", "0008|0018", "0028|0008"
GAP_TOLERANCE = 0.1  # of the median gap
TILT_TOLERANCE_DEG = 0.5
CHOOSE = "Choose one with --series UID."


@dataclass(frozen=True)
class Series:
    """The files of one series."""

    uid: str
    files: tuple[str, ...]
    description: str
    modality: str


def list_series(folder: Path) -> list[Series]:
    """Every DICOM series in the folder and those below it; one that is spread over several folders counts once."""
    return _merged([series for sub in _folders(folder) for series in _series_in(sub)])


def find_series(folder: Path, uid: str | None = None) -> Series:
    """The series of that UID in the folder, or the only one with more than one slice.

    Raises InputRefused if there is none, or several and no UID; the message lists them.
    """
    found = list_series(folder)
    if not found:
        raise InputRefused(
            "no_dicom", "The folder holds no readable DICOM series.", "Give the folder with the CT's slices."
        )
    if uid is not None:
        for series in found:
            if series.uid == uid:
                return series
        raise InputRefused("series_missing", "The folder holds no series of that UID.", CHOOSE, _listing(found))
    volumes = [series for series in found if len(series.files) > 1] or found
    if len(volumes) > 1:
        raise InputRefused("several_series", f"The folder holds {len(volumes)} series.", CHOOSE, _listing(volumes))
    return volumes[0]


def read_series(series: Series, source: str) -> CTVolume:
    """Read a series in slice order. Raises InputRefused for one slice, unreadable files, or an uneven stack."""
    headers = list({header.instance_uid: header for header in map(_header, series.files)}.values())
    if len(headers) < 2:
        raise InputRefused("single_slice", "The series has a single slice.", "Give a CT with all its slices.")
    headers.sort(key=lambda header: header.height)
    check_stack(
        np.array([h.position for h in headers]),
        np.array([h.orientation for h in headers]),
        np.array([h.pixel_spacing for h in headers]),
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([header.file_name for header in headers])
    try:
        with quiet_warnings():
            image = reader.Execute()
    except RuntimeError as error:
        raise InputRefused(
            "unreadable",
            "The DICOM series can't be read: a file is damaged or the slices differ in size.",
            "Export the series again.",
        ) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputRefused("image_in_colour", "The series is a colour image.", "Choose the original CT series.")
    return CTVolume(
        sitk.GetArrayViewFromImage(image), geometry_of(image), headers[0].acquisition, source, keep_alive=image
    )


def check_stack(positions_lps_mm: FloatArray, orientations: FloatArray, pixel_spacings: FloatArray) -> None:
    """Raise InputRefused unless the slices are alike, parallel, evenly spaced and stacked at right angles.

    positions_lps_mm: shape (slices, 3), in slice order. orientations: shape (slices, 6), row and column directions.
    pixel_spacings: shape (slices, 2), millimetres.
    """
    if np.abs(pixel_spacings - pixel_spacings[0]).max() > 1e-3 * pixel_spacings[0].max():
        raise InputRefused(
            "slices_differ", "The slices of the series have different pixel sizes.", "Export the series again."
        )
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise InputRefused(
            "slices_not_parallel",
            "The slices of the series are not parallel (a scout image among them?).",
            "Choose a series of parallel slices.",
        )
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    steps = np.diff(positions_lps_mm, axis=0)
    gaps = steps @ normal
    median = float(np.median(np.abs(gaps)))
    if median < 1e-3 or np.min(np.abs(gaps)) < 1e-3:
        at = int(np.argmin(np.abs(gaps)))
        raise InputRefused(
            "slices_repeated",
            f"Slices {at + 1} and {at + 2} lie at the same place: the series mixes phases or reconstructions.",
            "Split the series, or export a single phase.",
        )
    worst = int(np.argmax(np.abs(np.abs(gaps) - median)))
    if abs(abs(gaps[worst]) - median) > GAP_TOLERANCE * median:
        kind = "slices are missing" if abs(gaps[worst]) > 1.5 * median else "the spacing is uneven"
        raise InputRefused(
            "slices_uneven",
            f"Between slices {worst + 1} and {worst + 2} lie {abs(gaps[worst]):.2f} mm, elsewhere {median:.2f} mm: "
            f"{kind}.",
            "Export the complete series again.",
        )
    _check_straight(positions_lps_mm, normal, pixel_spacings[0])


def _check_straight(positions_lps_mm: FloatArray, normal: FloatArray, pixel_spacing: FloatArray) -> None:
    """Refuse a tilted stack, and one in which a slice lies beside the line of the others."""
    whole = positions_lps_mm[-1] - positions_lps_mm[0]
    tilt = np.degrees(np.arccos(np.clip(abs(whole @ normal) / np.linalg.norm(whole), 0, 1)))
    if tilt > TILT_TOLERANCE_DEG:
        raise InputRefused(
            "gantry_tilt",
            f"The slices were taken with the gantry tilted by {tilt:.1f} degrees.",
            "Use a series without tilt, or correct it first (in Slicer: DICOM import, acquisition geometry "
            "regularisation).",
        )
    along = (positions_lps_mm - positions_lps_mm[0]) @ normal
    expected = positions_lps_mm[0] + np.outer(along / along[-1], whole)
    aside = np.linalg.norm(positions_lps_mm - expected, axis=1)
    if aside.max() > 0.5 * pixel_spacing.min():
        raise InputRefused(
            "slices_shifted",
            f"Slice {int(aside.argmax()) + 1} lies {aside.max():.1f} mm beside the line of the others.",
            "Export the series again; if the table moved, use another reconstruction.",
        )


@dataclass(frozen=True)
class _Header:
    file_name: str
    instance_uid: str
    position: FloatArray
    orientation: FloatArray
    pixel_spacing: FloatArray
    acquisition: Acquisition

    @property
    def height(self) -> float:
        """Millimetres along the slices' normal."""
        return float(self.position @ np.cross(self.orientation[:3], self.orientation[3:]))


def _header(file_name: str) -> _Header:
    tags = _read_tags(file_name)
    if (positive_number(tags, FRAMES) or 1) > 1:
        raise InputRefused(
            "multi_frame",
            "The folder holds an enhanced (multi-frame) CT, which is one file.",
            "Give that file itself instead of the folder.",
        )
    values = [numbers(tags, key, n) for key, n in ((POSITION, 3), (ORIENTATION, 6), (PIXEL_SPACING, 2))]
    if any(value is None for value in values):
        raise InputRefused(
            "position_missing",
            "A slice of the series doesn't say where it lies in the patient.",
            "Choose an original CT series (not a screenshot or a report).",
        )
    position, orientation, spacing = (np.array(value) for value in values)
    # Without a UID every file stands for itself.
    uid = tags.get(INSTANCE_UID, "").strip(" \0") or file_name
    return _Header(file_name, uid, position, orientation, spacing, acquisition_from_tags(tags))


def _read_tags(file_name: str) -> dict[str, str]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file_name)
    try:
        with quiet_warnings():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputRefused(
            "unreadable", "A file of the series can't be read as DICOM.", "Export the series again."
        ) from error
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def _folders(folder: Path) -> Iterator[Path]:
    for root, _, files in os.walk(folder):
        if files:
            yield Path(root)


def _series_in(folder: Path) -> Iterator[Series]:
    with quiet_warnings():
        uids: Sequence[str] = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        for uid in uids:
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
            tags = _read_tags(files[0]) if files else {}
            if files:
                yield Series(
                    uid, tuple(files), tags.get(SERIES_DESCRIPTION, "").strip(), tags.get(MODALITY, "").strip()
                )


def _merged(found: Sequence[Series]) -> list[Series]:
    """Parts of one series that an export put into several folders, together again."""
    merged: dict[str, Series] = {}
    for part in found:
        before = merged.get(part.uid)
        merged[part.uid] = replace(before, files=before.files + part.files) if before and part.uid else part
    return list(merged.values())


def _listing(found: Sequence[Series]) -> str:
    return "; ".join(
        f"{series.uid or '(no UID)'}: {len(series.files)} slices, {series.modality}, {series.description}"
        for series in found
    )


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """ITK's own warnings off: what they warn of is checked here and said in a person's words."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
