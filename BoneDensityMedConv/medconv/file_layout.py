"""Where NIfTI, MetaImage and NRRD files keep their voxels, from their headers.

Only what is common: all voxels in one file, one value a voxel, plain numbers, raw or gzip. Anything else gives None:
SimpleITK then reads the whole file. Geometry and tags come from SimpleITK in either case; so does the type of the
values, and a layout that disagrees with it counts as none.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from medconv.gzip_stream import pieces
from medconv.stored_voxels import StoredVoxels
from medconv.types import Index3, InputRefused

NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1",
    "uint8_t": "u1", "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16": "i2",
    "int16_t": "i2", "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2",
    "uint16_t": "u2", "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4",
    "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4", "float": "f4", "double": "f8",
}  # fmt: skip
TEXT_HEADER_BYTES = 1 << 16
NIFTI_HEADER_BYTES = 540  # of version 2; version 1 has 348
EPSILON = float(np.finfo(float).eps)


def layout_of(path: Path, shape_zyx: Index3, dtype: np.dtype[Any]) -> StoredVoxels | None:
    """How the file keeps its voxels; None if SimpleITK has to read it.

    shape_zyx, dtype: of the image that SimpleITK would give.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            found = _nifti(path, shape_zyx, dtype, name.endswith(".gz"))
        elif name.endswith((".mha", ".mhd", ".nrrd")):
            with path.open("rb") as file:
                head = file.read(TEXT_HEADER_BYTES)
            found = (_nrrd if name.endswith(".nrrd") else _meta_image)(path, head, shape_zyx, dtype)
        else:
            return None
    except (InputRefused, ValueError, KeyError, IndexError, struct.error):
        return None  # SimpleITK is to say what is wrong with it
    is_scaled = found is not None and (found.slope, found.intercept) != (1.0, 0.0)
    return found if found is not None and (is_scaled or found.stored.newbyteorder("=") == dtype) else None


def _nifti(path: Path, shape_zyx: Index3, dtype: np.dtype[Any], is_compressed: bool) -> StoredVoxels | None:
    head = _first_bytes(path, is_compressed)
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", head)
        if size == 348 and head[344:348] == b"n+1\0":
            dim = struct.unpack_from(order + "8h", head, 40)
            (kind,) = struct.unpack_from(order + "h", head, 70)
            offset, slope, intercept = struct.unpack_from(order + "3f", head, 108)
        elif size == NIFTI_HEADER_BYTES and head[4:8] == b"n+2\0":
            dim = struct.unpack_from(order + "8q", head, 16)
            (kind,) = struct.unpack_from(order + "h", head, 12)
            (offset,) = struct.unpack_from(order + "q", head, 168)
            slope, intercept = struct.unpack_from(order + "2d", head, 176)
        else:
            continue
        if tuple(dim[3:0:-1]) != shape_zyx:
            return None
        if not np.isfinite([slope, intercept]).all() or not offset >= size:
            return None  # also an offset that is no number; one inside the header has a meaning of its own to ITK
        if abs(slope) < EPSILON <= abs(intercept):
            return None  # no scaling, says the standard; ITK adds the intercept to some types and not to others
        if abs(slope) < EPSILON or (abs(slope - 1) < EPSILON and abs(intercept) < EPSILON):
            slope, intercept = 1.0, 0.0
        start, stored = int(offset), np.dtype(order + NIFTI_TYPES[kind])
        if is_compressed:
            return StoredVoxels(path, 0, shape_zyx, stored, dtype, True, start, slope, intercept)
        return StoredVoxels(path, start, shape_zyx, stored, dtype, slope=slope, intercept=intercept)
    return None


def _first_bytes(path: Path, is_compressed: bool) -> bytes:
    if not is_compressed:
        with path.open("rb") as file:
            return file.read(NIFTI_HEADER_BYTES)
    head = b""
    for piece in pieces(path):
        head += piece[:NIFTI_HEADER_BYTES]
        if len(head) >= NIFTI_HEADER_BYTES:
            break
    return head


def _meta_image(path: Path, head: bytes, shape_zyx: Index3, dtype: np.dtype[Any]) -> StoredVoxels | None:
    end = re.search(rb"^ElementDataFile\s*=\s*(\S+)\s*?\r?\n", head, re.MULTILINE)
    if end is None:
        return None
    start, data = end.end(), end[1].decode("utf-8")
    if data != "LOCAL":
        start, path = 0, path.parent / data
        if Path(data).name != data or not path.is_file():  # elsewhere, or a list or pattern of files
            return None
    fields = _fields(head[: end.end()], "=")
    plain = _is_true(fields.get("binarydata", "")) and "headersize" not in fields
    if not plain or any(key.startswith("elementtointensity") for key in fields):
        return None
    orders = {_is_true(fields[key]) for key in ("elementbyteordermsb", "binarydatabyteordermsb") if key in fields}
    if len(orders) > 1:
        return None  # which of the two counts is ITK's to say
    is_big = orders == {True}
    if _sizes(fields["dimsize"]) != shape_zyx:
        return None
    is_compressed = _is_true(fields.get("compresseddata", ""))
    return StoredVoxels(
        path, start, shape_zyx, np.dtype("<>"[is_big] + META_TYPES[fields["elementtype"]]), dtype, is_compressed
    )


def _is_true(value: str) -> bool:
    """As MetaIO has it."""
    return value[:1] in ("T", "t", "1")


def _nrrd(path: Path, head: bytes, shape_zyx: Index3, dtype: np.dtype[Any]) -> StoredVoxels | None:
    end = re.search(rb"\r?\n\r?\n", head)
    if end is None or not head.startswith(b"NRRD"):
        return None
    fields = _fields(head[: end.start()], ":")
    encoding, kind = fields["encoding"].lower(), fields["type"].lower()
    if {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"}.intersection(fields):
        return None
    if encoding not in ("raw", "gzip", "gz") or _sizes(fields["sizes"]) != shape_zyx:
        return None
    stored = np.dtype("<>"[fields.get("endian", "little").lower() == "big"] + NRRD_TYPES[kind])
    return StoredVoxels(path, end.end(), shape_zyx, stored, dtype, is_compressed=encoding != "raw")


def _fields(head: bytes, mark: str) -> dict[str, str]:
    lines = (line.partition(mark) for line in head.decode("latin-1").splitlines() if not line.startswith("#"))
    return {key.strip().lower(): value.strip() for key, found, value in lines if found}


def _sizes(text: str) -> Index3 | None:
    sizes = [int(word) for word in text.split()]
    return (sizes[2], sizes[1], sizes[0]) if len(sizes) == 3 else None
