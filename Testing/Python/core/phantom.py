"""A hand-made vertebra with exact dimensions and HU, on any voxel grid: the oracle of the core's tests.

In the phantom's own frame (millimetres, LPS axes, origin at the middle of the vertebral body): the body is an
elliptic cylinder 44 wide (x), 32 deep (y), 26 high (z), trabecular bone inside a 2 mm cortex; behind a round canal
lie two pedicles, an arch and a spinous process of cortical bone that hangs below the body, as in L1. All around is
soft tissue within a body of 75 mm radius; outside is air.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medconv import l1_mask
from medconv.grid import to_image
from medconv.types import Acquisition, CTVolume, ImageGeometry, L1Mask

TRABECULAR_HU, CORTEX_HU, SOFT_HU, AIR_HU = 150, 700, 40, -1000
BODY_WIDTH_MM, BODY_DEPTH_MM, BODY_HEIGHT_MM = 44.0, 32.0, 26.0


@dataclass(frozen=True)
class Phantom:
    """CT and whole-vertebra mask (label 31) on the same grid."""

    ct: CTVolume
    labels_zyx: np.ndarray

    @property
    def mask(self) -> L1Mask:
        return l1_mask.from_labels(self.labels_zyx, self.ct.geometry, 31, self.ct.geometry)[0]


def grid(spacing=(1.0, 1.0, 1.0), field_mm=(160.0, 160.0, 110.0), center=(0.0, 0.0, 0.0)) -> ImageGeometry:
    """An LPS-aligned grid of that field of view around `center`."""
    size = tuple(round(f / s) for f, s in zip(field_mm, spacing, strict=True))
    origin = tuple(c - (n - 1) / 2 * s for c, n, s in zip(center, size, spacing, strict=True))
    return ImageGeometry(size, spacing, origin)


def phantom(
    geometry: ImageGeometry | None = None, trabecular_hu: float = TRABECULAR_HU, noise_sd: float = 0.0
) -> Phantom:
    """The phantom sampled at the voxel centres of `geometry` (default 1 mm)."""
    geometry = geometry or grid()
    z, y, x = np.indices(geometry.shape_zyx).astype(np.float32)
    points = geometry.index_to_lps(np.stack([x, y, z], axis=-1))
    x, y, z = points[..., 0], points[..., 1], points[..., 2]

    def body(shrink: float) -> np.ndarray:
        radial = (x / (BODY_WIDTH_MM / 2 - shrink)) ** 2 + (y / (BODY_DEPTH_MM / 2 - shrink)) ** 2
        return (radial <= 1) & (np.abs(z) <= BODY_HEIGHT_MM / 2 - shrink)

    pedicles = (np.abs(np.abs(x) - 13) <= 4) & (y > 0) & (y <= 30) & (np.abs(z - 5) <= 6)
    arch = (np.abs(x) <= 17) & (np.abs(y - 33) <= 3) & (np.abs(z) <= 11)
    spinous = (np.abs(x) <= 4) & (y >= 33) & (y <= 60) & (z >= -26) & (z <= -4)
    whole = body(0) | pedicles | arch | spinous

    hu = np.where(np.hypot(x, y) <= 75, SOFT_HU, AIR_HU).astype(np.float32)
    hu[whole] = CORTEX_HU
    hu[body(2)] = trabecular_hu
    if noise_sd:
        hu += np.random.default_rng(0).normal(0, noise_sd, hu.shape)
    ct = CTVolume(hu.round().astype(np.int16), geometry, Acquisition(modality="CT", kvp=120.0))
    return Phantom(ct, (whole * 31).astype(np.uint8))


def reoriented(case: Phantom, code: str) -> Phantom:
    """The same voxels stored in another axis order (SimpleITK's own reorientation), e.g. "RAS" or "PIR"."""
    images = [sitk.DICOMOrient(to_image(a, case.ct.geometry), code) for a in (case.ct.array_zyx, case.labels_zyx)]
    hu, labels = (sitk.GetArrayFromImage(image) for image in images)
    g = ImageGeometry(images[0].GetSize(), images[0].GetSpacing(), images[0].GetOrigin(), images[0].GetDirection())
    return Phantom(CTVolume(hu, g, case.ct.acquisition), labels)


def write(case: Phantom, folder: Path, suffix: str = ".nii.gz") -> tuple[Path, Path]:
    """CT and label map as files; returns their paths."""
    paths = folder / f"ct{suffix}", folder / f"labels{suffix}"
    for path, array in zip(paths, (case.ct.array_zyx, case.labels_zyx), strict=True):
        sitk.WriteImage(to_image(array, case.ct.geometry), str(path))
    return paths
