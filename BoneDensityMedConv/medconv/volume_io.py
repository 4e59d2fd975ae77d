"""CTs and label maps from files: NIfTI, NRRD, MetaImage, and DICOM series, through SimpleITK.

The voxels stay as they are stored, on the file's own grid; orientation travels with them as geometry.
"""

from __future__ import annotations

import contextlib
import locale
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.block_file import write_block
from medconv.ct_source import DTYPES, CTSource, ImageVoxels, Voxels
from medconv.dicom_series import Series, find_series, open_series
from medconv.dicom_tags import acquisition_from_tags
from medconv.file_layout import layout_of
from medconv.grid import to_image
from medconv.gzip_stream import pieces
from medconv.input_paths import check_text, existing
from medconv.types import CTVolume, ImageGeometry, Index3, InputRefused, L1Mask

SIMULATED_MARK = "medconv simulated CT"  # stands in NIfTI's description field of every CT that medconv made itself


def read_ct(path: str | Path, series_uid: str | None = None) -> CTVolume:
    """A CT from a file, or from a folder that holds a DICOM series.

    series_uid: which series, if the folder holds several.
    Raises InputRefused if there is nothing readable, the image isn't a single 3D volume, or the slices of a series
    are missing, uneven or tilted.
    """
    return open_ct(path, series_uid).read()


def open_ct(path: str | Path, series_uid: str | None = None, files: Sequence[str] | None = None) -> CTSource:
    """A CT's headers, read and judged; its voxels wait for `CTSource.read` or `read_around`.

    files: of the DICOM series, where they are known; the folder is then not searched.
    Raises InputRefused as `read_ct`, as far as headers and the files' sizes can tell.
    """
    path = existing(path)
    if files:
        return open_series(Series(series_uid or "", tuple(files), "", ""), source=path.name)
    if path.is_dir():
        return open_series(find_series(path, series_uid), source=path.name)
    reader = _reader(path)
    tags = _tags(reader)
    if _is_single_dicom_slice(tags):
        raise InputRefused(
            "single_slice",
            "The file is one DICOM slice, not a volume.",
            "Give the folder that holds the series.",
        )
    _check_volume(reader, path)
    _check_complete(path, tags)
    geometry = _geometry(reader)
    description = tags.get("descrip", "") + tags.get("description", "")
    is_simulated = SIMULATED_MARK in description
    return CTSource(geometry, acquisition_from_tags(tags), path.name, is_simulated, _voxels(reader, path, geometry))


def _geometry(reader: sitk.ImageFileReader) -> ImageGeometry:
    """The grid. ITK gives enhanced CTs whose frames run against their normal a negative spacing: turned round here.

    Of a volume that is stored with further axes of length 1, the first three axes (`_reader` reads no more).
    """
    (x, y, z), spacing, (left, back, up) = reader.GetSize()[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3]
    axes = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * np.sign(spacing)
    width, height, depth = map(abs, spacing)
    return ImageGeometry((x, y, z), (width, height, depth), (left, back, up), tuple(map(float, direction.ravel())))


def _voxels(reader: sitk.ImageFileReader, path: Path, geometry: ImageGeometry) -> Voxels:
    dtype = DTYPES.get(reader.GetPixelID())
    layout = layout_of(path, geometry.shape_zyx, np.dtype(dtype)) if dtype else None
    if layout is None:
        return ImageVoxels(reader, lambda reader: _execute(reader, path))
    layout.check_size()
    return layout


def check_file(path: str | Path) -> Index3:
    """Refuse what can be told without reading the voxels; returns the volume's size (x, y, z).

    Raises InputRefused as `read_ct` does for what is missing, damaged, cut off, no single volume, or of no or several
    series. Of a DICOM series, z is the number of its files.
    """
    path = existing(path)
    files = find_series(path).files if path.is_dir() else (str(path),)
    reader = _reader(Path(files[0]))
    if path.is_file():
        _check_volume(reader, path)
        _check_complete(path, _tags(reader))
    size = reader.GetSize()
    return int(size[0]), int(size[1]), len(files) if path.is_dir() else int(size[2])


@dataclass(frozen=True)
class LabelSource:
    """A label map whose header has been read and judged, and whose labels are still in its file."""

    geometry: ImageGeometry
    voxels: Voxels

    def slices(self) -> Iterator[NDArray[Any]]:
        """Every slice in order, shape (y, x), as whole numbers; each is valid until the next one is asked for.

        Raises InputRefused if the file is cut off or damaged, or holds no labels.
        """
        for _, values in self.voxels.slices(range(self.geometry.size_xyz[2])):
            yield _whole_numbers(values)


def open_labels(path: str | Path) -> LabelSource:
    """A label map's header. Raises InputRefused if the file can't be a 3D label map."""
    path = existing(path)
    if path.is_dir():
        raise InputRefused(
            "mask_is_folder", "The mask is a folder, it must be a file.", "Give a NIfTI or NRRD label map."
        )
    reader = _reader(path)
    _check_volume(reader, path)
    _check_complete(path, _tags(reader))
    geometry = _geometry(reader)
    return LabelSource(geometry, _voxels(reader, path, geometry))


def read_labels(path: str | Path) -> tuple[NDArray[Any], ImageGeometry, object]:
    """A label map: integer labels (z, y, x), their grid, and the owner of the memory (keep it while in use).

    `open_labels` and `l1_mask.from_slices` find one label without all this memory.
    Raises InputRefused if the file can't be read as a 3D label map.
    """
    source = open_labels(path)
    if source.voxels.dtype.kind != "f":
        labels, owner = source.voxels.whole()
        for values in labels:
            _whole_numbers(values)
        return labels, source.geometry, owner
    labels = np.empty(source.geometry.shape_zyx, np.int32)
    for place, values in zip(labels, source.slices(), strict=True):
        place[:] = values
    return labels, source.geometry, labels


def _whole_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """A slice of labels as integers. Raises InputRefused if it is something else."""
    if not values.any():
        return values if values.dtype.kind != "f" else values.astype(np.int32)
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    if values.min() < 0 or not (rounded is values or bool((np.abs(values - rounded) < 1e-3).all())):
        raise InputRefused(
            "not_a_label_map",
            "The mask is no label map: it holds negative or fractional values.",
            "Give a label map with whole numbers (not the CT itself, a probability map or an interpolated mask).",
        )
    return rounded if rounded is values else rounded.astype(np.int32)


def write_image(path: Path, array_zyx: NDArray[Any], geometry: ImageGeometry) -> None:
    """Write an array as a compressed image file on that grid; the ending chooses the format."""
    sitk.WriteImage(to_image(array_zyx, geometry), check_text(path), useCompression=True)


def write_mask(path: Path, mask: L1Mask) -> None:
    """Write a mask on the whole CT's grid as .nii.gz, 1 in the vertebra and 0 elsewhere."""
    write_block(path, mask.block_zyx.astype(np.uint8), mask.start_xyz, mask.ct_geometry)


@contextlib.contextmanager
def unchanged_locale() -> Iterator[None]:
    """The process's locale as before: ITK's reader of VTK files and GDCM's writer leave "C", where text is ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with unchanged_locale():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    size = reader.GetSize()
    if len(size) > 3 and set(size[3:]) == {1}:  # one volume: read as 3D; a size of 0 leaves an axis out
        reader.SetExtractSize((*size[:3], *(0 for _ in size[3:])))
    return reader


def _execute(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    try:
        with unchanged_locale():
            return reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: RuntimeError) -> InputRefused:
    if "orthonormal" in str(error):
        return InputRefused(
            "grid_not_orthogonal",
            "The axes of the image's voxel grid are not at right angles (a tilted gantry?).",
            "Export the CT with its tilt corrected.",
        )
    if path.suffix.lower() == ".nii" and _is_gzip(path):
        return InputRefused(
            "unreadable",
            "The file is gzip-compressed, but its name ends in .nii, which says that it is not.",
            f"Name it {path.name}.gz.",
        )
    return InputRefused(
        "unreadable",
        "The file can't be read as an image: it is damaged, cut off, or of another format.",
        "Expected NIfTI (.nii, .nii.gz), NRRD (.nrrd), MetaImage (.mha), or a folder with a DICOM series.",
        path.name,
    )


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _tags(reader: sitk.ImageFileReader) -> dict[str, str]:
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def _is_single_dicom_slice(tags: dict[str, str]) -> bool:
    return "0008|0016" in tags and int(tags.get("0028|0008", "1") or 1) <= 1


def _check_complete(path: Path, tags: dict[str, str]) -> None:
    """Refuse a NIfTI file that is cut off: ITK would read it and fill the missing slices with zeros, unasked."""
    if "bitpix" not in tags or not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    voxels = math.prod(max(1, int(tags.get(f"dim[{axis}]", 1))) for axis in range(1, int(tags["dim[0]"]) + 1))
    expected = int(float(tags["vox_offset"])) + voxels * int(tags["bitpix"]) // 8
    found = _uncompressed_size(path, expected) if path.name.lower().endswith(".gz") else path.stat().st_size
    if found < expected:
        raise InputRefused(
            "file_cut_off",
            f"The file is cut off: it holds {found:,} of {expected:,} bytes.",
            "Copy or export the file again.",
        )


def _uncompressed_size(path: Path, expected: int) -> int:
    """Bytes in a gzip file: from its trailer if that agrees with what is expected, else by reading it through."""
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        if int.from_bytes(stream.read(4), "little") == expected % 2**32:
            return expected
    size = 0
    with contextlib.suppress(InputRefused):  # cut off or damaged: what could be read is what it holds
        for piece in pieces(path):
            size += len(piece)
    return size


def _check_volume(reader: sitk.ImageFileReader, path: Path) -> None:
    size = reader.GetSize()
    large_axes = [n for n in size if n > 1]
    if len(size) > 3 and any(n > 1 for n in size[3:]):
        raise InputRefused(
            "image_4d",
            f"The file is a {len(size)}D image ({' x '.join(map(str, size))}), not a single CT volume.",
            "Give one time point or phase as a 3D image.",
        )
    if len(large_axes) < 3:
        raise InputRefused(
            "image_2d",
            f"The file is a 2D image ({' x '.join(map(str, size))}), not a CT volume.",
            "Give the whole CT as a 3D image or as a folder with its DICOM series.",
        )
    if reader.GetNumberOfComponents() != 1:
        raise InputRefused(
            "image_in_colour",
            f"The file has {reader.GetNumberOfComponents()} values per voxel, a CT has one.",
            "Give the original CT, not a colour rendering.",
        )
