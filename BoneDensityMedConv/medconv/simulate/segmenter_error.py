"""What a segmentation network gets wrong: its boundary lies off by some tenths of a millimetre, on a coarser grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medconv.simulate.spine import CoarseGrid
from medconv.simulate.vertebra import Array
from medconv.types import FloatArray

# The whole boundary in or out, and its wobble; a 1.5 mm network leaves stairs of its own grid.
OFFSET_MM = (-0.4, 0.45)  # mean and SD; networks draw L1 slightly too large
WOBBLE_MM = 0.5
SEGMENTER_GRID_MM = 1.5


@dataclass(frozen=True)
class SegmenterError:
    """Wobble (on the anatomy's grid) and offset are added to the true distance; half of all see a coarse grid."""

    wobble_mm: Array
    offset_mm: float
    is_coarse: bool

    @staticmethod
    def drawn(grid: CoarseGrid, rng: np.random.Generator) -> SegmenterError:
        """A random segmenter's."""
        from scipy.ndimage import gaussian_filter

        wobble = gaussian_filter(rng.standard_normal(grid.shape_zyx, dtype=np.float32), 1.6, mode="wrap", truncate=3.0)
        offset = OFFSET_MM[0] + OFFSET_MM[1] * float(rng.standard_normal())
        wobble = np.asarray(np.float32(WOBBLE_MM / wobble.std()) * wobble, np.float32)
        return SegmenterError(wobble, offset, bool(rng.random() < 0.5))

    def distance(self, true_mm: Array) -> Array:
        """The distance from the boundary that the segmenter draws."""
        return np.asarray(true_mm + self.wobble_mm + np.float32(self.offset_mm), np.float32)

    def positions(self, axis_mm: FloatArray) -> FloatArray:
        """Where the segmenter looked instead."""
        return np.asarray(np.round(axis_mm / SEGMENTER_GRID_MM) * SEGMENTER_GRID_MM) if self.is_coarse else axis_mm
