"""CTs and label maps from files: NIfTI, NRRD, MetaImage, and DICOM series, through SimpleITK.

The voxels stay as they are stored, on the file's own grid; orientation travels with them as geometry.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.dicom_series import find_series, read_series
from medconv.dicom_tags import acquisition_from_tags
from medconv.grid import geometry_of, to_image
from medconv.types import CTVolume, ImageGeometry, Index3, InputRefused

SIMULATED_MARK = "medconv simulated CT"  # stands in NIfTI's description field of every CT that medconv made itself


def read_ct(path: str | Path, series_uid: str | None = None) -> CTVolume:
    """A CT from a file, or from a folder that holds a DICOM series.

    series_uid: which series, if the folder holds several.
    Raises InputRefused if there is nothing readable, the image isn't a single 3D volume, or the slices of a series
    are missing, uneven or tilted.
    """
    path = _existing(path)
    if path.is_dir():
        return read_series(find_series(path, series_uid), source=path.name)
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
    image = _execute(reader, path)
    description = tags.get("descrip", "") + tags.get("description", "")
    return CTVolume(
        sitk.GetArrayViewFromImage(image),
        geometry_of(image),
        acquisition_from_tags(tags),
        source=path.name,
        is_simulated=SIMULATED_MARK in description,
        keep_alive=image,
    )


def check_file(path: str | Path) -> Index3:
    """Refuse what can be told without reading the voxels; returns the volume's size (x, y, z).

    Raises InputRefused as `read_ct` does for what is missing, damaged, cut off, no single volume, or of no or several
    series. Of a DICOM series, z is the number of its files.
    """
    path = _existing(path)
    files = find_series(path).files if path.is_dir() else (str(path),)
    reader = _reader(Path(files[0]))
    if path.is_file():
        _check_volume(reader, path)
        _check_complete(path, _tags(reader))
    size = reader.GetSize()
    return int(size[0]), int(size[1]), len(files) if path.is_dir() else int(size[2])


def read_labels(path: str | Path) -> tuple[NDArray[Any], ImageGeometry, object]:
    """A label map: integer labels (z, y, x), their grid, and the owner of the memory (keep it while in use).

    Raises InputRefused if the file can't be read as a 3D label map.
    """
    path = _existing(path)
    if path.is_dir():
        raise InputRefused(
            "mask_is_folder", "The mask is a folder, it must be a file.", "Give a NIfTI or NRRD label map."
        )
    reader = _reader(path)
    _check_volume(reader, path)
    _check_complete(path, _tags(reader))
    image = _execute(reader, path)
    values = sitk.GetArrayViewFromImage(image)
    whole = values.dtype.kind in "iu" or bool(np.all(np.abs(values - np.round(values)) < 1e-3))
    if not whole or values.min() < 0:
        raise InputRefused(
            "not_a_label_map",
            "The mask is no label map: it holds negative or fractional values.",
            "Give a label map with whole numbers (not the CT itself, a probability map or an interpolated mask).",
        )
    if values.dtype.kind == "f":
        image = sitk.Cast(sitk.Round(image), sitk.sitkInt32)
    return sitk.GetArrayViewFromImage(image), geometry_of(image), image


def write_image(path: Path, array_zyx: NDArray[Any], geometry: ImageGeometry) -> None:
    """Write an array as a compressed image file on that grid; the ending chooses the format."""
    sitk.WriteImage(to_image(array_zyx, geometry), str(path), useCompression=True)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise InputRefused("file_missing", "There is no such file or folder.", "Check the path.", str(path))
    return path


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return reader


def _execute(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    try:
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
    return InputRefused(
        "unreadable",
        "The file can't be read as an image: it is damaged, cut off, or of another format.",
        "Expected NIfTI (.nii, .nii.gz), NRRD (.nrrd), MetaImage (.mha), or a folder with a DICOM series.",
        path.name,
    )


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
    try:
        with gzip.open(path) as stream:
            while block := stream.read(1 << 24):
                size += len(block)
    except (EOFError, OSError, zlib.error):
        pass  # cut off or damaged: what could be read is what it holds
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
