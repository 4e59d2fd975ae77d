"""A collapsed vertebral body: lower in front (wedge) or in the middle (biconcave), its trabeculae pressed together.

Mineral is neither lost nor gained: where the body keeps half of its height its trabecular bone is twice as dense, and
under the broken endplate lies a denser band. This is why a fractured vertebra's HU do not tell density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medconv.simulate.vertebra import Array, VertebraShape

UPPER_SHARE = 0.8  # of a wedge's loss is in the upper half: most endplates that break are upper ones
POSTERIOR_WALL = 0.75  # share of the body's half depth behind which a wedge keeps its height
# Where a biconcave body is lower: half axes relative to the body's own, and its centre in front of the body's.
DISH_WIDTH, DISH_DEPTH, DISH_FORWARD = 0.78, 0.64, 0.10
BAND = 0.9  # by how much denser the band under the broken endplate is, at half of the height lost
BAND_MM = 2.5
TILT_SHARE = 0.6  # of the wedge's angle that the spine above leans forward; the discs take the rest


@dataclass(frozen=True)
class Collapse:
    """form: "wedge" or "biconcave". loss: lost height relative to the posterior one (Genant 1993)."""

    form: str
    loss: float

    def undone(self, x: Array, y: Array, z: Array, shape: VertebraShape) -> tuple[Array, Array]:
        """Where each point lay before the collapse along z, and by how much its column was compressed (1 and more)."""
        a, b = shape.width / 2.0, shape.depth / 2.0
        if self.form == "wedge":
            part = np.clip((POSTERIOR_WALL - y / b) / (POSTERIOR_WALL + 0.85), 0.0, 1.0)
            upper_share = UPPER_SHARE
        else:
            dish = (x / (DISH_WIDTH * a)) ** 2 + ((y / b + DISH_FORWARD) / DISH_DEPTH) ** 2
            part = np.clip(1.0 - dish, 0.0, 1.0) ** 0.7
            upper_share = 0.5
        lost = np.asarray(self.loss * shape.height * part, np.float32)
        compression = np.float32(shape.height) / np.maximum(np.float32(shape.height) - lost, 1.0)
        middle = np.float32(0.5 - upper_share) * lost
        return np.asarray((z - middle) * compression, np.float32), np.asarray(compression, np.float32)

    def compacted(self, relative: Array, compression: Array, z: Array, shape: VertebraShape) -> Array:
        """Trabecular density relative to the core's, after the collapse; `z` lies where it was before."""
        under_plate = np.exp(-(((shape.height / 2.0 - z) / (BAND_MM * compression)) ** 2))
        if self.form == "biconcave":
            under_plate = under_plate + np.exp(-(((shape.height / 2.0 + z) / (BAND_MM * compression)) ** 2))
        return np.asarray(relative * compression * (1.0 + BAND * (compression - 1.0) * under_plate), np.float32)

    def settling(self, shape: VertebraShape) -> tuple[float, float]:
        """By how many degrees the spine above leans forward, and by how many mm it has come down."""
        if self.form != "wedge":
            return 0.0, 0.0
        front = self.loss * shape.height
        middle = front * POSTERIOR_WALL / (POSTERIOR_WALL + 0.85)
        return TILT_SHARE * math.degrees(math.atan2(front, shape.depth)), UPPER_SHARE * middle
