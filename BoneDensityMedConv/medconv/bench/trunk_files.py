"""A large CT as files, written slice by slice: a trunk of soft tissue in air around a simulated L1, and its mask.

512 x 512 x N voxels of 0.9 x 0.9 x 1.5 mm; L1 lies in the middle. What is read is not this process's own doing: the
same files serve every way of reading that is compared.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv import vertebrae
from medconv.bench.settings import Say, silent
from medconv.types import ImageGeometry, Index3
from medconv.volume_io import unchanged_locale

NII, GZ, DICOM = "nii", "nii.gz", "dicom"
LABEL = vertebrae.TOTALSEGMENTATOR["L1"]
AIR, TISSUE_HU, NOISE_HU = -1000, 40, 15
ELLIPSE = (0.45, 0.35)  # half axes of the body, of the image's edge
NIFTI_HEADER, NIFTI_DIM3 = 352, 46  # bytes of a header, and where the number of slices stands in it
GZIP_LEVEL, GZIP_WRAPPER = 1, 31
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
UID = "2.25.1"  # of this study; a patient's would begin otherwise


@dataclass(frozen=True)
class TrunkFiles:
    """A CT as file or folder, L1's mask, and what the CT's voxels take in memory."""

    ct: Path
    mask: Path
    megabytes: float


def write_trunk(folder: Path, shape_zyx: Index3, kind: str = NII, say: Say = silent) -> TrunkFiles:
    """Write the CT as NII, GZ or DICOM, and the mask as .nii.gz. Raises OSError if there is no room."""
    geometry = trunk_geometry(shape_zyx)
    name = "x".join(map(str, geometry.size_xyz))
    ct, mask = folder / f"trunk-{name}.{kind}", folder / f"trunk-{name}-mask.nii.gz"
    slices = _told(_ct_slices(shape_zyx), shape_zyx[0], f"writing {kind}", say)
    if kind == DICOM:
        ct.mkdir()
        _write_dicom(ct, slices, geometry)
    else:
        _write_nifti(ct, slices, geometry, np.dtype("<i2"))
    if not mask.exists():
        _write_nifti(mask, _mask_slices(shape_zyx), geometry, np.dtype("u1"))
    return TrunkFiles(ct, mask, 2e-6 * float(np.prod(shape_zyx)))


def trunk_geometry(shape_zyx: Index3) -> ImageGeometry:
    """The grid of a trunk of that size."""
    z, y, x = shape_zyx
    return ImageGeometry((x, y, z), _l1()[2], (0.0, 0.0, 0.0))


def trunk_arrays(shape_zyx: Index3) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU and mask of a trunk, in memory."""
    return np.stack(list(_ct_slices(shape_zyx))), np.stack(list(_mask_slices(shape_zyx)))


@cache
def _l1() -> tuple[NDArray[np.int16], NDArray[np.uint8], tuple[float, float, float]]:
    """A block of a simulated CT with L1 in its middle, L1's mask, and the spacing."""
    from medconv.simulate import simulate_lumbar_ct

    case = simulate_lumbar_ct(seed=0)
    mask = (case.labels_zyx == vertebrae.TOTALSEGMENTATOR["L1"]).astype(np.uint8)
    middle = np.argwhere(mask).mean(axis=0).round().astype(int)
    half = np.minimum(middle, np.array(mask.shape) - 1 - middle)
    block = tuple(slice(int(m - h), int(m + h + 1)) for m, h in zip(middle, half, strict=True))
    return (
        np.asarray(case.ct.array_zyx[block], np.int16),
        mask[block] * np.uint8(LABEL),
        case.ct.geometry.spacing_mm_xyz,
    )


def _ct_slices(shape_zyx: Index3) -> Iterator[NDArray[np.int16]]:
    _, rows, columns = shape_zyx
    y, x = np.ogrid[:rows, :columns]
    a, b = ELLIPSE
    body = ((x - columns / 2) / (a * columns)) ** 2 + ((y - rows / 2) / (b * rows)) ** 2 <= 1
    noise = np.random.default_rng(0).normal(TISSUE_HU, NOISE_HU, (rows, columns)).astype(np.int16)

    def background(z: int) -> NDArray[np.int16]:
        return np.where(body, np.roll(noise, 7 * z), np.int16(AIR))

    return _with_block(_l1()[0], shape_zyx, background)


def _mask_slices(shape_zyx: Index3) -> Iterator[NDArray[np.uint8]]:
    return _with_block(_l1()[1], shape_zyx, lambda z: np.zeros(shape_zyx[1:], np.uint8))


def _with_block(
    block: NDArray[Any], shape_zyx: Index3, background: Callable[[int], NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    """Slices of the background with the block in the middle, cut where it is larger."""
    shape, own = np.array(shape_zyx), np.array(block.shape)
    size = np.minimum(own, shape)
    first, taken = (shape - size) // 2, (own - size) // 2
    z0, y0, x0 = (int(n) for n in first)
    cut = block[tuple(slice(t, t + s) for t, s in zip(taken, size, strict=True))]
    for z in range(shape_zyx[0]):
        plane = background(z)
        if 0 <= z - z0 < len(cut):
            plane[y0 : y0 + cut.shape[1], x0 : x0 + cut.shape[2]] = cut[z - z0]
        yield plane


def _told(slices: Iterator[Any], count: int, stage: str, say: Say) -> Iterator[Any]:
    for number, plane in enumerate(slices):
        if number % 32 == 0:
            say(stage, number / count)
        yield plane


def _write_nifti(path: Path, slices: Iterator[NDArray[Any]], geometry: ImageGeometry, dtype: np.dtype[Any]) -> None:
    """Header by SimpleITK, of a volume of two slices that differs in their number alone; then the voxels."""
    x, y, z = geometry.size_xyz
    few = sitk.Image((x, y, 2), sitk.sitkInt16 if dtype.itemsize == 2 else sitk.sitkUInt8)
    few.SetSpacing(geometry.spacing_mm_xyz)
    few.SetOrigin(geometry.origin_lps_mm)
    beside = path.with_name(f"{path.name}-head.nii")
    sitk.WriteImage(few, str(beside))
    header = bytearray(beside.read_bytes()[:NIFTI_HEADER])
    beside.unlink()
    header[NIFTI_DIM3 : NIFTI_DIM3 + 2] = struct.pack("<h", z)
    with path.open("wb") as stream:
        squeeze = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WRAPPER) if path.suffix == ".gz" else None
        _put(stream, squeeze, bytes(header))
        for plane in slices:
            _put(stream, squeeze, plane.astype(dtype, copy=False).tobytes())
        if squeeze is not None:
            stream.write(squeeze.flush())


def _put(stream: IO[bytes], squeeze: Any, data: bytes) -> None:
    stream.write(data if squeeze is None else squeeze.compress(data))


def _write_dicom(folder: Path, slices: Iterator[NDArray[np.int16]], geometry: ImageGeometry) -> None:
    with unchanged_locale():
        _write_dicom_slices(folder, slices, geometry)


def _write_dicom_slices(folder: Path, slices: Iterator[NDArray[np.int16]], geometry: ImageGeometry) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    thickness = geometry.spacing_mm_xyz[2]
    for number, plane in enumerate(slices):
        image = sitk.GetImageFromArray(plane[np.newaxis])
        image.SetSpacing(geometry.spacing_mm_xyz)
        image.SetOrigin((0.0, 0.0, number * thickness))
        tags = {
            "0008|0016": CT_CLASS, "0008|0018": f"{UID}.1.{number + 1}", "0020|000d": UID, "0020|000e": f"{UID}.1",
            "0020|0052": f"{UID}.2", "0008|0060": "CT", "0018|0050": f"{thickness:g}", "0018|0060": "120",
            "0020|0013": str(number + 1), "0020|0032": f"0\\0\\{number * thickness:.4f}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0028|1052": "0", "0028|1053": "1", "0010|0020": "bench",
        }  # fmt: skip
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"slice{number:05d}.dcm"))
        writer.Execute(image)
