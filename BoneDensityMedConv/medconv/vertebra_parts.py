"""The parts of a vertebra on any grid: trabecular core, cortical shell with endplates, posterior elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import to_image
from medconv.types import BoolArray, ImageGeometry
from medconv.vertebral_body import body_and_depth, distance_mm, fine_mask

CORE, SHELL, POSTERIOR = 1, 2, 3
PARTS = {CORE: "trabecular core", SHELL: "cortical shell and endplates", POSTERIOR: "posterior elements"}
# A cortex of some tenths of a millimetre is seen 3 mm deep at a resolution of 2 mm, and masks are a little too large.
CORE_DEPTH_MM = 4.0
RIM_MM = 4.0  # the opening that finds the body takes its sharp rims off


@dataclass(frozen=True)
class VertebraParts:
    """labels_zyx: a key of PARTS, 0 outside the vertebra. depth_mm_zyx: depth below its surface, 0 outside."""

    labels_zyx: NDArray[np.uint8]
    depth_mm_zyx: NDArray[np.float32]

    def __getitem__(self, part: int) -> BoolArray:
        """The voxels of one part."""
        return np.asarray(self.labels_zyx == part)

    @property
    def inside(self) -> BoolArray:
        """The voxels of the whole vertebra."""
        return np.asarray(self.labels_zyx > 0)


def vertebra_parts(mask_zyx: BoolArray, geometry: ImageGeometry, target: ImageGeometry) -> VertebraParts:
    """The parts of the vertebra in a mask, on another grid.

    The core is what of the body lies deeper than CORE_DEPTH_MM; the shell is the rest of the body with RIM_MM of what
    touches it; all else of the mask are the posterior elements.
    """
    fine, fine_geometry = fine_mask(mask_zyx, geometry)
    body, depth = body_and_depth(fine)
    parts = np.full(fine.shape, POSTERIOR, np.uint8)
    parts[distance_mm(body) <= RIM_MM] = SHELL
    parts[body & (depth >= CORE_DEPTH_MM)] = CORE
    grid = to_image(np.zeros(target.shape_zyx, np.uint8), target)
    inside = _on(grid, to_image(mask_zyx.astype(np.float32), geometry), sitk.sitkLinear) >= 0.5
    labels = _on(grid, to_image(parts, fine_geometry), sitk.sitkNearestNeighbor, POSTERIOR)
    depths = _on(grid, to_image(depth.astype(np.float32), fine_geometry), sitk.sitkLinear)
    return VertebraParts(np.where(inside, labels, 0).astype(np.uint8), np.where(inside, depths, 0.0).astype(np.float32))


def _on(grid: sitk.Image, image: sitk.Image, interpolator: int, outside: float = 0.0) -> NDArray:
    return np.asarray(sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), interpolator, outside)))
