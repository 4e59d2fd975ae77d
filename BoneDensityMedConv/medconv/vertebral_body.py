"""Where the vertebral body lies within the mask of a whole vertebra.

The body is the thickest part of a vertebra: a ball of 0.6 of the largest inscribed radius fits into it and into no
pedicle, lamina or process, so that the morphological opening with that ball leaves the body, at any tilt.
Work is done on a 1 mm grid with axes to left, posterior and superior, whatever the CT's voxels and axes are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import index3, to_image
from medconv.types import BoolArray, FloatArray, ImageGeometry, InputRefused

FINE_MM = 1.0
OPENING_FRACTION = 0.6
CENTER_DEPTH_FRACTION = 0.58
MIDLINE_MM = 4.0
HALF_HEIGHT_MM = 3.75
FRAME_HALF_MM = 40  # the widest plausible body is 75 mm wide
TURNS = 3  # the second turn is below 1° on real and simulated vertebrae
STRAIGHT_ENOUGH = 0.02  # slope, about 1°
INNER_PLATE = 0.6  # share of the endplate's ellipse that tells its tilt: without the rims, which the opening rounds
# A whole L1, T12 or L2 has 15 to 90 ml (CLINICAL sources vary): less is a fragment, more are merged vertebrae.
VOLUME_RANGE_ML = (15.0, 90.0)
MINOR_PIECE_FRACTION = 0.05  # a second piece above this share means a broken mask, below it is stray voxels
# L1 body: depth 30–35 mm, width 40–50 mm, height 20–30 mm; outside these wide limits the body has not been found.
PLAUSIBLE_DEPTH_MM = (15.0, 50.0)
PLAUSIBLE_WIDTH_MM = (25.0, 75.0)
PLAUSIBLE_HEIGHT_MM = (8.0, 50.0)
ORIENTATION_REMEDY = "Use the original DICOM series, or mend the orientation of CT and mask (NIfTI: sform and qform)."


@dataclass(frozen=True)
class BodyExtent:
    """The vertebral body on the 1 mm grid: the region's centre (x, y, z in voxels) and the body's size in mm."""

    x: float
    y: float
    z: float
    depth_mm: float
    width_mm: float
    height_mm: float


@dataclass(frozen=True)
class UprightBody:
    """A vertebra on a 1 mm grid of its own: x to its left, y to its back, z along the axis of its body.

    `mask_zyx`: share of each voxel that the vertebra fills, 0 to 1; `body_zyx`: the body without the arch;
    `depth_mm_zyx`: of each voxel below the vertebra's surface; `geometry`: that grid in LPS millimetres; `middle_xyz`:
    the body's centre, in its voxels.
    """

    mask_zyx: NDArray[np.float32]
    body_zyx: BoolArray
    depth_mm_zyx: NDArray[np.float32]
    geometry: ImageGeometry
    middle_xyz: FloatArray


def fine_mask(mask_zyx: BoolArray, geometry: ImageGeometry) -> tuple[BoolArray, ImageGeometry]:
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
    """The vertebral body within a whole-vertebra mask on the 1 mm grid of `fine_mask`.

    Raises InputRefused if what the opening leaves has not the size of a vertebral body.
    """
    return extent_of(body_mask(fine_zyx))


def extent_of(body: BoolArray) -> BodyExtent:
    """Place and size of a body that `body_and_depth` gave. Raises as `find_body`."""
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


def body_mask(fine_zyx: BoolArray) -> BoolArray:
    """The voxels of the body, without the arch; its edges are rounded by the opening. Raises InputRefused."""
    return body_and_depth(fine_zyx)[0]


def body_and_depth(fine_zyx: BoolArray) -> tuple[BoolArray, NDArray[np.float32]]:
    """`body_mask` and `depth_inside_mm` of the whole mask, which it needs anyway. Raises InputRefused."""
    if not fine_zyx.any():
        raise _body_not_found("the mask is thinner than 1 mm everywhere")
    held = tuple(slice(max(int(i.min()) - 1, 0), int(i.max()) + 2) for i in np.nonzero(fine_zyx))  # distances fit in
    near = fine_zyx[held]
    inside_mm = depth_inside_mm(near)
    radius_mm = OPENING_FRACTION * float(inside_mm.max())
    core = np.asarray(inside_mm >= radius_mm)
    body, depth_mm = np.zeros_like(fine_zyx), np.zeros(fine_zyx.shape, np.float32)
    body[held] = near & (distance_mm(_piece_at(core, int(inside_mm.argmax()))) <= radius_mm)
    depth_mm[held] = inside_mm
    return body, depth_mm


def upright_body(mask_zyx: BoolArray, geometry: ImageGeometry) -> UprightBody:
    """The vertebra turned so that its endplates lie level, however the spine is curved or tilted in the scanner.

    The tilt is that of the surface halfway between the endplates, which a wedge or dent of one plate moves by half.
    """
    fine, fine_geometry = fine_mask(mask_zyx, geometry)
    source = to_image(mask_zyx.astype(np.float32), geometry)
    center = fine_geometry.index_to_lps(np.argwhere(body_mask(fine)).mean(axis=0)[::-1])
    axes: FloatArray = np.eye(3)
    for _ in range(TURNS):
        grid = _frame(center, axes)
        target = to_image(np.zeros(grid.shape_zyx, np.uint8), grid)
        mask = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkLinear, 0.0))
        body, depth_mm = body_and_depth(mask >= 0.5)
        middle = np.argwhere(body).mean(axis=0)[::-1]
        slope = _tilt(body, middle)
        if np.hypot(*slope) < STRAIGHT_ENOUGH:
            break
        center, axes = grid.index_to_lps(middle), _turned(axes, slope)
    return UprightBody(mask, body, depth_mm, grid, middle)


def _frame(center_lps_mm: FloatArray, axes: FloatArray) -> ImageGeometry:
    """A 1 mm cube around a point; the columns of `axes` are its directions."""
    count = 2 * FRAME_HALF_MM + 1
    x, y, z = (float(v) for v in center_lps_mm - axes @ np.full(3, float(FRAME_HALF_MM)))
    return ImageGeometry((count, count, count), (1.0, 1.0, 1.0), (x, y, z), tuple(axes.ravel().tolist()))


def _tilt(body_zyx: BoolArray, middle_xyz: FloatArray) -> FloatArray:
    """Slopes along x and y of the surface halfway between the body's endplates."""
    columns = body_zyx.any(axis=0)
    y, x = np.nonzero(columns)
    half_x, half_y = (max(float(v.max() - v.min()), 1.0) / 2 for v in (x, y))
    inner = ((x - middle_xyz[0]) / half_x) ** 2 + ((y - middle_xyz[1]) / half_y) ** 2 < INNER_PLATE
    y, x = y[inner], x[inner]
    below = body_zyx.argmax(axis=0)[y, x]
    top = body_zyx.shape[0] - 1 - body_zyx[::-1].argmax(axis=0)[y, x]
    plane = np.column_stack([x - middle_xyz[0], y - middle_xyz[1], np.ones(len(x))])
    return np.asarray(np.linalg.lstsq(plane, (top + below) / 2, rcond=None)[0][:2])


def _turned(axes: FloatArray, slope: FloatArray) -> FloatArray:
    """Axes whose z is normal to a plane with these slopes in the old axes, and whose y stays nearest to the old y."""
    z = axes @ np.array([-slope[0], -slope[1], 1.0])
    z /= np.linalg.norm(z)
    y = axes[:, 1] - z * (axes[:, 1] @ z)
    y /= np.linalg.norm(y)
    return np.column_stack([np.cross(y, z), y, z])


def core_center(mask_zyx: BoolArray, spacing_mm_xyz: tuple[float, float, float]) -> FloatArray:
    """Voxel (x, y, z) in the middle of a vertebra's thickest part: the centre of its body, on any grid.

    mask_zyx: not empty. Needs no resampling, and so serves for every vertebra of a long spine.
    """
    image = sitk.GetImageFromArray(np.pad(mask_zyx, 1).astype(np.uint8))
    image.SetSpacing(spacing_mm_xyz)
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    inside_mm = sitk.GetArrayFromImage(signed)
    core = _piece_at(inside_mm >= OPENING_FRACTION * inside_mm.max(), int(inside_mm.argmax()))
    return np.argwhere(core).mean(axis=0)[::-1] - 1.0


def depth_inside_mm(mask_zyx: BoolArray) -> NDArray[np.float32]:
    """Depth below the mask's surface in mm on the 1 mm grid; 0 outside."""
    outside = distance_mm(~mask_zyx)
    return np.asarray(np.where(mask_zyx, outside - FINE_MM / 2, 0.0))


def distance_mm(mask_zyx: BoolArray) -> NDArray[np.float32]:
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
        f"The vertebral body can't be found in the mask: {reason}.",
        "Check that the segment is a whole vertebra and that the CT's orientation is right.",
    )
