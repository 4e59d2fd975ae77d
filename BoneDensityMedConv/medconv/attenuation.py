"""Trabecular attenuation of L1: a region of interest inside the vertebral body, and its HU.

The region follows Comp2Comp's `spine` measurement (Stanford, Apache-2.0; rule re-implemented from its description):
an ellipse in the axial plane, centred on the midline at 58 % of the body's depth from its anterior edge, with
semi-axes of 0.25 of the depth and 0.325 of the width, over 7.5 mm around mid-height, inside the eroded mask. Two
things differ: lengths are millimetres, not voxels, so that resampling doesn't move them; and the mask is eroded by
3 mm (two voxels of the 1.5 mm masks that rule was made for).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import canonical, to_image
from medconv.types import Attenuation, BoolArray, ImageGeometry, InputRefused, L1Case, QualityNote, Severity

CENTER_DEPTH_FRACTION = 0.58
DEPTH_SEMI_AXIS_FRACTION = 0.25
WIDTH_SEMI_AXIS_FRACTION = 0.325
HALF_HEIGHT_MM = 3.75
EROSION_MM = 3.0

# L1 body: depth 30–35 mm, width 40–50 mm; outside these wide limits the body has not been found.
PLAUSIBLE_DEPTH_MM = (15.0, 50.0)
PLAUSIBLE_WIDTH_MM = (25.0, 75.0)
MINIMUM_VOLUME_ML = 0.4
MINIMUM_VOXELS = 30
DENSE_HU = 1000.0
DENSE_FRACTION = 0.01
HETEROGENEOUS_SD_HU = 120.0


@dataclass(frozen=True)
class BodyExtent:
    """The vertebral body on a canonical grid: midline column x, anterior edge y, mid-height z (voxels); sizes in mm."""

    x: float
    y_anterior: float
    z: float
    depth_mm: float
    width_mm: float


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
    """The region of interest on a canonical grid (x left, y posterior, z superior), same shape as the mask."""
    body = find_body(mask_zyx, geometry)
    sx, sy, sz = geometry.spacing_mm_xyz
    depth, height, width = mask_zyx.shape
    z, y, x = np.ogrid[:depth, :height, :width]
    y_center_mm = body.y_anterior * sy + CENTER_DEPTH_FRACTION * body.depth_mm
    across = (x - body.x) * sx / (WIDTH_SEMI_AXIS_FRACTION * body.width_mm)
    along = (y * sy - y_center_mm) / (DEPTH_SEMI_AXIS_FRACTION * body.depth_mm)
    cylinder = (across**2 + along**2 <= 1.0) & (np.abs(z - body.z) * sz <= HALF_HEIGHT_MM)
    distance = sitk.SignedMaurerDistanceMap(
        to_image(mask_zyx.astype(np.uint8), geometry),
        insideIsPositive=True,
        squaredDistance=False,
        useImageSpacing=True,
    )
    return np.asarray(cylinder & (sitk.GetArrayFromImage(distance) >= EROSION_MM))


def find_body(mask_zyx: BoolArray, geometry: ImageGeometry) -> BodyExtent:
    """The vertebral body within a whole-vertebra mask on a canonical grid.

    On the midline the spinal canal parts the body from the spinous process, so the first run of mask voxels from the
    front is the body. Raises InputRefused if that run or the width beside it is not that of a vertebral body.
    """
    sx, sy, sz = geometry.spacing_mm_xyz
    occupied_x = np.flatnonzero(mask_zyx.any(axis=(0, 1)))
    midline = _midline(mask_zyx)
    near = [int(c) for c in range(round(midline - 4.0 / sx), round(midline + 4.0 / sx) + 1)]
    columns = [c for c in near if occupied_x[0] <= c <= occupied_x[-1]]
    runs = [run for c in columns for run in _first_runs(mask_zyx[:, :, c])]
    if not runs:
        raise _body_not_found("the mask is empty on its midline")
    fronts = np.array([(z, y0, y1) for z, y0, y1 in runs])
    # The tallest stack of rows whose run is near the median depth is the body; laminae and stray voxels are shorter.
    depths = (fronts[:, 2] - fronts[:, 1]) * sy
    depth = float(np.median(depths[depths >= 0.5 * np.percentile(depths, 80)]))
    body_rows = fronts[(depths >= 0.6 * depth) & (depths <= 1.6 * depth)]
    z_center = (body_rows[:, 0].min() + body_rows[:, 0].max()) / 2.0
    middle = body_rows[np.abs(body_rows[:, 0] - z_center) * sz <= max(HALF_HEIGHT_MM, sz)]
    if len(middle) == 0:
        raise _body_not_found("its middle is hollow")
    y_anterior = float(np.median(middle[:, 1]))
    depth = float(np.median(middle[:, 2] - middle[:, 1])) * sy
    x_center, width = _width(mask_zyx, round(z_center), y_anterior + CENTER_DEPTH_FRACTION * depth / sy, midline, sx)
    for name, value, (low, high) in (("depth", depth, PLAUSIBLE_DEPTH_MM), ("width", width, PLAUSIBLE_WIDTH_MM)):
        if not low <= value <= high:
            raise _body_not_found(f"its {name} would be {value:.0f} mm, expected {low:.0f} to {high:.0f} mm")
    return BodyExtent(x_center, y_anterior, float(z_center), depth, width)


def _midline(mask_zyx: BoolArray) -> float:
    """Left-right position of the midline: the middle of the mask's extent in its bulkiest rows."""
    counts = mask_zyx.sum(axis=(0, 1)).astype(float)
    bulk = np.flatnonzero(counts >= 0.5 * counts.max())
    return float(bulk[0] + bulk[-1]) / 2.0


def _first_runs(plane_zy: BoolArray) -> list[tuple[int, int, int]]:
    """(z, start, stop) of the front-most run of mask voxels in every row that has one."""
    found = []
    for z in np.flatnonzero(plane_zy.any(axis=1)):
        row = plane_zy[z]
        start = int(row.argmax())
        gaps = np.flatnonzero(~row[start:])
        found.append((int(z), start, start + int(gaps[0]) if len(gaps) else len(row)))
    return found


def _width(mask_zyx: BoolArray, z: int, y: float, midline: float, spacing_x: float) -> tuple[float, float]:
    """Centre (voxels) and width (mm) of the run of mask voxels across the midline at that height and depth."""
    row = mask_zyx[z, min(int(y), mask_zyx.shape[1] - 1)]
    x = round(midline)
    if not row[x]:
        raise _body_not_found("its centre is hollow")
    left = x - int((~row[x::-1]).argmax() or x + 1) + 1
    right = x + int((~row[x:]).argmax() or len(row) - x) - 1
    return (left + right) / 2.0, (right - left + 1) * spacing_x


def _body_not_found(reason: str) -> InputRefused:
    return InputRefused(
        "vertebral_body_not_found",
        f"The vertebral body can't be found in the L1 mask: {reason}.",
        "Check that the segment is a whole L1 and that the CT's orientation is right.",
    )
