"""Between numpy blocks on a voxel grid and SimpleITK images."""

from __future__ import annotations

from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.types import CTVolume, ImageGeometry, Index3


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
