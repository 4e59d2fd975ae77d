"""Where the lumbar spine can be, from body landmarks on a coarse grid: no network, a tenth of a second.

The lower end of the lungs lies between T10 (expiration) and L1 (deep inspiration, emphysema); T10 starts about 100 mm
above L1, and the sacrum's tip lies about 300 mm below T10. The region saves time and memory and decides nothing: where
the landmarks fail, or L1 is not whole in it, the segmenters take the whole CT (`misses_l1`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.segmenters.canonical import box_between, box_of, canonical_view
from medconv.types import BoolArray, CTVolume, ImageGeometry, Index3

GRID_MM = 7.0
ABOVE_LUNGS_END_MM, BELOW_LUNGS_END_MM = 120.0, 330.0
SHORT_MM = 450.0  # a CT that is no longer than this keeps its whole length
IN_PLANE_MARGIN_MM = 15.0
AIR_BELOW_HU = -400.0
# Lung holds tissue (−900 to −700 HU, above −950 even in most emphysema); gas in bowel and air outside read −1000.
LUNG_HU = (-955.0, -600.0)
LUNG_AREA_CM2 = 8.0  # of both lungs in one slice
LUNGS_AREA_CM2 = 40.0  # in the slice where they are largest
TRUNK_AREA_CM2 = 80.0  # tissue in one piece in a slice: a table's or an arm's section is smaller
LUNG_VOLUME_ML = 40.0  # in one piece: stool with gas reads like lung, but lies in smaller pieces
LEAST_L1_ML = 5.0  # a whole L1 has 30 to 90 ml; where there is none, networks leave specks
WORTHWHILE = 0.9  # cut only if at least a tenth is saved


@dataclass(frozen=True)
class _Coarse:
    """Every n-th voxel in canonical axes: HU (z, y, x), spacing of the samples, and the full view's grid."""

    hu: NDArray[np.float32]
    steps_xyz: Index3
    spacing_mm_xyz: NDArray[np.float64]
    grid: ImageGeometry

    @property
    def pixel_cm2(self) -> float:
        return float(self.spacing_mm_xyz[0] * self.spacing_mm_xyz[1]) / 100.0


def locate_lumbar_region(ct: CTVolume) -> tuple[Index3, Index3] | None:
    """Start and size (x, y, z; voxels of the CT) of the block that holds T10 to the sacrum; None: take the whole CT.

    Along the body from 120 mm above the lungs' lower end to 330 mm below it, in plane the trunk with a margin. A CT
    no longer than 450 mm keeps its length, and so does one without lungs; only air beside the trunk is left out then.
    """
    coarse = _sample(ct)
    tissue = coarse.hu > AIR_BELOW_HU
    low_z, high_z = _window(coarse, tissue)
    box = _trunk_box(coarse, tissue[low_z : high_z + 1])
    if box is None:
        return None
    first = np.array([box[0][0], box[0][1], low_z]) * coarse.steps_xyz
    # A sample stands for the voxels up to the next one.
    last = (np.array([box[1][0], box[1][1], high_z]) + 1) * coarse.steps_xyz - 1
    margin = np.ceil(np.array([IN_PLANE_MARGIN_MM, IN_PLANE_MARGIN_MM, 0]) / coarse.grid.spacing_mm_xyz)
    size = np.array(coarse.grid.size_xyz)
    first = np.maximum(first - margin, 0)
    last = np.minimum(last + margin, size - 1)
    if np.prod((last - first + 1) / size) > WORTHWHILE:
        return None
    return box_between(first, last, coarse.grid, ct.geometry)


def misses_l1(
    l1_zyx: BoolArray, start_xyz: Index3, region: tuple[Index3, Index3] | None, ct_geometry: ImageGeometry
) -> bool:
    """True if what a region leaves out may hold L1 or a part of it: then the whole CT must be segmented.

    l1_zyx: L1 as it was found in the region, in a block that starts at CT voxel `start_xyz`. It is missed if it
    reaches a face of the region at which the CT goes on, or if there is hardly any and the CT goes on above or below.
    """
    if region is None:
        return False
    start, size = np.array(region[0]), np.array(region[1])
    goes_on = np.stack([start > 0, start + size < ct_geometry.size_xyz])
    box = box_of(l1_zyx)
    if box is None or np.count_nonzero(l1_zyx) * ct_geometry.voxel_volume_ml < LEAST_L1_ML:
        along_body = int(np.abs(np.reshape(ct_geometry.direction, (3, 3))[2]).argmax())
        return bool(goes_on[:, along_body].any())
    touches = np.stack([box[0] + start_xyz <= start, box[1] + start_xyz >= start + size - 1])
    return bool((touches & goes_on).any())


def _sample(ct: CTVolume) -> _Coarse:
    """Means of 2 x 2 neighbours on the coarse grid: noise must not make lung of bowel gas."""
    view, grid = canonical_view(ct)
    steps = [max(1, int(GRID_MM / spacing)) for spacing in grid.spacing_mm_xyz]
    x, y, z = steps
    hu = np.zeros(view[::z, ::y, ::x].shape, np.float32)
    for right, front in ((0, 0), (1, 0), (0, 1), (1, 1)):
        columns = np.minimum(np.arange(0, view.shape[2], x) + right, view.shape[2] - 1)
        rows = np.minimum(np.arange(0, view.shape[1], y) + front, view.shape[1] - 1)
        hu += view[::z][:, rows][:, :, columns]
    hu /= 4
    return _Coarse(hu, (x, y, z), np.array(grid.spacing_mm_xyz) * steps, grid)


def _window(coarse: _Coarse, tissue: NDArray[np.bool_]) -> tuple[int, int]:
    """Lowest and highest coarse slice of the region."""
    top = coarse.hu.shape[0] - 1
    spacing = float(coarse.spacing_mm_xyz[2])
    if coarse.grid.size_xyz[2] * coarse.grid.spacing_mm_xyz[2] <= SHORT_MM:
        return 0, top
    end = _lungs_lower_end(coarse, tissue)
    if end is None:
        return 0, top
    return max(0, int(end - BELOW_LUNGS_END_MM / spacing)), min(top, int(np.ceil(end + ABOVE_LUNGS_END_MM / spacing)))


def _lungs_lower_end(coarse: _Coarse, tissue: NDArray[np.bool_]) -> int | None:
    """The coarse slice in which the lungs end below; None if there are no lungs."""
    from scipy import ndimage

    like_lung = ~tissue & ~_outside(tissue) & (coarse.hu > LUNG_HU[0]) & (coarse.hu < LUNG_HU[1])
    pieces, count = ndimage.label(like_lung)
    volume = np.bincount(pieces.ravel(), minlength=count + 1) * float(np.prod(coarse.spacing_mm_xyz)) / 1000
    volume[0] = 0
    area = (volume >= LUNG_VOLUME_ML)[pieces].sum(axis=(1, 2)) * coarse.pixel_cm2
    widest = int(area.argmax())
    if area[widest] < LUNGS_AREA_CM2:
        return None
    gaps = np.flatnonzero(area[: widest + 1] < LUNG_AREA_CM2)
    return int(gaps[-1]) + 1 if gaps.size else 0


def _outside(tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Air that reaches the picture's edge in its own slice."""
    from scipy import ndimage

    pieces, _ = ndimage.label(~tissue, structure=_in_plane())
    edge = np.ones(tissue.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    at_edge = np.zeros(int(pieces.max()) + 1, bool)
    at_edge[pieces[:, edge]] = True
    at_edge[0] = False
    return np.asarray(at_edge[pieces])


def _trunk_box(coarse: _Coarse, tissue: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """First and last coarse column and row of the large pieces of tissue in these slices; None if there are none."""
    from scipy import ndimage

    pieces, count = ndimage.label(tissue, structure=_in_plane())
    area = np.bincount(pieces.ravel(), minlength=count + 1) * coarse.pixel_cm2
    area[0] = 0
    trunk = (area >= TRUNK_AREA_CM2)[pieces].any(axis=0)
    columns, rows = np.flatnonzero(trunk.any(axis=0)), np.flatnonzero(trunk.any(axis=1))
    if not columns.size:
        return None
    return (int(columns[0]), int(rows[0])), (int(columns[-1]), int(rows[-1]))


def _in_plane() -> NDArray[Any]:
    """Neighbours within a slice."""
    structure = np.zeros((3, 3, 3), bool)
    structure[1, 1, :] = structure[1, :, 1] = True
    return structure
