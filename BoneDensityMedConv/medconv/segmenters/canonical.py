"""The CT's voxels seen along the patient's axes, without a copy and without interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.grid import index3
from medconv.types import CTVolume, ImageGeometry, Index3

RAS_IN_LPS = np.diag([-1.0, -1.0, 1.0])


def canonical_view(ct: CTVolume) -> tuple[NDArray[Any], ImageGeometry]:
    """The CT's own memory permuted and flipped, and its grid.

    x, y and z point nearest to the patient's right, front and head (RAS: what nibabel and TotalSegmentator call
    canonical). Oblique axes stay oblique.
    """
    axes_in_lps = np.reshape(ct.geometry.direction, (3, 3))
    axes = _nearest_axes(RAS_IN_LPS @ axes_in_lps)
    signs = [1.0 if (RAS_IN_LPS @ axes_in_lps)[world, axis] >= 0 else -1.0 for world, axis in enumerate(axes)]
    view = ct.array_zyx.transpose([2 - axes[world] for world in (2, 1, 0)])
    view = view[tuple(slice(None, None, int(signs[world])) for world in (2, 1, 0))]
    first_voxel, direction = np.zeros(3), np.empty((3, 3))
    for world, axis in enumerate(axes):
        first_voxel[axis] = 0 if signs[world] > 0 else ct.geometry.size_xyz[axis] - 1
        direction[:, world] = signs[world] * axes_in_lps[:, axis]
    x, y, z = (float(v) for v in ct.geometry.index_to_lps(first_voxel))
    sx, sy, sz = (ct.geometry.spacing_mm_xyz[axis] for axis in axes)
    size = index3(np.array([ct.geometry.size_xyz[axis] for axis in axes]))
    return view, ImageGeometry(size, (sx, sy, sz), (x, y, z), tuple(float(v) for v in direction.ravel()))


def box_between(
    first_xyz: NDArray[Any], last_xyz: NDArray[Any], grid: ImageGeometry, ct_geometry: ImageGeometry
) -> tuple[Index3, Index3]:
    """Start and size on the CT's grid of a box (both corners inclusive) on its canonical view's `grid`."""
    corners = ct_geometry.lps_to_index(grid.index_to_lps(np.stack([first_xyz, last_xyz])))
    low = np.rint(corners.min(axis=0)).astype(int)
    high = np.rint(corners.max(axis=0)).astype(int)
    return index3(low), index3(high - low + 1)


def box_of(mask_zyx: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Lowest and highest index (x, y, z; both inclusive) of what is set in the mask; None if nothing is."""
    low, high = [], []
    for axis in (2, 1, 0):
        hits = np.flatnonzero(mask_zyx.any(axis=tuple({0, 1, 2} - {axis})))
        if not hits.size:
            return None
        low.append(hits[0])
        high.append(hits[-1])
    return np.array(low), np.array(high)


def _nearest_axes(matrix: NDArray[np.floating[Any]]) -> tuple[int, int, int]:
    """For the patient's x, y, z the voxel axis that runs nearest along it; each axis once, the clearest first."""
    weight = np.abs(matrix)
    axes = [0, 0, 0]
    for _ in range(3):
        world, axis = np.unravel_index(int(weight.argmax()), (3, 3))
        axes[int(world)] = int(axis)
        weight[world, :] = weight[:, axis] = -1
    return axes[0], axes[1], axes[2]
