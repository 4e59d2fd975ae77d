"""Everything that is not bone: discs, canal, muscles, vessels, organs, fat, skin and the air around.

A sketch from ellipsoids and tubes that reads as an abdomen at a bone or soft-tissue window; it carries no signal.
Coordinates as in `spine`. HU of tissues without contrast are textbook values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medconv.simulate import physics
from medconv.simulate.body_frame import SKETCH, BodyFrame
from medconv.simulate.physics import smooth_step
from medconv.simulate.scan import Scan
from medconv.simulate.spine import CoarseGrid, PlacedVertebra
from medconv.simulate.vertebra import Array
from medconv.types import FloatArray

AIR_HU, FAT_HU, MUSCLE_HU, DISC_HU, CSF_HU, BOWEL_HU = -1000.0, -102.0, 55.0, 88.0, 22.0, 25.0
KIDNEY_HU = {"native": 34.0, "arterial": 150.0, "portal": 185.0}
BODY_HALF_AXES_MM = (148.0, 103.0)
BODY_CENTER_Y_MM = -22.0
FAT_LAYER_MM = 17.0


def sample_soft_tissue(
    grid: CoarseGrid, spine: Sequence[PlacedVertebra], scan: Scan, rng: np.random.Generator, with_organs: bool,
    frame: BodyFrame = SKETCH,
) -> Array:  # fmt: skip
    """HU of soft tissue on the coarse grid, shape (z, y, x). Without organs for the small neighbourhood of L1."""
    z = grid.z_mm[:, None, None]
    y = grid.y_mm[None, :, None]
    x = grid.x_mm[None, None, :]
    body_x, body_y = frame.own_coordinates(x, y, z)
    by_height = sorted(spine, key=lambda v: float(v.center[2]))
    heights = [float(v.center[2]) for v in by_height]
    axis_x, axis_y, depth, width, canal = (
        np.interp(z, heights, values).astype(np.float32)
        for values in (
            [float(v.center[0]) for v in by_height],
            [float(v.center[1]) for v in by_height],
            [v.shape.depth for v in by_height],
            [v.shape.width for v in by_height],
            [v.shape.canal_depth for v in by_height],
        )
    )
    u, v = x - axis_x, y - axis_y  # across and behind the column
    hu = np.full(grid.shape_zyx, FAT_HU, np.float32)
    hu += 9.0 * slow_noise(grid, rng, 4.0)
    if with_organs:
        _paint_organs(hu, body_x, body_y, z, scan, grid, rng)
    blood = physics.BLOOD_HU[scan.phase]
    side = np.abs(u)
    paint(hu, _tube(side - 0.95 * width, v - 2.0 + 0.0 * z, 0.36 * width + 0.06 * np.maximum(-z, 0), 21.0), MUSCLE_HU)
    paint(hu, _tube(side - 30.0, v - depth / 2 - 27.0 + 0.0 * z, 26.0, 21.0), MUSCLE_HU)
    paint(hu, _tube(u - 0.12 * width, v + depth / 2 + 13.0, 9.5, 9.5), blood)
    paint(hu, _tube(u + 0.45 * width, v + depth / 2 + 11.0, 11.0, 9.0), 0.75 * blood + 10.0)
    paint(hu, _tube(u, v, width / 2 - 1.0, depth / 2 - 0.5), DISC_HU)
    paint(hu, _tube(u, v - depth / 2 - canal / 2, 11.0, canal / 2), FAT_HU)
    paint(hu, _tube(u, v - depth / 2 - canal / 2 + 0.5, 8.5, canal / 2 - 1.5), CSF_HU)
    hu += 6.0 * slow_noise(grid, rng, 1.2)
    paint(hu, -body_outline(body_x, body_y, z), AIR_HU)
    return hu


def _paint_organs(
    hu: Array, x: Array, y: Array, z: Array, scan: Scan, grid: CoarseGrid, rng: np.random.Generator
) -> None:
    """Wall muscles, bowel with gas, liver, kidneys, stomach; the patient's left is +x."""
    paint(hu, body_outline(x, y, z) + FAT_LAYER_MM, MUSCLE_HU)
    inner = inner_wall(x, y, z)
    paint(hu, inner, FAT_HU)
    loops = slow_noise(grid, rng, 9.0)
    front = np.maximum(inner + 4.0, y + 38.0)
    paint(hu, np.maximum(front, 6.0 * (0.1 - loops)), BOWEL_HU)
    paint(hu, np.maximum(front, 6.0 * (1.3 - loops)), -850.0)
    liver = physics.PARENCHYMA_HU[scan.phase]
    paint(hu, np.maximum(liver_distance(x, y, z), inner), liver)
    paint(hu, np.maximum(ellipsoid(x - 95.0, y - 2.0, z - 75.0, 30.0, 42.0, 48.0), inner), liver - 5.0)
    for sign in (-1.0, 1.0):
        paint(hu, kidney_distance(x, y, z, sign), KIDNEY_HU[scan.phase])
        paint(hu, ellipsoid(x - sign * 52.0, y - 8.0, z + 12.0, 12.0, 11.0, 26.0), FAT_HU)


def liver_distance(x: Array, y: Array, z: Array) -> Array:
    """Signed distance (about) to the liver, on the patient's right, before the body wall cuts it."""
    return ellipsoid(x + 78.0, y + 35.0, z - 70.0, 62.0, 75.0, 95.0)


def kidney_distance(x: Array, y: Array, z: Array, sign: float) -> Array:
    """Signed distance (about) to a kidney; `sign` is 1 for the left one, -1 for the right."""
    return ellipsoid(x - sign * 62.0, y - 12.0, z + 4.0 * sign + 12.0, 27.0, 27.0, 52.0)


def inner_wall(x: Array, y: Array, z: Array) -> Array:
    """Signed distance (about) to the inside of the abdominal wall."""
    wall = body_outline(x, y, z) + FAT_LAYER_MM
    return np.asarray(wall + 11.0 + 4.0 * np.clip((y - 20.0) / 40.0, 0.0, 1.0))


def body_outline(x: Array, y: Array, z: Array) -> Array:
    """Signed distance (about) to the skin."""
    a, b = BODY_HALF_AXES_MM
    rho = (np.abs(x / a) ** 2.3 + np.abs((y - BODY_CENTER_Y_MM) / b) ** 2.3) ** (1.0 / 2.3) + 0.0 * z
    furrow = 6.0 * np.exp(-((x / 18.0) ** 2)) * (y > 0)  # over the spinous processes
    return ((rho - 1.0) * b + furrow).astype(np.float32)


def _tube(across: FloatArray, along: FloatArray, a: FloatArray | float, b: FloatArray | float) -> Array:
    """Signed distance (about) to an elliptical tube that follows the spine."""
    rho = np.sqrt((across / a) ** 2 + (along / b) ** 2)
    return ((rho - 1.0) * np.minimum(a, b)).astype(np.float32)


def ellipsoid(x: Array, y: Array, z: Array, a: float, b: float, c: float) -> Array:
    rho = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    return ((rho - 1.0) * min(a, b, c)).astype(np.float32)


def paint(hu: Array, distance_mm: Array, value: float) -> None:
    """Put a tissue where the distance is negative, with an edge about a voxel wide; in place."""
    inside = smooth_step(distance_mm, 1.0)
    hu += (inside * (np.float32(value) - hu)).astype(np.float32)


def slow_noise(grid: CoarseGrid, rng: np.random.Generator, sigma_mm: float) -> Array:
    """Smooth variation, mean 0 and SD 1."""
    from scipy.ndimage import gaussian_filter

    step = float(grid.x_mm[1] - grid.x_mm[0])
    white = rng.standard_normal(grid.shape_zyx, dtype=np.float32)
    field = gaussian_filter(white, sigma_mm / step, mode="wrap", truncate=3.0)
    return np.asarray(field / field.std(), np.float32)
