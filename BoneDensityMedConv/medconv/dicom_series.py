"""One DICOM series as a CT: choose it, read it, and check that its slices make an even stack.

A missing slice, two reconstructions mixed in one series, or a tilted gantry would bend the anatomy without a word,
because an image grid has one spacing and right angles. Each is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medconv.ct_source import CTSource
from medconv.dicom_header import read_header
from medconv.dicom_slices import SeriesVoxels, all_tags, header_reader, read_slice_headers, unreadable_series
from medconv.dicom_slices import quiet_warnings as quiet_warnings
from medconv.dicom_stack import check_stack
from medconv.input_paths import check_text, existing, not_permitted
from medconv.types import CTVolume, ImageGeometry, InputRefused

SERIES_UID, SERIES_DESCRIPTION, MODALITY = "0020|000e", "0008|103e", "0008|0060"
CHOOSE = "Choose one with --series UID."
SYSTEM_FOLDERS = ("System Volume Information", "lost+found", "$RECYCLE.BIN")  # closed to most users, never a CT in it


@dataclass(frozen=True)
class Series:
    """The files of one series."""

    uid: str
    files: tuple[str, ...]
    description: str
    modality: str


def list_series(folder: Path) -> list[Series]:
    """Every DICOM series in the folder and those below it; one that is spread over several folders counts once.

    Raises InputRefused if a folder may not be listed, as a part of a series may lie in it; hidden ones and the system's
    own are passed over unless nothing is found without them.
    """
    closed: list[str] = []
    found = _merged([series for sub in _folders(folder, closed) for series in _series_in(sub)])
    doubtful = [name for name in closed if not found or not _is_systems(name)]
    if doubtful:
        raise InputRefused(
            "permission_denied",
            "A folder within it may not be read by this user, and slices of the CT may lie there.",
            "Ask for the right to read it, or give the folder with the CT's slices alone.",
            ", ".join(doubtful),
        )
    return found


def find_series(folder: Path, uid: str | None = None) -> Series:
    """The series of that UID in the folder, or the only one with more than one slice.

    Raises InputRefused if there is none, or several and no UID; the message lists them.
    """
    found = list_series(existing(folder))
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
    return open_series(series, source).read()


def open_series(series: Series, source: str) -> CTSource:
    """A series' headers, read and judged, in slice order. Raises as `read_series`, as far as headers can tell."""
    found = read_slice_headers([check_text(file) for file in series.files])
    headers = list({header.instance_uid: header for header in found}.values())
    if len(headers) < 2:
        raise InputRefused("single_slice", "The series has a single slice.", "Give a CT with all its slices.")
    headers.sort(key=lambda header: header.height)
    check_stack(
        np.array([h.position for h in headers]),
        np.array([h.orientation for h in headers]),
        np.array([h.pixel_spacing for h in headers]),
    )
    if len({header.shape_yx for header in headers}) > 1:
        raise unreadable_series()
    files = tuple(header.file_name for header in headers)
    first, last = header_reader(files[0]), header_reader(files[-1])
    if first.GetNumberOfComponents() != 1:
        raise InputRefused("image_in_colour", "The series is a colour image.", "Choose the original CT series.")
    columns, rows = first.GetSize()[:2]
    # As ImageSeriesReader has it: the slices are evenly spaced between the first and the last.
    gap = float(np.linalg.norm(np.subtract(last.GetOrigin(), first.GetOrigin()))) / (len(files) - 1)
    width, height = first.GetSpacing()[:2]
    geometry = ImageGeometry((columns, rows, len(files)), (width, height, gap), first.GetOrigin(), first.GetDirection())
    doubtful = frozenset(z for z, header in enumerate(headers) if not header.is_whole)
    voxels = SeriesVoxels(files, (rows, columns), first.GetPixelID(), doubtful)
    return CTSource(geometry, headers[0].acquisition, source, False, voxels, files)


def _folders(folder: Path, closed: list[str]) -> Iterator[Path]:
    """The folders with files in them; the names of those that may not be listed are put into `closed`."""

    def note_closed(error: OSError) -> None:
        if not isinstance(error, PermissionError):
            raise error
        closed.append(Path(error.filename).name)

    for root, _, files in os.walk(folder, onerror=note_closed):
        if files:
            yield Path(root)


def _is_systems(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _series_in(folder: Path) -> list[Series]:
    """The series of one folder by a quick look at every file; where that does not settle it, by SimpleITK's search."""
    files = sorted(str(file) for file in folder.iterdir() if file.is_file())
    headers = [read_header(file, (SERIES_UID, SERIES_DESCRIPTION, MODALITY)) for file in files]
    found: dict[str, tuple[list[str], dict[str, str]]] = {}
    for file, header in zip(files, headers, strict=True):
        uid = header.tags.get(SERIES_UID, "").strip(" \0") if header else ""
        if header is None and not os.access(file, os.R_OK):
            raise not_permitted()  # the search would leave it out
        if header is None or not header.is_whole or not uid:
            return _searched(folder)
        found.setdefault(uid, ([], header.tags))[0].append(file)
    return [_series(uid, *found[uid]) for uid in sorted(found)]


def _searched(folder: Path) -> list[Series]:
    found = []
    with quiet_warnings():
        uids: Sequence[str] = sitk.ImageSeriesReader.GetGDCMSeriesIDs(check_text(folder))
        for uid in uids:
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
            if files:
                found.append(_series(uid, files, all_tags(header_reader(files[0]))))
    return found


def _series(uid: str, files: Sequence[str], tags: Mapping[str, str]) -> Series:
    return Series(uid, tuple(files), tags.get(SERIES_DESCRIPTION, "").strip(), tags.get(MODALITY, "").strip())


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
