"""The slices of a DICOM series: the header of each, and their pixels, several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.ct_source import DTYPES
from medconv.dicom_header import COLUMNS, ROWS, read_header
from medconv.dicom_tags import ACQUISITION_TAGS, acquisition_from_tags, numbers, positive_number
from medconv.input_paths import check_text
from medconv.types import Acquisition, FloatArray, InputRefused

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
INSTANCE_UID, FRAMES = "0008|0018", "0028|0008"
SLICE_TAGS = (POSITION, ORIENTATION, PIXEL_SPACING, INSTANCE_UID, FRAMES, *ACQUISITION_TAGS)
AHEAD = 16  # slices decoded before they are asked for
FILES_AT_A_TIME = 32
MOST_THREADS = 4  # more only make each other wait for the disk


@dataclass(frozen=True)
class SliceHeader:
    """What the file of one slice says. is_whole: all its pixels are in the file; False where only reading can tell."""

    file_name: str
    instance_uid: str
    position: FloatArray
    orientation: FloatArray
    pixel_spacing: FloatArray
    acquisition: Acquisition
    shape_yx: tuple[int, int]
    is_whole: bool

    @property
    def height(self) -> float:
        """Millimetres along the slices' normal."""
        return float(self.position @ np.cross(self.orientation[:3], self.orientation[3:]))


def read_slice_headers(files: Sequence[str]) -> list[SliceHeader]:
    """The header of every file, in their order. Raises InputRefused for one that is no slice of a CT."""
    parts = [files[start : start + FILES_AT_A_TIME] for start in range(0, len(files), FILES_AT_A_TIME)]
    with quiet_warnings(), ThreadPoolExecutor(_threads()) as pool:
        return [header for part in pool.map(lambda part: list(map(_slice_header, part)), parts) for header in part]


def _slice_header(file_name: str) -> SliceHeader:
    tags, shape_yx, is_whole = _tags_of(file_name)
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
    acquisition = acquisition_from_tags(tags)
    return SliceHeader(file_name, uid, position, orientation, spacing, acquisition, shape_yx, is_whole)


def _tags_of(file_name: str) -> tuple[dict[str, str], tuple[int, int], bool]:
    """Tags, rows and columns, and whether the file is known to be whole."""
    header = read_header(file_name, SLICE_TAGS)
    if header is not None and {ROWS, COLUMNS} <= header.tags.keys():
        return header.tags, (int(header.tags[ROWS]), int(header.tags[COLUMNS])), header.is_whole
    reader = header_reader(file_name)
    columns, rows = reader.GetSize()[:2]
    return all_tags(reader), (rows, columns), False


def header_reader(file_name: str) -> sitk.ImageFileReader:
    """SimpleITK's reader with the file's header read. Raises InputRefused if it is no DICOM."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(check_text(file_name))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputRefused(
            "unreadable", "A file of the series can't be read as DICOM.", "Export the series again."
        ) from error
    return reader


def all_tags(reader: sitk.ImageFileReader) -> dict[str, str]:
    """Every tag as text, by "gggg|eeee"."""
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


@dataclass(frozen=True)
class SeriesVoxels:
    """The pixels of a series, file by file in slice order, decoded by several threads (SimpleITK lets them run).

    doubtful: slices whose file may not hold all its pixels; they are read even if nobody wants them, and so refused.
    """

    files: tuple[str, ...]
    shape_yx: tuple[int, int]
    pixel_id: int
    doubtful: frozenset[int] = frozenset()

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.pixel_id])

    def whole(self) -> tuple[NDArray[Any], object]:
        result = np.empty((len(self.files), *self.shape_yx), self.dtype)
        for z, values in self.slices(range(len(self.files))):
            result[z] = values
        result.flags.writeable = False
        return result, result

    def slices(self, wanted: Iterable[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        chosen = set(wanted)
        with quiet_warnings(), ThreadPoolExecutor(_threads()) as pool:
            waiting: list[tuple[int, Future[NDArray[Any]]]] = []
            # A few ahead of who takes them, so that a whole CT never stands in memory twice.
            for z in sorted(chosen | self.doubtful):
                waiting.append((z, pool.submit(self._slice, z)))
                if len(waiting) > AHEAD:
                    yield from self._taken(waiting, chosen)
            while waiting:
                yield from self._taken(waiting, chosen)

    @staticmethod
    def _taken(waiting: list[tuple[int, Future[NDArray[Any]]]], chosen: set[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        z, coming = waiting.pop(0)
        values = coming.result()
        if z in chosen:
            yield z, values

    def _slice(self, z: int) -> NDArray[Any]:
        try:
            image = sitk.ReadImage(self.files[z], self.pixel_id)
        except RuntimeError as error:
            raise unreadable_series() from error
        values = sitk.GetArrayFromImage(image)
        if values.shape != (1, *self.shape_yx):
            raise unreadable_series()
        return values[0]


def unreadable_series() -> InputRefused:
    """The refusal of a series of which a file can't be decoded, or has another size than the others."""
    return InputRefused(
        "unreadable",
        "The DICOM series can't be read: a file is damaged or the slices differ in size.",
        "Export the series again.",
    )


def _threads() -> int:
    """No more than SimpleITK itself may use: a batch gives every process one."""
    return max(1, min(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), MOST_THREADS))


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """ITK's own warnings off: what they warn of is checked here and said in a person's words."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
