"""What a result or a segmentation was computed from, so that it is never taken for another image's.

Written as JSON into the parameter node: it must survive saving and loading a scene, where node ids, modification
times and the last digits of a matrix change, and voxels do not.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import CTVolume, ImageGeometry, L1Mask

MARGIN_VOXELS = 3  # around the mask; the network's input may reach a little beyond it
STRIDE = 4  # of a whole CT every fourth voxel each way is read: enough to tell two scans apart, in a tenth of a second


def fingerprint(ct: CTVolume, mask: L1Mask) -> str:
    """The CT's grid, and a checksum of the mask and of the CT's voxels in and around it."""
    low = np.maximum(np.asarray(mask.start_xyz) - MARGIN_VOXELS, 0)
    high = np.asarray(mask.start_xyz) + mask.block_zyx.shape[::-1] + MARGIN_VOXELS
    (x0, y0, z0), (x1, y1, z1) = low.tolist(), high.tolist()
    voxels = np.ascontiguousarray(ct.array_zyx[z0:z1, y0:y1, x0:x1], np.float32)
    checksum = zlib.crc32(voxels.tobytes())
    checksum = zlib.crc32(np.packbits(mask.block_zyx).tobytes(), checksum)
    checksum = zlib.crc32(repr((mask.start_xyz, mask.block_zyx.shape)).encode(), checksum)
    return json.dumps({"grid": asdict(ct.geometry), "checksum": checksum})


def of_scan(array_zyx: NDArray[Any], grid: ImageGeometry) -> str:
    """A whole CT: its grid, and a checksum of a sample of its voxels."""
    sample = np.ascontiguousarray(array_zyx[::STRIDE, ::STRIDE, ::STRIDE], np.float32)
    return json.dumps({"grid": asdict(grid), "checksum": zlib.crc32(sample.tobytes())})


def of_mask(mask: L1Mask) -> int:
    """A checksum of a mask's voxels and their place in the CT; the mask's block must be its bounding box."""
    place = zlib.crc32(repr((mask.start_xyz, mask.block_zyx.shape)).encode())
    return zlib.crc32(np.packbits(mask.block_zyx).tobytes(), place)


def same(one: str, other: str) -> bool:
    """True if both were taken from the same grid (to a hundredth of a millimetre), voxels and mask."""
    try:
        first, second = json.loads(one), json.loads(other)
        return bool(first["checksum"] == second["checksum"] and _grid(first).same_grid_as(_grid(second)))
    except (ValueError, KeyError, TypeError):
        return False


def _grid(facts: dict[str, Any]) -> ImageGeometry:
    return ImageGeometry(**{name: tuple(value) for name, value in facts["grid"].items()})
