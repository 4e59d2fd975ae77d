"""Two segmentations of the same CT side by side: overlap and distance of their surfaces, vertebra by vertebra.

Dice (1945) is twice the shared volume over the sum of both. A surface is the mask's voxels with a face outside it;
distances are between voxel centres in millimetres, so anisotropic voxels count as they are. The mean surface distance
is symmetric (all voxels of both surfaces pooled); the 95 % Hausdorff distance is the larger of the two directed 95th
percentiles. Definitions: Taha and Hanbury, BMC Medical Imaging 2015;15:29.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from medconv.types import (
    BoolArray,
    FloatArray,
    ImageGeometry,
    Index3,
    InputRefused,
    L1Mask,
    SpineSegmentation,
    UsageError,
    Vector3,
)
from medconv.vertebrae import LEAST_VERTEBRA_ML, ORDER, SACRUM, is_vertebra

HAUSDORFF_PERCENTILE = 95.0


@dataclass(frozen=True)
class MaskComparison:
    """How far two masks agree; `a` and `b` in the order in which they were given."""

    dice: float
    mean_surface_mm: float
    hausdorff95_mm: float
    volume_a_ml: float
    volume_b_ml: float
    centre_distance_mm: float


@dataclass(frozen=True)
class StructureComparison:
    """One structure in both segmentations.

    `comparison` is None if one of them lacks it; `only_in` then says which one has it: "a" or "b".
    `a_in_b` is the name that `b` gives to most of what `a` calls `name` ("" for background): a name other than `name`
    means that the two count the vertebrae differently.
    """

    name: str
    comparison: MaskComparison | None
    only_in: str = ""
    a_in_b: str = ""


def compare_masks(a: L1Mask, b: L1Mask) -> MaskComparison:
    """How far two masks on the same CT agree. Raises UsageError (other grid), InputRefused (an empty mask)."""
    _check_grid(a.ct_geometry, b.ct_geometry)
    first, second = _on_common_block((a.block_zyx, a.start_xyz), (b.block_zyx, b.start_xyz))
    return compare_blocks(first, second, a.ct_geometry.spacing_mm_xyz)


def compare_segmentations(
    a: SpineSegmentation, b: SpineSegmentation, names: Iterable[str] = (*ORDER, SACRUM)
) -> list[StructureComparison]:
    """Every structure of `names` that at least one of the two found, from cranial to caudal. Raises UsageError."""
    _check_grid(a.ct_geometry, b.ct_geometry)
    rows = []
    for name in names:
        mine, other = structure_mask(a, name), structure_mask(b, name)
        if mine is None and other is None:
            continue
        if mine is None or other is None:
            rows.append(StructureComparison(name, None, "b" if mine is None else "a", _name_in(b, mine)))
        else:
            rows.append(StructureComparison(name, compare_masks(mine, other), "", _name_in(b, mine)))
    return rows


def without_specks(segmentation: SpineSegmentation) -> SpineSegmentation:
    """The segmentation without the vertebrae that are too small to be one, as everywhere where levels are listed."""
    counts = np.zeros(256, int)
    for layer in segmentation.labels_zyx:
        counts += np.bincount(layer.ravel(), minlength=256)
    small = counts * segmentation.ct_geometry.voxel_volume_ml < LEAST_VERTEBRA_ML
    specks = [
        label for label, name in segmentation.names.items() if is_vertebra(name) and counts[label] and small[label]
    ]
    if not specks:
        return segmentation
    labels = segmentation.labels_zyx.copy()
    labels[np.isin(labels, specks)] = 0
    return replace(segmentation, labels_zyx=labels)


def structure_mask(segmentation: SpineSegmentation, name: str) -> L1Mask | None:
    """One structure of a segmentation as a mask, None if it holds no voxel of it."""
    label = segmentation.label_of(name)
    if label is None:
        return None
    found = segmentation.labels_zyx == label
    extent = [np.flatnonzero(found.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(extent[0]):
        return None
    (z, zz), (y, yy), (x, xx) = ((int(e[0]), int(e[-1]) + 1) for e in extent)
    x0, y0, z0 = segmentation.start_xyz
    start = (x0 + x, y0 + y, z0 + z)
    return L1Mask(found[z:zz, y:yy, x:xx].copy(), start, segmentation.ct_geometry, segmentation.segmenter)


def compare_blocks(a_zyx: BoolArray, b_zyx: BoolArray, spacing_mm_xyz: Vector3) -> MaskComparison:
    """How far two masks of the same shape agree. Raises InputRefused if one is empty."""
    first, second = (_image(mask, spacing_mm_xyz) for mask in (a_zyx, b_zyx))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(first, second)
    from_a, from_b = _surface_distances(first, second), _surface_distances(second, first)
    (volume_a, centre_a), (volume_b, centre_b) = _volume_and_centre(first), _volume_and_centre(second)
    return MaskComparison(
        dice=float(overlap.GetDiceCoefficient(1)),
        mean_surface_mm=float(np.concatenate([from_a, from_b]).mean()),
        hausdorff95_mm=float(max(np.percentile(d, HAUSDORFF_PERCENTILE) for d in (from_a, from_b))),
        volume_a_ml=volume_a,
        volume_b_ml=volume_b,
        centre_distance_mm=float(np.linalg.norm(centre_a - centre_b)),
    )


def _image(mask_zyx: BoolArray, spacing_mm_xyz: Vector3) -> sitk.Image:
    """With a rim of background, so that a mask that fills its block has a surface too."""
    if not mask_zyx.any():
        raise InputRefused("mask_empty", "One of the masks is empty.", "Choose masks that hold the vertebra.")
    image = sitk.GetImageFromArray(np.pad(mask_zyx, 1).astype(np.uint8))
    image.SetSpacing(spacing_mm_xyz)
    return image


def _surface_distances(of: sitk.Image, to: sitk.Image) -> FloatArray:
    """From every surface voxel of one mask to the nearest surface voxel of the other, in mm."""
    surface = sitk.GetArrayFromImage(sitk.LabelContour(of)) > 0
    signed = sitk.SignedMaurerDistanceMap(sitk.LabelContour(to), squaredDistance=False, useImageSpacing=True)
    # Negative only inside a surface that is several voxels thick: such a voxel is a surface voxel itself.
    return np.maximum(sitk.GetArrayFromImage(signed)[surface], 0.0)


def _volume_and_centre(image: sitk.Image) -> tuple[float, FloatArray]:
    """Millilitres, and the centroid in the block's own millimetres."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(image)
    return float(shape.GetPhysicalSize(1)) / 1000.0, np.asarray(shape.GetCentroid(1))


def _on_common_block(*masks: tuple[BoolArray, Index3]) -> list[BoolArray]:
    """Blocks with their first voxels (x, y, z) → arrays of one shape that cover all of them."""
    starts = np.array([start[::-1] for _, start in masks])
    stops = starts + [block.shape for block, _ in masks]
    low, high = starts.min(axis=0), stops.max(axis=0)
    placed = []
    for (block, _), start, stop in zip(masks, starts - low, stops - low, strict=True):
        whole = np.zeros(high - low, bool)
        whole[tuple(slice(i, j) for i, j in zip(start, stop, strict=True))] = block
        placed.append(whole)
    return placed


def _name_in(other: SpineSegmentation, mask: L1Mask | None) -> str:
    """What another segmentation calls most of a mask's voxels, "" where that is background."""
    if mask is None:
        return ""
    low = np.array(mask.start_xyz[::-1]) - other.start_xyz[::-1]
    voxels = np.argwhere(mask.block_zyx) + low
    inside = np.all((voxels >= 0) & (voxels < other.labels_zyx.shape), axis=1)
    labels = other.labels_zyx[tuple(voxels[inside].T)]
    if not labels.any():
        return ""
    counts = np.bincount(labels)
    counts[0] += np.count_nonzero(~inside)
    return other.names.get(int(counts.argmax()), "")


def _check_grid(a: ImageGeometry, b: ImageGeometry) -> None:
    if not a.same_grid_as(b):
        raise UsageError(
            "grids_differ",
            "The two segmentations lie on different voxel grids.",
            "Compare masks of the same CT.",
        )
