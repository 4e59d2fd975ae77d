"""Between the CT's grid and a network's: a block in canonical axes at its spacing, and labels back onto the CT.

Only the block is ever converted; nothing here copies the whole CT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import cut_ct, index3, to_image
from medconv.segmenters.canonical import RAS_IN_LPS, box_of, canonical_view
from medconv.types import CTVolume, ImageGeometry, Index3, Vector3

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

SLAB = 16  # slices that are interpolated at a time: what is float32 stays small
AIR_HU, INT16_RANGE = -1000.0, (-32768, 32767)
INSIDE = 128  # half of 255, at which a label is as likely as its absence


@dataclass(frozen=True)
class ResampledBlock:
    """A part of a CT as a network takes it: `array_zyx` int16 HU in canonical axes.

    x, y and z point nearest to the patient's right, front and head (RAS, as nibabel's and TotalSegmentator's canonical
    orientation). `geometry` says where the voxels really lie. `spacing_mm_xyz` is the spacing that was asked for: the
    corner-aligned sampling that networks were trained with changes it by up to half a voxel over the whole block, and
    a network must be told the nominal one, or it would resample again.
    """

    array_zyx: NDArray[np.int16]
    geometry: ImageGeometry
    spacing_mm_xyz: Vector3


def canonical_block(ct: CTVolume, start_xyz: Index3, size_xyz: Index3, spacing_mm: float | Vector3) -> ResampledBlock:
    """The block of the CT at `start_xyz` in canonical axes, linearly resampled to `spacing_mm` (x, y, z after turning).

    The corners' voxel centres stay where they are and the size is rounded, as in scipy.ndimage.zoom(order=1) and
    totalsegmentator.resampling.change_spacing(order=1); fractions of HU are cut off as there. Oblique axes stay
    oblique: they are permuted and flipped, never interpolated. What is no number becomes air.
    """
    x_mm, y_mm, z_mm = (float(v) for v in np.broadcast_to(np.asarray(spacing_mm, float), 3))
    view, grid = canonical_view(cut_ct(ct, start_xyz, size_xyz))
    size, spacing = np.array(grid.size_xyz), np.array(grid.spacing_mm_xyz)
    new_size = np.maximum(1, np.rint(size * spacing / (x_mm, y_mm, z_mm)).astype(int))
    columns, rows, slices = (_Samples.along(int(n), int(m)) for n, m in zip(size, new_size, strict=True))
    result = np.empty(tuple(new_size[::-1]), np.int16)
    for first in range(0, len(result), SLAB):
        part = slices.part(first, first + SLAB)
        bottom = int(part.low[0])
        slab = _finite(view[bottom : int(part.high[-1]) + 1])
        slab = columns.take(rows.take(part.take(slab, 0, bottom), 1), 2)
        result[first : first + SLAB] = np.trunc(np.clip(slab, *INT16_RANGE))
    steps = np.where(new_size > 1, spacing * (size - 1) / np.maximum(new_size - 1, 1), (x_mm, y_mm, z_mm))
    x, y, z = (float(v) for v in steps)
    geometry = replace(grid, size_xyz=index3(new_size), spacing_mm_xyz=(x, y, z))
    return ResampledBlock(result, geometry, (x_mm, y_mm, z_mm))


def nifti_image(block: ResampledBlock) -> Nifti1Image:
    """The block as a NIfTI image in RAS at its nominal spacing, on the same memory (x, y, z order). Needs nibabel."""
    import nibabel

    affine = np.diag([*block.spacing_mm_xyz, 1.0])
    affine[:3, 3] = RAS_IN_LPS @ np.asarray(block.geometry.origin_lps_mm)
    return nibabel.Nifti1Image(block.array_zyx.transpose(2, 1, 0), affine)


def labels_to_ct(
    labels_zyx: NDArray[Any], geometry: ImageGeometry, ct_geometry: ImageGeometry, names: Mapping[int, str]
) -> tuple[NDArray[np.uint8], Index3]:
    """Labels from any grid onto the CT's own: the block that holds all of `names` that were found, and its start (xyz).

    Boundaries stay smooth: each label is interpolated linearly in its own box and the largest one wins, where at least
    half of the voxel belongs to any of them. Other labels are dropped. Nothing found: one voxel of background at 0.
    """
    boxes = {label: box for label in names if (box := box_of(labels_zyx == label)) is not None}
    targets = {label: _target_box(box, geometry, ct_geometry) for label, box in boxes.items()}
    targets = {label: (low, high) for label, (low, high) in targets.items() if (high > low).all()}
    if not targets:
        return np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    start = np.min([low for low, _ in targets.values()], axis=0)
    stop = np.max([high for _, high in targets.values()], axis=0)
    best = np.zeros(tuple((stop - start)[::-1]), np.uint8)
    total, found = best.copy(), best.copy()
    for label, (low, high) in targets.items():
        at = tuple(slice(a, b) for a, b in zip((low - start)[::-1], (high - start)[::-1], strict=True))
        share = _share(labels_zyx, label, boxes[label], geometry, ct_geometry.cut(index3(low), index3(high - low)))
        total[at] += np.minimum(share, 255 - total[at])
        wins = share > best[at]
        best[at][wins] = share[wins]
        found[at][wins] = label
    found[total < INSIDE] = 0
    return _tight(found, start)


@dataclass(frozen=True)
class _Samples:
    """Places along an axis, between the voxels `low` and `high`, at `weight` of the way."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]

    @staticmethod
    def along(old_size: int, new_size: int) -> _Samples:
        """`new_size` places, the first and last at the first and last of `old_size` voxels."""
        place = np.linspace(0.0, old_size - 1.0, new_size) if new_size > 1 else np.zeros(1)
        low = np.minimum(place.astype(np.intp), max(old_size - 2, 0))
        return _Samples(low, np.minimum(low + 1, old_size - 1), (place - low).astype(np.float32))

    def part(self, first: int, stop: int) -> _Samples:
        return _Samples(self.low[first:stop], self.high[first:stop], self.weight[first:stop])

    def take(self, array: NDArray[Any], axis: int, offset: int = 0) -> NDArray[np.float32]:
        """The values of `array` at these places; its first voxel along the axis is number `offset`."""
        before: tuple[Any, ...] = (slice(None),) * axis
        shape = [1, 1, 1]
        shape[axis] = -1
        # Not ndarray.take: of a flipped view it would first copy all.
        below = array[(*before, self.low - offset)].astype(np.float32, copy=False)
        above = array[(*before, self.high - offset)].astype(np.float32, copy=False)
        above -= below
        above *= self.weight.reshape(shape)
        above += below
        return above


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    """Air for what is no number; whole numbers as they are."""
    if array.dtype.kind != "f":
        return array
    return np.nan_to_num(array, nan=AIR_HU, posinf=AIR_HU, neginf=AIR_HU)


def _target_box(
    box: tuple[NDArray[Any], NDArray[Any]], geometry: ImageGeometry, ct_geometry: ImageGeometry
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Half-open box (xyz) on the CT that holds a box of the label grid and one voxel around it."""
    low, high = box[0] - 1, box[1] + 1
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    index = ct_geometry.lps_to_index(geometry.index_to_lps(corners))
    start = np.clip(np.floor(index.min(axis=0)), 0, ct_geometry.size_xyz).astype(int)
    stop = np.clip(np.ceil(index.max(axis=0)) + 1, 0, ct_geometry.size_xyz).astype(int)
    return start, stop


def _share(
    labels_zyx: NDArray[Any],
    label: int,
    box: tuple[NDArray[Any], NDArray[Any]],
    geometry: ImageGeometry,
    target: ImageGeometry,
) -> NDArray[np.uint8]:
    """How much of each voxel of `target` the label takes, 0 to 255."""
    low, high = box
    inside = labels_zyx[low[2] : high[2] + 1, low[1] : high[1] + 1, low[0] : high[0] + 1] == label
    padded = np.pad(inside.astype(np.float32) * 255, 1)
    grid = geometry.cut(index3(low - 1), index3(high - low + 3))
    reference = sitk.Image(target.size_xyz, sitk.sitkUInt8)
    reference.SetSpacing(target.spacing_mm_xyz)
    reference.SetOrigin(target.origin_lps_mm)
    reference.SetDirection(target.direction)
    share = sitk.Resample(to_image(padded, grid), reference, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkUInt8)
    return np.asarray(sitk.GetArrayFromImage(share))


def _tight(block: NDArray[np.uint8], start: NDArray[Any]) -> tuple[NDArray[np.uint8], Index3]:
    """The block cut to what is in it."""
    box = box_of(block > 0)
    if box is None:
        return np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    low, high = box
    cut = block[low[2] : high[2] + 1, low[1] : high[1] + 1, low[0] : high[0] + 1]
    return np.ascontiguousarray(cut), index3(start + low)
