"""Pedicle screws and rods of titanium: where they lie, how they show, and the streaks that they bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medconv.simulate import physics
from medconv.simulate.rendering import PixelGrid
from medconv.simulate.scan import Scan
from medconv.simulate.soft_tissue import BODY_CENTER_Y_MM, BODY_HALF_AXES_MM
from medconv.simulate.spine import PlacedVertebra
from medconv.simulate.streaks import TITANIUM_HU, Streaks, TrunkOutline
from medconv.simulate.vertebra import Array, Point, VertebraShape, rod_distance
from medconv.types import FloatArray

SCREW_MM, HEAD_MM, ROD_MM = 3.0, 6.0, 2.75  # radii
INSTRUMENTED: Mapping[str, tuple[str, ...]] = {"spanning": ("T12", "L2"), "in_l1": ("T12", "L1", "L2")}


@dataclass(frozen=True)
class Rod:
    """A piece of metal from one point to another, LPS mm."""

    start: Point
    end: Point
    radius_mm: float


def instrumentation(kind: str, spine: Sequence[PlacedVertebra]) -> list[Rod]:
    """Screws through both pedicles of the instrumented levels, their heads, and the rods between them."""
    placed = [v for v in spine if v.level in INSTRUMENTED.get(kind, ())]
    rods = []
    for side in (-1.0, 1.0):
        heads = []
        for vertebra in placed:
            tip, entry, head = (_in_patient(vertebra, point) for point in _screw(vertebra.shape, side))
            heads.append(head)
            rods += [Rod(tip, entry, SCREW_MM), Rod(entry, head, HEAD_MM)]
        rods += [Rod(upper, lower, ROD_MM) for upper, lower in pairwise(heads)]
    return rods


def _screw(shape: VertebraShape, side: float) -> tuple[Point, Point, Point]:
    """Tip in the body, entry behind the pedicle, head."""
    pillar, wall = 0.33 * shape.width, shape.depth / 2.0
    lamina = wall + shape.canal_depth
    height = 0.28 * shape.height / 2.0
    return (
        (side * 0.15 * shape.width, -0.22 * shape.depth, height),
        (side * (pillar + 1.0), lamina + 4.0, height),
        (side * (pillar + 3.0), lamina + 11.0, height),
    )


def _in_patient(vertebra: PlacedVertebra, point: Point) -> Point:
    x, y, z = (float(v) for v in vertebra.rotation @ np.array(point) + vertebra.center)
    return x, y, z


def metal_share(rods: Sequence[Rod], x_mm: FloatArray, y_mm: FloatArray, z_mm: FloatArray, sigma_mm: float) -> Array:
    """How much of each point's blur is metal, 0 to 1, shape (z, y, x)."""
    x, y, z = x_mm[None, None, :], y_mm[None, :, None], z_mm[:, None, None]
    distance = np.full((len(z_mm), len(y_mm), len(x_mm)), 99.0, np.float32)
    for rod in rods:
        reach = rod.radius_mm + 6.0 * sigma_mm
        ends = [sorted((rod.start[i], rod.end[i])) for i in range(3)]
        cuts = [
            slice(*np.searchsorted(axis, (low - reach, high + reach)).tolist())
            for axis, (low, high) in zip((x_mm, y_mm, z_mm), ends, strict=True)
        ]
        part = (cuts[2], cuts[1], cuts[0])
        radii = (rod.radius_mm, rod.radius_mm, rod.radius_mm)
        own = rod_distance(x[:, :, part[2]], y[:, part[1]], z[part[0]], rod.start, rod.end, radii)
        distance[part] = np.minimum(distance[part], own)
    return np.asarray(physics.blurred_fractions(distance, np.zeros_like(distance), sigma_mm)[0], np.float32)


def add_metal(
    image: Array, rods: Sequence[Rod], pixels: PixelGrid, scan: Scan, trunk: TrunkOutline, rng: np.random.Generator
) -> None:
    """Metal and its streaks into a CT without noise, shape (z, y, x) of `pixels`, in place."""
    from scipy.ndimage import zoom

    share = metal_share(rods, pixels.x_mm, pixels.y_mm, pixels.z_mm, scan.edge_sigma_mm)
    hit = np.flatnonzero(share.max(axis=(1, 2)) > 0.02)
    if len(hit):
        coarse = Streaks(pixels, trunk, scan).of_slices(share[hit], rng)
        factors = (1.0, image.shape[1] / coarse.shape[1], image.shape[2] / coarse.shape[2])
        image[hit] += zoom(coarse, factors, order=1, grid_mode=True, mode="nearest")
    image += share * (np.float32(TITANIUM_HU) - image)


def trunk_outline(girth: float) -> TrunkOutline:
    """The drawn trunk's, for a girth relative to it."""
    a, b = BODY_HALF_AXES_MM
    return TrunkOutline((girth * a, girth * b), BODY_CENTER_Y_MM)


def drawn_metal(
    kind: str, spine: Sequence[PlacedVertebra], scan: Scan, trunk: TrunkOutline, rng: np.random.Generator
) -> Callable[[Array, PixelGrid], None] | None:
    """What draws the metal into a CT without noise, slab by slab; None without metal."""
    rods = instrumentation(kind, spine)
    if not rods:
        return None

    def draw(image: Array, pixels: PixelGrid) -> None:
        add_metal(image, rods, pixels, scan, trunk, rng)

    return draw
