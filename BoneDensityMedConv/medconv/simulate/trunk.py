"""The person from the fourth thoracic vertebra to the thighs: spine in any variant, ribs, pelvis, lungs and organs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.simulate import soft_tissue
from medconv.simulate.body_frame import BodyFrame
from medconv.simulate.enumeration import Variant, draw_curve
from medconv.simulate.patient import Patient
from medconv.simulate.pelvis import Sacrum, add_pelvis, place_sacrum
from medconv.simulate.ribs import add_labelled_ribs
from medconv.simulate.scan import Scan
from medconv.simulate.soft_tissue import MUSCLE_HU, body_outline, ellipsoid, inner_wall, paint
from medconv.simulate.spine import BoneField, CoarseGrid, PlacedVertebra, place_spine, rotation, sample_bone
from medconv.simulate.vertebra import Array
from medconv.types import FloatArray

LIVER = 5  # TotalSegmentator v2 "total"
POSE_SD_DEG = (2.0, 2.0, 2.0)
BOX_X_MM, BOX_Y_MM = (-176.0, 176.0), (-150.0, 116.0)
LOWEST_MM, HIGHEST_MM = -330.0, 235.0  # what is drawn, above the centre of L1
SHORTEST_MM = 20.0
COARSE_STEP_MM = (1.6, 2.4)  # as fine as the scan asks for
GIRTH = (1.02, 0.07)  # mean and SD; our assumption
LUNG_HU, BLADDER_HU = -830.0, 8.0
LUNG_HALF_AXES_MM = (112.0, 72.0)


@dataclass(frozen=True)
class Anatomy:
    """What is scanned, on the bone's coarse grid; `liver_mm` is the signed distance to the liver where it is drawn."""

    bone: BoneField
    soft_hu: NDArray[np.float32]
    liver_mm: NDArray[np.float32] | None = None


def trunk_box(field_of_view_mm: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Corners of what is shown. Raises ValueError for a field of view outside of what is drawn."""
    low, high = field_of_view_mm
    if low < LOWEST_MM or high > HIGHEST_MM or high - low < SHORTEST_MM:
        raise ValueError(
            f"field_of_view_mm must lie in {LOWEST_MM:g}..{HIGHEST_MM:g} and be at least {SHORTEST_MM:g} high, "
            f"got {low:g}..{high:g}"
        )
    return np.array([BOX_X_MM[0], BOX_Y_MM[0], low]), np.array([BOX_X_MM[1], BOX_Y_MM[1], high])


def draw_trunk(
    patient: Patient, scan: Scan, rng: np.random.Generator, variant: Variant, low: FloatArray, high: FloatArray
) -> Anatomy:
    """All that lies between two corners (LPS mm about the centre of L1)."""
    pose = rotation(*(sd * float(v) for sd, v in zip(POSE_SD_DEG, rng.standard_normal(3), strict=True)))
    curve = draw_curve(rng, variant)
    girth = float(np.clip(GIRTH[0] + GIRTH[1] * rng.standard_normal(), 0.88, 1.15))
    sacrum_tilt = curve.pop("sacrum")
    spine = place_spine(patient, pose, variant.levels, curve)
    sacrum = place_sacrum(patient, spine[-1], pose @ rotation(sacrum_tilt, 0.0, 0.0))
    frame = body_frame(girth, spine, sacrum)
    step = float(np.clip(0.75 * min(scan.in_plane_spacing_mm, scan.slice_thickness_mm), *COARSE_STEP_MM))
    margin = np.array([0.0, 0.0, scan.slice_thickness_mm])
    grid = CoarseGrid.covering((low - margin).tolist(), (high + margin).tolist(), step)
    bone = sample_bone(grid, spine, patient, scan, rng)
    add_labelled_ribs(bone, spine, patient, frame, variant.rib_levels)
    add_pelvis(bone, sacrum)
    soft, lungs = draw_soft_tissue(grid, spine, sacrum, scan, rng, frame)
    return Anatomy(bone, soft, _liver(grid, frame, lungs))


def draw_soft_tissue(
    grid: CoarseGrid, spine: Sequence[PlacedVertebra], sacrum: Sacrum, scan: Scan, rng: np.random.Generator,
    frame: BodyFrame,
) -> tuple[Array, Array]:  # fmt: skip
    """HU of all that is not bone, and the distance to the lungs, on the grid."""
    soft = soft_tissue.sample_soft_tissue(grid, spine, scan, rng, with_organs=True, frame=frame)
    lungs = _add_chest(soft, grid, spine, frame)
    _add_pelvic_tissue(soft, grid, sacrum, frame)
    return soft, lungs


def body_frame(girth: float, spine: Sequence[PlacedVertebra], sacrum: Sacrum) -> BodyFrame:
    """The back follows the spine's curve, less strongly."""
    behind = [(float(v.center[2]), 0.85 * float(v.center[1])) for v in spine]
    # The drawing's own back has room for a spine at 0.
    behind += [(float(sacrum.center[2]) - 40.0 * n, 0.75 * float(sacrum.center[1]) + 4.0 * n) for n in range(3)]
    z, shift = zip(*sorted(behind), strict=True)
    return BodyFrame(girth, z, shift)


def _axes(grid: CoarseGrid) -> tuple[Array, Array, Array]:
    axes = (grid.x_mm[None, None, :], grid.y_mm[None, :, None], grid.z_mm[:, None, None])
    return tuple(np.asarray(axis, np.float32) for axis in axes)  # type: ignore[return-value]  # three of them


def _add_chest(hu: Array, grid: CoarseGrid, spine: Sequence[PlacedVertebra], frame: BodyFrame) -> Array:
    """Lungs above two domes of the diaphragm, the right one higher; returns the distance to them."""
    x, y, z = _axes(grid)
    body_x, body_y = frame.own_coordinates(x, y, z)
    heights = sorted((float(v.center[2]), float(v.center[0]), float(v.center[1])) for v in spine)
    column_x, column_y = (
        np.interp(z, [h[0] for h in heights], [h[i] for h in heights]).astype(np.float32) for i in (1, 2)
    )
    u, v = np.abs(x - column_x), y - column_y
    a, b = LUNG_HALF_AXES_MM
    wall = (np.hypot(body_x / a, (body_y + 22.0) / b) - 1.0) * b
    off_center = (np.abs(body_x) - 62.0) / 62.0
    dome = 96.0 - 42.0 * off_center**2 - 48.0 * ((body_y + 25.0) / 68.0) ** 2 - 12.0 * (body_x > 0)
    mediastinum = 30.0 - np.hypot(body_x * 0.9, 0.0 * z) - 12.0 * np.clip((body_y + 30.0) / 60.0, 0.0, 1.0)
    beside_spine = np.maximum(v - 8.0 - 0.55 * np.clip(u - 18.0, 0.0, 45.0), 26.0 - u)
    beside_spine = np.where(v < -45.0, v - 8.0, beside_spine)
    heart = -ellipsoid(body_x - 22.0, body_y + 62.0, z - 138.0, 52.0, 38.0, 46.0)
    lungs = np.maximum.reduce(np.broadcast_arrays(wall, dome - z, mediastinum, beside_spine, heart))
    paint(hu, lungs.astype(np.float32), LUNG_HU)
    return np.asarray(lungs, np.float32)


def _add_pelvic_tissue(hu: Array, grid: CoarseGrid, sacrum: Sacrum, frame: BodyFrame) -> None:
    """Below the promontory: no more column; muscles around the hip bones, fat, a bladder."""
    x, y, z = _axes(grid)
    cut = int(np.searchsorted(grid.z_mm, float(sacrum.center[2]) - 12.0))
    if cut == 0:
        return
    hu, z = hu[:cut], z[:cut]
    body_x, body_y = frame.own_coordinates(x, y, z)
    u, v, w = (
        np.abs(x - np.float32(sacrum.center[0])),
        y - np.float32(sacrum.center[1]),
        z - np.float32(sacrum.center[2]),
    )
    outline = body_outline(body_x, body_y, z)
    cavity = np.maximum(inner_wall(body_x, body_y, z), v - 8.0)
    behind = np.maximum(outline + soft_tissue.FAT_LAYER_MM + 4.0, 8.0 - v)
    paint(hu, np.asarray(behind, np.float32), MUSCLE_HU)
    column = np.maximum(np.hypot(u / 1.4, v + 6.0) - 38.0, cavity)
    paint(hu, np.asarray(column, np.float32), soft_tissue.FAT_HU)
    for across, back, a, b in ((52.0, -18.0, 19.0, 22.0), (122.0, 0.0, 22.0, 46.0)):  # iliopsoas, gluteal muscles
        muscle = (np.hypot((u - across) / a, (v - back) / b) - 1.0) * a
        paint(hu, np.maximum(muscle, outline + 9.0).astype(np.float32), MUSCLE_HU)
    thigh = np.maximum((np.hypot((u - 92.0) / 62.0, (v + 12.0) / 74.0) - 1.0) * 60.0, w + 112.0)
    paint(hu, np.maximum(thigh, outline + 8.0).astype(np.float32), MUSCLE_HU)
    paint(hu, ellipsoid(u, v + 75.0, w + 98.0, 38.0, 30.0, 32.0), BLADDER_HU)


def _liver(grid: CoarseGrid, frame: BodyFrame, lungs_mm: Array) -> Array:
    x, y, z = _axes(grid)
    body_x, body_y = frame.own_coordinates(x, y, z)
    liver = np.maximum(soft_tissue.liver_distance(body_x, body_y, z), inner_wall(body_x, body_y, z))
    return np.asarray(
        np.maximum.reduce([liver, -lungs_mm, -soft_tissue.kidney_distance(body_x, body_y, z, -1.0)]), np.float32
    )
