"""What of a CT an answer needs: L1's neighbourhood for the analysis, the pictures' field of view, and both together.

Boxes are voxels of the CT's own grid, cut at its border: the first one (x, y, z), and how many (x, y, z).
"""

from __future__ import annotations

import numpy as np

from medconv.grid import index3
from medconv.types import FloatArray, ImageGeometry, Index3, L1Mask, Vector3
from medconv.vertebral_body import MINOR_PIECE_FRACTION

NEIGHBOURHOOD_MM = 30.0  # around L1: enough for a 96 mm crop around any vertebra, and to see it in its place
FIELD_OF_VIEW_MM = 140.0  # of the pictures in three planes
Box = tuple[Index3, Index3]


def around(mask: L1Mask) -> Box:
    """The neighbourhood that is analysed."""
    margin = np.ceil(NEIGHBOURHOOD_MM / np.asarray(mask.ct_geometry.spacing_mm_xyz)).astype(int)
    low = np.asarray(mask.start_xyz)
    high = low + np.asarray(mask.block_zyx.shape[::-1])
    return _within(mask.ct_geometry, low - margin, high + margin)


def in_view(geometry: ImageGeometry, center_lps_mm: Vector3) -> Box:
    """What pictures around a point show."""
    center = geometry.lps_to_index(center_lps_mm)
    half = _half_view(geometry)
    return _within(geometry, np.floor(center - half), np.ceil(center + half) + 1)


def needed(mask: L1Mask) -> Box:
    """All that is analysed or shown of the CT, whichever piece of the mask turns out to be the vertebra."""
    grid, at = mask.ct_geometry, np.asarray(mask.start_xyz)
    start, size = around(mask)
    voxels = np.argwhere(mask.block_zyx)
    if not len(voxels):  # an empty mask is refused later, by name
        return start, size
    center = voxels[:, ::-1].mean(axis=0) + at
    # Without stray pieces the centre moves by at most their share of the mask, times the length of its box.
    stray = MINOR_PIECE_FRACTION / (1 - MINOR_PIECE_FRACTION) * np.asarray(mask.block_zyx.shape[::-1])
    half = _half_view(grid) + stray + 1  # and a voxel for rounding
    low = np.minimum(start, np.floor(center - half))
    high = np.maximum(np.add(start, size), np.ceil(center + half) + 1)
    return _within(grid, low, high)


def _half_view(geometry: ImageGeometry) -> FloatArray:
    """Half the field of view in voxels along each axis; the cube's corners bound it in any orientation."""
    half = FIELD_OF_VIEW_MM / 2 * np.abs(np.reshape(geometry.direction, (3, 3))).sum(axis=0)
    return np.asarray(half / np.asarray(geometry.spacing_mm_xyz) + 1)


def _within(geometry: ImageGeometry, low: FloatArray, high: FloatArray) -> Box:
    start = np.maximum(low, 0).astype(int)
    stop = np.minimum(high, geometry.size_xyz).astype(int)
    return index3(start), index3(stop - start)
