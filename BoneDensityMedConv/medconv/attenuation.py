"""Trabecular attenuation of L1: a region of interest inside the vertebral body, and its HU.

The region follows Comp2Comp's `spine` measurement (Stanford, Apache-2.0; rule re-implemented from its description):
an ellipse in the axial plane, centred on the midline at 58 % of the body's depth from its anterior edge, with
semi-axes of 0.25 of the depth and 0.325 of the width, over 7.5 mm around mid-height, inside the eroded mask. Two
things differ: lengths are millimetres, not voxels, so that resampling doesn't move them; and the mask is eroded by
3 mm (two voxels of the 1.5 mm masks that rule was made for).

The region is found on a 1 mm grid with axes to left, posterior and superior, whatever the CT's voxels and axes are;
the HU are those of the CT's own voxels whose centres lie in it, not interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import canonical, index3, to_image
from medconv.types import Attenuation, BoolArray, ImageGeometry, InputRefused, L1Case, QualityNote, Severity

CENTER_DEPTH_FRACTION = 0.58
DEPTH_SEMI_AXIS_FRACTION = 0.25
WIDTH_SEMI_AXIS_FRACTION = 0.325
HALF_HEIGHT_MM = 3.75
EROSION_MM = 3.0
FINE_MM = 1.0

# L1 body: depth 30–35 mm, width 40–50 mm, height 20–30 mm; outside these wide limits the body has not been found.
PLAUSIBLE_DEPTH_MM = (15.0, 50.0)
PLAUSIBLE_WIDTH_MM = (25.0, 75.0)
PLAUSIBLE_HEIGHT_MM = (8.0, 50.0)
OPENING_FRACTION = 0.6
MIDLINE_MM = 4.0
MINIMUM_VOLUME_ML = 0.4
MINIMUM_VOXELS = 20
DENSE_HU = 1000.0
DENSE_FRACTION = 0.01
HETEROGENEOUS_SD_HU = 120.0
FOCUS_HU = 7.5  # of evenly noisy bone, mean and median lie within 2 HU


@dataclass(frozen=True)
class BodyExtent:
    """The vertebral body on the 1 mm grid: the region's centre (x, y, z in voxels) and the body's size in mm."""

    x: float
    y: float
    z: float
    depth_mm: float
    width_mm: float
    height_mm: float


def measure(case: L1Case) -> tuple[Attenuation, list[QualityNote]]:
    """HU of L1's trabecular core by the rule above, with notes on what makes it doubtful.

    Raises InputRefused if the body can't be found in the mask, the region is too small, or it holds metal or cement.
    """
    hu, geometry = canonical(case.ct.array_zyx, case.ct.geometry)
    mask, _ = canonical(case.mask_zyx.astype(np.uint8), case.ct.geometry)
    roi = trabecular_roi(mask.astype(bool), geometry)
    values = hu[roi].astype(np.float64)
    volume = values.size * geometry.voxel_volume_ml
    if values.size < MINIMUM_VOXELS or volume < MINIMUM_VOLUME_ML:
        raise InputRefused(
            "roi_too_small",
            f"Only {volume:.2f} ml ({values.size} voxels) of L1's trabecular core can be measured.",
            "Check the L1 mask; a thin, broken or very small mask leaves nothing after the cortex is taken off.",
        )
    dense = float(np.mean(values > DENSE_HU))
    if dense > DENSE_FRACTION:
        raise InputRefused(
            "metal_or_cement",
            f"{dense:.0%} of L1's core is above {DENSE_HU:.0f} HU: metal or bone cement.",
            "Its density can't be read here; use a vertebra without an implant.",
        )
    attenuation = summary(values, geometry)
    notes = []
    if attenuation.sd_hu > HETEROGENEOUS_SD_HU:
        notes.append(
            QualityNote(
                "heterogeneous_core",
                Severity.WARNING,
                f"L1's core is uneven (SD {attenuation.sd_hu:.0f} HU): noise, a focal lesion, sclerosis or a fracture?",
            )
        )
    apart = attenuation.mean_hu - attenuation.median_hu
    if abs(apart) > FOCUS_HU:
        what = "denser" if apart > 0 else "less dense"
        notes.append(
            QualityNote(
                "focus_in_core",
                Severity.WARNING,
                f"Mean and median of L1's core differ by {abs(apart):.0f} HU: a small {what} focus lies in it. The "
                f"median ({attenuation.median_hu:.0f} HU) is the safer figure.",
            )
        )
    return attenuation, notes


def summary(values_hu: NDArray[np.float64], geometry: ImageGeometry) -> Attenuation:
    """Mean, median, SD (population), count and volume of the voxels given."""
    return Attenuation(
        mean_hu=float(values_hu.mean()),
        median_hu=float(np.median(values_hu)),
        sd_hu=float(values_hu.std()),
        voxels=int(values_hu.size),
        volume_ml=float(values_hu.size) * geometry.voxel_volume_ml,
    )


def trabecular_roi(mask_zyx: BoolArray, geometry: ImageGeometry) -> BoolArray:
    """The region of interest: the voxels of that grid whose centres lie in it; same shape as the mask."""
    fine, fine_geometry = _fine(mask_zyx, geometry)
    body = find_body(fine)
    depth, height, width = fine.shape
    z, y, x = np.ogrid[:depth, :height, :width]
    across = (x - body.x) * FINE_MM / (WIDTH_SEMI_AXIS_FRACTION * body.width_mm)
    along = (y - body.y) * FINE_MM / (DEPTH_SEMI_AXIS_FRACTION * body.depth_mm)
    cylinder = (across**2 + along**2 <= 1.0) & (np.abs(z - body.z) * FINE_MM <= HALF_HEIGHT_MM)
    inside = _depth_inside_mm(fine) >= EROSION_MM
    roi = to_image((cylinder & inside).astype(np.uint8), fine_geometry)
    own_grid = to_image(np.zeros(mask_zyx.shape, np.uint8), geometry)
    own = sitk.Resample(roi, own_grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.asarray(sitk.GetArrayFromImage(own).astype(bool))


def _fine(mask_zyx: BoolArray, geometry: ImageGeometry) -> tuple[BoolArray, ImageGeometry]:
    """The mask on a 1 mm grid with axes to left, posterior and superior, with an empty margin."""
    voxels_xyz = np.argwhere(mask_zyx)[:, ::-1]
    points = geometry.index_to_lps(voxels_xyz)
    margin = 2 * FINE_MM + max(geometry.spacing_mm_xyz)
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    x, y, z = (float(v) for v in low)
    size = index3(np.ceil((high - low) / FINE_MM).astype(int) + 1)
    fine = ImageGeometry(size, (FINE_MM, FINE_MM, FINE_MM), (x, y, z))
    mask = to_image(mask_zyx.astype(np.float32), geometry)
    grid = to_image(np.zeros(fine.shape_zyx, np.uint8), fine)
    resampled = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
    return np.asarray(sitk.GetArrayFromImage(resampled) >= 0.5), fine


def find_body(fine_zyx: BoolArray) -> BodyExtent:
    """The vertebral body within a whole-vertebra mask on the 1 mm grid of `_fine`.

    The body is the thickest part of a vertebra: a ball of 0.6 of the largest inscribed radius fits into it and into no
    pedicle, lamina or process, so that the morphological opening with that ball leaves the body, at any tilt.
    Raises InputRefused if what is left has not the size of a vertebral body.
    """
    inside_mm = _depth_inside_mm(fine_zyx)
    radius_mm = OPENING_FRACTION * float(inside_mm.max())
    core = np.asarray(inside_mm >= radius_mm)
    body = fine_zyx & (_distance_mm(_piece_at(core, int(inside_mm.argmax()))) <= radius_mm)
    z, _, x = (float(i.mean()) for i in np.nonzero(body))
    near_middle = _band(body.shape[0], z, HALF_HEIGHT_MM)
    y_front, depth = _runs(body[near_middle][:, :, _band(body.shape[2], x, MIDLINE_MM)], axis=1)
    y = y_front + CENTER_DEPTH_FRACTION * depth
    y_band = _band(body.shape[1], y, MIDLINE_MM / 2)
    x_right, width = _runs(body[near_middle][:, y_band], axis=2)
    x = x_right + (width - 1) / 2
    z_below, height = _runs(body[:, y_band][:, :, _band(body.shape[2], x, MIDLINE_MM)], axis=0)
    for name, value, (low, high) in (
        ("depth", depth * FINE_MM, PLAUSIBLE_DEPTH_MM),
        ("width", width * FINE_MM, PLAUSIBLE_WIDTH_MM),
        ("height", height * FINE_MM, PLAUSIBLE_HEIGHT_MM),
    ):
        if not low <= value <= high:
            raise _body_not_found(f"its {name} would be {value:.0f} mm, expected {low:.0f} to {high:.0f} mm")
    return BodyExtent(x, y, z_below + (height - 1) / 2, depth * FINE_MM, width * FINE_MM, height * FINE_MM)


def _depth_inside_mm(mask_zyx: BoolArray) -> NDArray[np.float32]:
    """Depth below the mask's surface in mm on the 1 mm grid; 0 outside."""
    outside = _distance_mm(~mask_zyx)
    return np.asarray(np.where(mask_zyx, outside - FINE_MM / 2, 0.0))


def _distance_mm(mask_zyx: BoolArray) -> NDArray[np.float32]:
    """Distance to the nearest voxel of the mask on the 1 mm grid; 0 in the mask."""
    image = sitk.GetImageFromArray(mask_zyx.astype(np.uint8))
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False)
    return np.asarray(np.maximum(sitk.GetArrayFromImage(distance), 0.0) * FINE_MM)


def _piece_at(mask_zyx: BoolArray, flat_index: int) -> BoolArray:
    """The connected piece that holds that voxel."""
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(mask_zyx.astype(np.uint8))))
    return np.asarray(pieces == pieces.flat[flat_index])


def _band(length: int, center: float, half_mm: float) -> slice:
    """Indices within `half_mm` of `center` along an axis of that length."""
    return slice(max(0, round(center - half_mm / FINE_MM)), min(length, round(center + half_mm / FINE_MM) + 1))


def _runs(part: BoolArray, axis: int) -> tuple[float, float]:
    """Median first index, and median length from first to last, of the mask along an axis; lines without it aside."""
    lines = np.moveaxis(part, axis, -1).reshape(-1, part.shape[axis])
    lines = lines[lines.any(axis=1)]
    if len(lines) == 0:
        raise _body_not_found("its middle is hollow")
    first = lines.argmax(axis=1)
    last = lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    return float(np.median(first)), float(np.median(last - first + 1))


def _body_not_found(reason: str) -> InputRefused:
    return InputRefused(
        "vertebral_body_not_found",
        f"The vertebral body can't be found in the L1 mask: {reason}.",
        "Check that the segment is a whole L1 and that the CT's orientation is right.",
    )
