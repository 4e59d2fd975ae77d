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
from medconv.types import CTVolume, ImageGeometry, Index3, Vector3

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

RAS_IN_LPS = np.diag([-1.0, -1.0, 1.0])
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
    oblique: they are permuted and flipped, never interpolated.
    """
    wanted = np.broadcast_to(np.asarray(spacing_mm, float), 3)
    view, geometry = _canonical_view(cut_ct(ct, start_xyz, size_xyz))
    array = view
    spacing, size = np.array(geometry.spacing_mm_xyz), np.array(geometry.size_xyz)
    new_size = np.maximum(1, np.rint(size * spacing / wanted).astype(int))
    # The axis that shrinks most goes first, so that the float32 copy of the block is as small as it can be.
    for axis in np.argsort(new_size / size):
        array = _interpolate(array, 2 - int(axis), int(new_size[axis]))
    steps = np.where(new_size > 1, (size - 1) / np.maximum(new_size - 1, 1), wanted / spacing)
    x, y, z = (float(v) for v in spacing * steps)
    grid = replace(geometry, size_xyz=index3(new_size), spacing_mm_xyz=(x, y, z))
    a, b, c = (float(v) for v in wanted)
    return ResampledBlock(np.ascontiguousarray(np.trunc(array), dtype=np.int16), grid, (a, b, c))


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
    boxes = {label: box for label in names if (box := _box_of(labels_zyx == label)) is not None}
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


def _canonical_view(ct: CTVolume) -> tuple[NDArray[Any], ImageGeometry]:
    """The CT's voxels, permuted and flipped to RAS without a copy."""
    to_ras = RAS_IN_LPS @ np.reshape(ct.geometry.direction, (3, 3))  # columns: voxel axes in RAS
    axes = _nearest_axes(to_ras)
    flips = [to_ras[world, axis] < 0 for world, axis in enumerate(axes)]
    view = ct.array_zyx.transpose([2 - axes[2 - k] for k in range(3)])
    view = view[tuple(slice(None, None, -1 if flips[2 - k] else 1) for k in range(3))]
    corner = np.zeros(3)
    direction = np.empty((3, 3))
    for world, axis in enumerate(axes):
        sign = -1.0 if flips[world] else 1.0
        corner[axis] = ct.geometry.size_xyz[axis] - 1 if flips[world] else 0
        direction[:, world] = sign * np.reshape(ct.geometry.direction, (3, 3))[:, axis]
    x, y, z = (float(v) for v in ct.geometry.index_to_lps(corner))
    spacing, size = ct.geometry.spacing_mm_xyz, ct.geometry.size_xyz
    return view, ImageGeometry(
        (size[axes[0]], size[axes[1]], size[axes[2]]),
        (spacing[axes[0]], spacing[axes[1]], spacing[axes[2]]),
        (x, y, z),
        tuple(float(v) for v in direction.ravel()),
    )


def _nearest_axes(matrix: NDArray[np.floating[Any]]) -> tuple[int, int, int]:
    """For world x, y, z the voxel axis that runs nearest along it; each axis once, the clearest first."""
    weight = np.abs(matrix).copy()
    axes = [0, 0, 0]
    for _ in range(3):
        world, axis = np.unravel_index(int(weight.argmax()), (3, 3))
        axes[int(world)] = int(axis)
        weight[world, :] = weight[:, axis] = -1
    return axes[0], axes[1], axes[2]


def _interpolate(array: NDArray[Any], axis: int, size: int) -> NDArray[np.float32]:
    """Linear interpolation along one axis to `size` samples, the first and last at the first and last voxel."""
    position = np.linspace(0.0, array.shape[axis] - 1.0, size) if size > 1 else np.zeros(1)
    low = np.minimum(position.astype(int), max(array.shape[axis] - 2, 0))
    high = np.minimum(low + 1, array.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = size
    weight = (position - low).astype(np.float32).reshape(shape)
    first = array.take(low, axis).astype(np.float32, copy=False)
    difference = array.take(high, axis).astype(np.float32, copy=False)
    difference -= first
    difference *= weight
    difference += first
    return difference


def _box_of(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Lowest and highest index (xyz, inclusive) of the mask."""
    low, high = [], []
    for axis in (2, 1, 0):
        hits = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not hits.size:
            return None
        low.append(hits[0])
        high.append(hits[-1])
    return np.array(low), np.array(high)


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
    box = _box_of(block > 0)
    if box is None:
        return np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    low, high = box
    cut = block[low[2] : high[2] + 1, low[1] : high[1] + 1, low[0] : high[0] + 1]
    return np.ascontiguousarray(cut), index3(start + low)
