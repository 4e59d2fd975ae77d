"""Where the trunk's own coordinates lie: its girth, and how far its back follows the spine's curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medconv.simulate.vertebra import Array
from medconv.types import FloatArray


@dataclass(frozen=True)
class BodyFrame:
    """Organs and skin are drawn for one body; `girth` multiplies their distances across the body's axis,
    and `shift_mm` moves them backwards at the heights `z_mm`."""

    girth: float = 1.0
    z_mm: tuple[float, ...] = ()
    shift_mm: tuple[float, ...] = ()

    def back_at(self, z_mm: FloatArray | float) -> FloatArray:
        """By how much the body lies further back at a height, mm."""
        return np.asarray(np.interp(z_mm, self.z_mm, self.shift_mm)) if self.z_mm else np.zeros(np.shape(z_mm))

    def own_coordinates(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """x and y as the drawing of the body has them, arrays that broadcast to (z, y, x)."""
        if self == SKETCH:
            return x, y
        girth = np.float32(self.girth)
        return x / girth, (y - self.back_at(z).astype(np.float32)) / girth


SKETCH = BodyFrame()  # the body as drawn
