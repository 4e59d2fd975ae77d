"""NIfTI files that are the same byte for byte whenever they are written: no time stamp, no name, one header.

Written here and not through SimpleITK because gzip with a fixed level and no temporary copy is twice as fast.
Format: NIfTI-1 (nifti1.h, NIMH 2003); world coordinates are RAS there and LPS here.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import IDENTITY_DIRECTION, ImageGeometry

TYPES = {"int16": (4, 16), "uint8": (2, 8)}  # numpy's name → NIfTI's code and bits
GZIP_LEVEL = 1  # noise hardly compresses: level 6 takes four times as long for a twentieth less
GZIP_WRAPPER = 31
HEADER_BYTES = 352
CHUNK_BYTES = 1 << 22
UNFINISHED = ".unfinished-"  # begins the name of a file that is not whole


def write_nifti(path: Path, array_zyx: NDArray[Any], geometry: ImageGeometry, description: str = "") -> None:
    """Write an int16 or uint8 volume as .nii.gz; the file appears whole or not at all.

    Raises ValueError for another type, or a grid whose axes are not those of LPS.
    """
    if array_zyx.dtype.name not in TYPES or geometry.direction != IDENTITY_DIRECTION:
        raise ValueError(f"can't write {array_zyx.dtype} on the axes {geometry.direction}")
    partial = partial_path(path)
    squeeze = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WRAPPER)
    voxels = np.ascontiguousarray(array_zyx).reshape(-1).view(np.uint8).data
    with partial.open("wb") as stream:
        stream.write(squeeze.compress(_header(array_zyx, geometry, description)))
        for start in range(0, len(voxels), CHUNK_BYTES):
            stream.write(squeeze.compress(voxels[start : start + CHUNK_BYTES]))
        stream.write(squeeze.flush())
    partial.replace(path)


def partial_path(path: Path) -> Path:
    """Where a file grows until it is whole; its own for each process."""
    return path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")


def _header(array_zyx: NDArray[Any], geometry: ImageGeometry, description: str) -> bytes:
    code, bits = TYPES[array_zyx.dtype.name]
    (nx, ny, nz), (sx, sy, sz) = geometry.size_xyz, geometry.spacing_mm_xyz
    x, y, z = geometry.origin_lps_mm
    header = struct.pack("<i35xB8h", 348, 0, 3, nx, ny, nz, 1, 1, 1, 1)
    header += struct.pack("<3f4h", 0.0, 0.0, 0.0, 0, code, bits, 0)
    header += struct.pack("<8f", 1.0, sx, sy, sz, 0.0, 0.0, 0.0, 0.0)  # qfac 1, then the spacing
    header += struct.pack("<f2fhBB4f2i", float(HEADER_BYTES), 1.0, 0.0, 0, 0, 2, 0.0, 0.0, 0.0, 0.0, 0, 0)
    header += struct.pack("<80s24s2h", description.encode("ascii"), b"", 1, 1)
    header += struct.pack("<6f", 0.0, 0.0, 1.0, -x, -y, z)  # half a turn about z takes LPS to RAS
    header += struct.pack("<12f", -sx, 0, 0, -x, 0, -sy, 0, -y, 0, 0, sz, z)
    header += struct.pack("<16s4s4x", b"", b"n+1\0")
    assert len(header) == HEADER_BYTES
    return header
