"""Trabecular attenuation of L1: a region of interest inside the vertebral body, and its HU.

The region follows Comp2Comp's `spine` measurement (Stanford, Apache-2.0; rule re-implemented from its description):
an ellipse in the axial plane, centred on the midline at 58 % of the body's depth from its anterior edge, with
semi-axes of 0.25 of the depth and 0.325 of the width, over 7.5 mm around mid-height, inside the eroded mask. Two
things differ: lengths are millimetres, not voxels, so that resampling doesn't move them; and the mask is eroded by
3 mm (two voxels of the 1.5 mm masks that rule was made for).

The region is found on a 1 mm grid with axes to left, posterior and superior, whatever the CT's voxels and axes are;
the HU are those of the CT's own voxels whose centres lie in it, not interpolated.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import canonical, to_image
from medconv.types import Attenuation, BoolArray, ImageGeometry, InputRefused, L1Case, QualityNote, Severity
from medconv.vertebral_body import FINE_MM, HALF_HEIGHT_MM, body_and_depth, extent_of, fine_mask

DEPTH_SEMI_AXIS_FRACTION = 0.25
WIDTH_SEMI_AXIS_FRACTION = 0.325
EROSION_MM = 3.0
MINIMUM_VOLUME_ML = 0.4
MINIMUM_VOXELS = 20
DENSE_HU = 1000.0
DENSE_FRACTION = 0.01
INSTEAD = {"L1": "T12 or L2", "T12": "L2", "L2": "T12"}  # L1's neighbours are those that may stand in for it
# Fat alone reads about −100 HU, and marrow is never all fat: L1 has 89 ± 38 HU above the age of 90 (Jang 2019), and
# this is four and a half SD below.
NO_BONE_HU = -80.0
HETEROGENEOUS_SD_HU = 120.0
FOCUS_HU = 7.5  # of evenly noisy bone, mean and median lie within 2 HU


def measure(case: L1Case) -> tuple[Attenuation, list[QualityNote]]:
    """HU of the vertebra's trabecular core by the rule above, with notes on what makes it doubtful.

    Raises InputRefused if the body can't be found in the mask, the region is too small, or it holds metal, cement or
    no bone.
    """
    hu, geometry = canonical(case.ct.array_zyx, case.ct.geometry)
    mask, _ = canonical(case.mask_zyx.astype(np.uint8), case.ct.geometry)
    roi = trabecular_roi(mask.astype(bool), geometry)
    values = hu[roi].astype(np.float64)
    volume = values.size * geometry.voxel_volume_ml
    if values.size < MINIMUM_VOXELS or volume < MINIMUM_VOLUME_ML:
        raise InputRefused(
            "roi_too_small",
            f"Only {volume:.2f} ml ({values.size} voxels) of {case.vertebra}'s trabecular core can be measured.",
            "Check the mask; a thin, broken or very small mask leaves nothing after the cortex is taken off.",
        )
    refuse_metal(values, case.vertebra)
    attenuation = summary(values, geometry)
    if attenuation.median_hu < NO_BONE_HU:
        raise InputRefused(
            "no_bone",
            f"{case.vertebra}'s core reads {attenuation.median_hu:.0f} HU (median); even marrow of fat reads more than "
            f"{NO_BONE_HU:.0f}.",
            "Check that the mask lies on the vertebra, and the CT's rescale slope and intercept.",
        )
    notes = []
    if attenuation.sd_hu > HETEROGENEOUS_SD_HU:
        notes.append(
            QualityNote(
                "heterogeneous_core",
                Severity.WARNING,
                f"{case.vertebra}'s core is uneven (SD {attenuation.sd_hu:.0f} HU): noise, a focal lesion, sclerosis "
                "or a fracture?",
            )
        )
    apart = attenuation.mean_hu - attenuation.median_hu
    if abs(apart) > FOCUS_HU:
        what = "denser" if apart > 0 else "less dense"
        notes.append(
            QualityNote(
                "focus_in_core",
                Severity.WARNING,
                f"Mean and median of {case.vertebra}'s core differ by {abs(apart):.0f} HU: a small {what} focus lies "
                f"in it. The median ({attenuation.median_hu:.0f} HU) is the safer figure.",
            )
        )
    return attenuation, notes


def refuse_metal(values_hu: NDArray[np.float64], vertebra: str) -> None:
    """Raise InputRefused if more than a small share of a vertebra's trabecular voxels is metal or bone cement."""
    dense = float(np.mean(values_hu > DENSE_HU))
    if dense > DENSE_FRACTION:
        raise InputRefused(
            "metal_or_cement",
            f"{dense:.0%} of {vertebra}'s trabecular bone is above {DENSE_HU:.0f} HU: metal or bone cement.",
            f"Its density can't be read here; measure {INSTEAD[vertebra]} instead, named as such.",
        )


def summary(values_hu: NDArray[np.float64], geometry: ImageGeometry) -> Attenuation:
    """Mean, median, SD (population), count and volume of the voxels given."""
    return Attenuation(
        mean_hu=float(values_hu.mean()),
        median_hu=float(np.median(values_hu)),
        sd_hu=float(values_hu.std()),
        voxels=int(values_hu.size),
        volume_ml=float(values_hu.size) * geometry.voxel_volume_ml,
    )


def trabecular_roi(mask_zyx: BoolArray, geometry: ImageGeometry) -> BoolArray:
    """The region of interest: the voxels of that grid whose centres lie in it; same shape as the mask."""
    fine, fine_geometry = fine_mask(mask_zyx, geometry)
    voxels, depth_mm = body_and_depth(fine)
    body = extent_of(voxels)
    depth, height, width = fine.shape
    z, y, x = np.ogrid[:depth, :height, :width]
    across = (x - body.x) * FINE_MM / (WIDTH_SEMI_AXIS_FRACTION * body.width_mm)
    along = (y - body.y) * FINE_MM / (DEPTH_SEMI_AXIS_FRACTION * body.depth_mm)
    cylinder = (across**2 + along**2 <= 1.0) & (np.abs(z - body.z) * FINE_MM <= HALF_HEIGHT_MM)
    inside = depth_mm >= EROSION_MM
    roi = to_image((cylinder & inside).astype(np.uint8), fine_geometry)
    own_grid = to_image(np.zeros(mask_zyx.shape, np.uint8), geometry)
    own = sitk.Resample(roi, own_grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.asarray(sitk.GetArrayFromImage(own).astype(bool))
