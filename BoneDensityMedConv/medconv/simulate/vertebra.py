"""The shape of one vertebra as signed distances: body with waist and endplates, arch with its seven processes.

Coordinates are the vertebra's own, in millimetres: x to the patient's left, y posterior, z superior, origin at the
centre of the body. Distances are negative inside and, near the surface, good to some tenths of a millimetre.
Sizes of the L1 body: height 20–30, depth 30–35, width 40–50 mm, posterior height 30.8 ± 2.3 mm at its tallest; the
arch follows common anatomical atlases (canal about 16 x 23 mm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]

# Size relative to L1 (width and depth; height in mm), and the disc below, mm: typical values.
LEVEL_SCALE: Mapping[str, float] = {
    "T4": 0.66, "T5": 0.68, "T6": 0.70, "T7": 0.73, "T8": 0.76, "T9": 0.79, "T10": 0.82, "T11": 0.86, "T12": 0.93,
    "L1": 1.0, "L2": 1.04, "L3": 1.09, "L4": 1.13, "L5": 1.16, "L6": 1.16,
}  # fmt: skip
LEVEL_HEIGHT: Mapping[str, float] = {
    "T4": 0.70, "T5": 0.72, "T6": 0.74, "T7": 0.76, "T8": 0.78, "T9": 0.81, "T10": 0.85, "T11": 0.89, "T12": 0.95,
    "L1": 1.0, "L2": 1.02, "L3": 1.02, "L4": 1.01, "L5": 0.98, "L6": 0.96,
}  # fmt: skip
DISC_BELOW_MM: Mapping[str, float] = {
    "T4": 3.5, "T5": 3.6, "T6": 3.8, "T7": 4.0, "T8": 4.2, "T9": 4.5, "T10": 5.0, "T11": 5.5, "T12": 7.0,
    "L1": 8.5, "L2": 10.0, "L3": 11.0, "L4": 11.5, "L5": 10.0, "L6": 9.0,
}  # fmt: skip


@dataclass(frozen=True)
class VertebraShape:
    """A vertebra's form. Lengths in mm; `waist` and `osteophyte` are fractions of the body's radius,
    `sclerosis` by how much the bone under the endplates is denser than the core."""

    height: float = 26.5
    depth: float = 32.5
    width: float = 44.0
    wedge: float = 1.0
    waist: float = 0.08
    osteophyte: float = 0.0
    sclerosis: float = 0.0
    endplate_concavity: float = 1.6
    canal_depth: float = 16.5
    spinous_length: float = 24.0
    spinous_drop: float = 7.0
    transverse_length: float = 20.0
    asymmetry: float = 0.0

    def at_level(self, level: str) -> VertebraShape:
        """The same person's vertebra at another level."""
        scale = LEVEL_SCALE[level]
        thoracic = level.startswith("T")
        return VertebraShape(
            height=self.height * LEVEL_HEIGHT[level],
            depth=self.depth * scale,
            width=self.width * scale,
            wedge=self.wedge - (2.0 if level in ("L4", "L5", "L6") else 0.0),
            waist=self.waist,
            osteophyte=self.osteophyte,
            sclerosis=self.sclerosis,
            endplate_concavity=self.endplate_concavity,
            canal_depth=self.canal_depth,
            spinous_length=self.spinous_length,
            spinous_drop=self.spinous_drop + (6.0 if thoracic else 0.0),
            transverse_length=self.transverse_length * (0.55 if thoracic else 1.0),
            asymmetry=self.asymmetry,
        )


def draw_shape(rng: np.random.Generator, size_scale: float) -> VertebraShape:
    """A random L1. `size_scale` multiplies width and depth; it carries signal, the rest is anatomical variation."""
    normal = rng.standard_normal(12)
    slender = 1.0 + 0.02 * float(normal[0])  # width against depth at the same cross-section
    return VertebraShape(
        height=float(np.clip(26.5 + 1.6 * normal[1], 21.0, 30.5)),
        depth=33.0 * size_scale / slender,
        width=45.0 * size_scale * slender,
        wedge=float(1.2 + 1.2 * normal[2]),
        waist=float(np.clip(0.08 + 0.025 * normal[3], 0.02, 0.15)),
        osteophyte=float(np.clip(0.05 * normal[4], 0.0, 0.16)),
        endplate_concavity=float(np.clip(1.6 + 0.6 * normal[5], 0.3, 3.2)),
        canal_depth=float(16.5 + 1.2 * normal[6]),
        spinous_length=float(24.0 + 2.5 * normal[7]),
        spinous_drop=float(7.0 + 2.0 * normal[8]),
        transverse_length=float(np.clip(18.0 + 3.0 * normal[9], 11.0, 26.0)),
        asymmetry=float(0.02 * normal[10]),
        sclerosis=float(np.clip(0.35 * normal[11], 0.0, 0.9)),
    )


def body_distance(x: Array, y: Array, z: Array, shape: VertebraShape, stretch: Array | None = None) -> Array:
    """Signed distance to the vertebral body, all arrays of one shape.

    stretch: of a collapsed body, by how much `z` is longer than the millimetres that are left (`fracture.uncollapsed`).
    """
    half = shape.height / 2.0
    level = np.minimum((z / half) ** 2, 1.3)
    girth = 1.0 - shape.waist * (1.0 - level) + shape.osteophyte * np.clip(level - 0.55, 0.0, 0.6)
    a, b = shape.width / 2.0 * girth, shape.depth / 2.0 * girth
    # The posterior wall is flat to slightly concave: there, points lie "further out" than they are.
    y_wall = y + 0.08 * shape.depth * np.exp(-((x / 10.0) ** 2)) * np.clip(y / b, 0.0, 1.0)
    rho = (np.abs(x / a) ** 2.5 + np.abs(y_wall / b) ** 2.5) ** 0.4
    radius = np.hypot(x, y_wall)
    side = np.where(rho > 1e-3, radius - radius / np.maximum(rho, 1e-3), -b)  # on the axis itself: the short radius
    plate = half + shape.wedge / 2.0 * y / b - shape.endplate_concavity * np.clip(1.0 - rho**2, -0.1, 1.0)
    beyond = np.abs(z) - plate
    return smooth_maximum(side, beyond if stretch is None else beyond / stretch, 2.5)


def arch_distance(x: Array, y: Array, z: Array, shape: VertebraShape) -> Array:
    """Signed distance to pedicles, laminae, articular, transverse and spinous processes together."""
    across = np.abs(x) * (1.0 + np.float32(shape.asymmetry) * np.sign(x))
    wall, lamina = shape.depth / 2.0, shape.depth / 2.0 + shape.canal_depth
    half = shape.height / 2.0
    pillar = 0.33 * shape.width
    pillar_y = wall + 0.72 * shape.canal_depth
    tip, flare = lamina + shape.spinous_length, pillar + shape.transverse_length
    rods: list[tuple[Point, Point, Point]] = [  # from, to, radii
        ((pillar - 0.5, wall - 5.0, 0.32 * half), (pillar, pillar_y, 0.25 * half), (4.2, 4.2, 7.6)),  # pedicle
        ((pillar, pillar_y, -0.1 * half), (1.5, lamina + 4.0, -0.42 * half), (3.6, 3.6, 9.0)),  # lamina
        ((pillar, pillar_y, 0.2 * half), (pillar + 2.5, pillar_y - 1.0, 1.22 * half), (4.6, 4.6, 4.6)),  # upper facet
        (
            (pillar - 2.0, lamina + 1.0, -0.3 * half),
            (pillar - 3.0, lamina - 0.5, -1.6 * half),
            (4.4, 4.4, 4.6),
        ),  # lower
        ((pillar + 1.0, pillar_y, 0.3 * half), (flare, pillar_y + 4.0, 0.4 * half), (3.4, 3.0, 4.6)),  # transverse
        ((0.0, lamina + 4.0, -0.3 * half), (0.0, tip, -0.3 * half - shape.spinous_drop), (3.1, 4.0, 8.0)),  # spinous
    ]
    parts = [rod_distance(across, y, z, *rod) for rod in rods]
    distance = parts[0]
    for part in parts[1:]:
        distance = smooth_minimum(distance, part, 2.5)
    return distance


def vein_distance(x: Array, y: Array, z: Array, shape: VertebraShape) -> Array:
    """Distance from the basivertebral vein's canal, which enters the body through the middle of its posterior wall."""
    back = shape.depth / 2.0
    return rod_distance(x, y, z, (0.0, back + 1.0, 0.0), (0.0, back - 11.0, 0.0), (3.2, 2.0, 2.0))


def smooth_minimum(a: Array, b: Array, width_mm: float) -> Array:
    """The smaller of two distances, rounded where they are within `width_mm` of each other (polynomial blend)."""
    blend = np.maximum(np.float32(width_mm) - np.abs(a - b), 0.0)
    return np.minimum(a, b) - blend * blend * np.float32(0.25 / width_mm)


def smooth_maximum(a: Array, b: Array, width_mm: float) -> Array:
    """The larger of two distances, rounded likewise."""
    return -smooth_minimum(-a, -b, width_mm)


def rod_distance(x: Array, y: Array, z: Array, start: Point, end: Point, radii: Point) -> Array:
    """Signed distance to a rod of elliptical section: a capsule in coordinates scaled by `radii`."""
    inverse = [np.float32(1.0 / r) for r in radii]
    sx, sy, sz = (start[i] * inverse[i] for i in range(3))
    dx, dy, dz = (np.float32((end[i] - start[i]) * inverse[i]) for i in range(3))
    px, py, pz = x * inverse[0] - np.float32(sx), y * inverse[1] - np.float32(sy), z * inverse[2] - np.float32(sz)
    along = np.clip((px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
    ex, ey, ez = px - along * dx, py - along * dy, pz - along * dz
    scaled = np.sqrt(ex * ex + ey * ey + ez * ez)
    # Back to millimetres: the radius in the direction of the nearest surface point.
    direction = np.sqrt((ex * radii[0]) ** 2 + (ey * radii[1]) ** 2 + (ez * radii[2]) ** 2)
    factor = np.where(scaled > 1e-4, direction / np.maximum(scaled, 1e-4), min(radii))
    return ((scaled - 1.0) * factor).astype(np.float32)
