"""From the coarse anatomy to a CT: edges through the PSF on the CT's grid, slices of finite thickness, noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.simulate import physics
from medconv.simulate.scan import Scan
from medconv.simulate.spine import BoneField
from medconv.types import FloatArray, ImageGeometry

SUBSLICE_MM = 1.25  # a slice is averaged from layers at most this thick
CHUNK_VOXELS = 3_000_000
HU_RANGE = (-1024, 3071)  # 12 bits, as scanners store it


@dataclass(frozen=True)
class PixelGrid:
    """Voxel centres of the CT along each axis, mm in the anatomy's coordinates."""

    x_mm: FloatArray
    y_mm: FloatArray
    z_mm: FloatArray

    @staticmethod
    def covering(low_xyz: FloatArray, high_xyz: FloatArray, scan: Scan) -> PixelGrid:
        """The scan's grid centred in a box."""
        spacing = (scan.in_plane_spacing_mm, scan.in_plane_spacing_mm, scan.slice_increment_mm)
        axes = []
        for lo, hi, step in zip(low_xyz, high_xyz, spacing, strict=True):
            count = max(int((hi - lo) / step), 2)
            axes.append((np.arange(count) - (count - 1) / 2.0) * step + (lo + hi) / 2.0)
        return PixelGrid(*axes)

    def geometry(self, scan: Scan, offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> ImageGeometry:
        """As an image grid in LPS; `offset_mm` moves the anatomy's origin to where the patient lies."""
        axes = (self.x_mm, self.y_mm, self.z_mm)
        x, y, z = (float(axis[0]) + shift for axis, shift in zip(axes, offset_mm, strict=True))
        spacing = (scan.in_plane_spacing_mm, scan.in_plane_spacing_mm, scan.slice_increment_mm)
        return ImageGeometry((len(axes[0]), len(axes[1]), len(axes[2])), spacing, (x, y, z))


def render_ct(
    bone: BoneField,
    soft_hu: NDArray[np.float32],
    pixels: PixelGrid,
    scan: Scan,
    rng: np.random.Generator,
    after_bone: Callable[[NDArray[np.float32], PixelGrid], None] | None = None,
) -> NDArray[np.int16]:
    """The CT of an anatomy, HU, shape (z, y, x) of `pixels`. `soft_hu` lies on the bone's coarse grid.

    after_bone: draws more into the CT without noise, in place.
    """
    to_x, to_y = (interpolation(bone.grid.x_mm, pixels.x_mm), interpolation(bone.grid.y_mm, pixels.y_mm))
    layers = max(math.ceil(scan.slice_thickness_mm / SUBSLICE_MM), 1)
    shifts = ((np.arange(layers) + 0.5) / layers - 0.5) * scan.slice_thickness_mm
    fields = (bone.distance_mm, bone.shell_mm, soft_hu, bone.trabecular_hu)
    height, width = len(pixels.y_mm), len(pixels.x_mm)
    image = np.empty((len(pixels.z_mm), height, width), np.float32)
    step = max(CHUNK_VOXELS // (layers * height * width), 1)
    for first in range(0, len(pixels.z_mm), step):
        centers = pixels.z_mm[first : first + step]
        to_z = interpolation(bone.grid.z_mm, (centers[:, None] + shifts).ravel())
        distance, shell, soft, trabecular = (upsample(field, to_z, to_y, to_x) for field in fields)
        hu = physics.bone_through_psf(
            distance, shell, soft, trabecular, physics.cortical_hu(scan.kvp), scan.edge_sigma_mm
        )
        image[first : first + step] = hu.reshape(len(centers), layers, height, width).mean(axis=1)
    if after_bone is not None:
        after_bone(image, pixels)
    psf = physics.kernel(scan.kernel).psf_sigma_mm
    image += physics.correlated_noise(rng, image.shape, scan.in_plane_spacing_mm, psf, scan.noise_hu)
    return np.rint(np.clip(image, *HU_RANGE)).astype(np.int16)


def interpolation(coarse_mm: FloatArray, fine_mm: FloatArray) -> NDArray[np.float32]:
    """Linear interpolation from even coarse samples to any positions, as a matrix (fine, coarse); ends are held."""
    index = (np.asarray(fine_mm) - coarse_mm[0]) / (coarse_mm[1] - coarse_mm[0])
    index = np.clip(index, 0.0, len(coarse_mm) - 1.0)
    left = np.minimum(index.astype(int), len(coarse_mm) - 2)
    matrix = np.zeros((len(index), len(coarse_mm)), np.float32)
    rows = np.arange(len(index))
    matrix[rows, left] = 1.0 - (index - left)
    matrix[rows, left + 1] = index - left
    return matrix


def upsample(
    field: NDArray[np.float32], to_z: NDArray[np.float32], to_y: NDArray[np.float32], to_x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A coarse field (z, y, x) on the grid of three interpolation matrices."""
    planes = np.tensordot(to_z, field, axes=(1, 0))  # (Z, y, x)
    return np.asarray((to_y @ planes) @ to_x.T, np.float32)  # (Z, Y, X)
