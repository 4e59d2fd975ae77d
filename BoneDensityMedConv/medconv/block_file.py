"""A small block of labels on the grid of a whole CT, as .nii.gz: the empty slices around it are compressed once.

A mask on 512 x 512 x 700 voxels is 183 MB of zeros around one vertebra. Here they are neither put into memory nor sent
through the compressor: the compressed form of one empty slice is repeated, and the checksum goes on by arithmetic. The
file is an ordinary one, the same byte for byte whenever it is written. Format: RFC 1951 and 1952.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import to_image
from medconv.types import ImageGeometry, Index3

HEADER_BYTES = 352
GZIP_START = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no name, no time
CRC_POLYNOMIAL = 0xEDB88320  # bit 31 is x to the power of 0
LEVEL = 6


def write_block(path: Path, block_zyx: NDArray[np.uint8], start_xyz: Index3, geometry: ImageGeometry) -> None:
    """Write a volume on `geometry` that is 0 but for the block, whose first voxel is `start_xyz`, as .nii.gz."""
    (x, y, z), (columns, rows, slices) = start_xyz, geometry.size_xyz
    held = np.flatnonzero(block_zyx.any(axis=(1, 2)))
    first, end = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 0)
    z, block_zyx = z + first, block_zyx[first:end]
    depth, height, width = block_zyx.shape
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    header = _header(geometry)
    whole = np.zeros((rows, columns), np.uint8)
    empty = _compressed_alone(whole.tobytes())
    # A full flush ends on a whole byte and looks back at nothing: what follows may come from elsewhere.
    parts = [GZIP_START, squeeze.compress(header), squeeze.flush(zlib.Z_FULL_FLUSH), *[empty] * z]
    crc = crc_after_zeros(zlib.crc32(header), z * whole.size)
    for values in block_zyx:
        whole[y : y + height, x : x + width] = values
        crc = zlib.crc32(whole.data, crc)
        parts.append(squeeze.compress(whole.data))
    after = slices - z - depth
    parts += [squeeze.flush(zlib.Z_FULL_FLUSH), *[empty] * after, squeeze.flush()]
    crc = crc_after_zeros(crc, after * whole.size)
    size = (len(header) + slices * whole.size) % 2**32
    with path.open("wb") as file:
        file.writelines([*parts, struct.pack("<II", crc, size)])


def crc_after_zeros(crc: int, count: int) -> int:
    """CRC-32 of some bytes with `count` zero bytes behind them, from that of the bytes alone.

    Each zero bit multiplies the checksum's register by x, modulo the CRC's polynomial over GF(2).
    """
    power, square, bits = 1 << 31, 1 << 30, 8 * count  # x to the power of 0, and of 1
    while bits:
        if bits & 1:
            power = _times(square, power)
        square, bits = _times(square, square), bits >> 1
    return _times(power, crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _times(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (CRC_POLYNOMIAL if b & 1 else 0)
    return product


def _compressed_alone(values: bytes) -> bytes:
    """Deflated so that it can stand anywhere in a stream, after a full flush."""
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return squeeze.compress(values) + squeeze.flush(zlib.Z_FULL_FLUSH)


def _header(geometry: ImageGeometry) -> bytes:
    """NIfTI's header for uint8 on that grid, as SimpleITK writes it for a small image in the same place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.nii"
        size = (2, 2, 2)
        small = ImageGeometry(size, geometry.spacing_mm_xyz, geometry.origin_lps_mm, geometry.direction)
        sitk.WriteImage(to_image(np.zeros(size, np.uint8), small), str(path))
        header = bytearray(path.read_bytes()[:HEADER_BYTES])
    struct.pack_into("<3h", header, 42, *geometry.size_xyz)
    return bytes(header)
