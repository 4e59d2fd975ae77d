"""Between numpy blocks on a voxel grid and SimpleITK images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.types import CTVolume, ImageGeometry, Index3

SAMPLE_VOXELS = 500_000


def to_image(array_zyx: NDArray[Any], geometry: ImageGeometry) -> sitk.Image:
    """A SimpleITK image on that grid (copies the array: meant for blocks, not for a whole CT)."""
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(geometry.spacing_mm_xyz)
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetDirection(geometry.direction)
    return image


def geometry_of(image: sitk.Image) -> ImageGeometry:
    """The grid of a 3D SimpleITK image."""
    return ImageGeometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def index3(values: NDArray[Any]) -> Index3:
    """Three whole numbers as a plain tuple."""
    x, y, z = (int(v) for v in values)
    return x, y, z


def sample_step(voxels: int) -> int:
    """Every how-manieth voxel along each axis gives about SAMPLE_VOXELS of a CT with that many voxels."""
    return max(1, round((voxels / SAMPLE_VOXELS) ** (1 / 3)))


def even_sample(ct: CTVolume) -> NDArray[Any]:
    """About SAMPLE_VOXELS of the whole CT's voxels, evenly spread; the same whether or not `ct` is a slab of it."""
    if ct.slab_of is not None:
        return ct.slab_of.sample_zyx
    step = sample_step(ct.array_zyx.size)
    return ct.array_zyx[::step, ::step, ::step]


def start_in(grid: ImageGeometry, block: ImageGeometry) -> Index3:
    """Which voxel of `grid` is the first one of a block that was cut from it."""
    return index3(np.round(grid.lps_to_index(block.origin_lps_mm)))


def cut_from_whole(ct: CTVolume, start_xyz: Index3, size_xyz: Index3) -> CTVolume:
    """As `cut_ct`, with `start_xyz` on the whole CT's grid, also where `ct` is a slab of it.

    Raises ValueError if the slab does not hold the block.
    """
    own = np.subtract(start_xyz, start_in(ct.whole_geometry, ct.geometry))
    if (own < 0).any() or (own + size_xyz > ct.geometry.size_xyz).any():
        raise ValueError(f"the slab of {ct.geometry.size_xyz} voxels does not hold {size_xyz} from {tuple(own)} on")
    # On the whole grid, so that not even the last bit of the origin tells from what the block was cut.
    return replace(cut_ct(ct, index3(own), size_xyz), geometry=ct.whole_geometry.cut(start_xyz, size_xyz))


def cut_ct(ct: CTVolume, start_xyz: Index3, size_xyz: Index3) -> CTVolume:
    """A block of the CT; its array is a view of the same memory."""
    (x, y, z), (width, height, depth) = start_xyz, size_xyz
    block = ct.array_zyx[z : z + depth, y : y + height, x : x + width]
    return CTVolume(
        block, ct.geometry.cut(start_xyz, size_xyz), ct.acquisition, ct.source, ct.is_simulated, ct.keep_alive
    )


def canonical(array_zyx: NDArray[Any], geometry: ImageGeometry) -> tuple[NDArray[Any], ImageGeometry]:
    """The same voxels with axes permuted and flipped so that x, y, z point nearest to left, posterior, superior.

    No interpolation: values are moved, never mixed.
    """
    image = sitk.DICOMOrient(to_image(array_zyx, geometry), "LPS")
    return sitk.GetArrayFromImage(image), geometry_of(image)
