"""An average vertebra in the shape of a given one: what a part is compared with when an answer is explained.

Replacing a part by air, or by the vertebra's own mean, would not do: bone of zero density exists in nobody, and a core
that is even everywhere would, replaced by its own mean, never have moved anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.config import Preprocessing
from medconv.mineral import to_voltage
from medconv.vertebra_parts import PARTS, POSTERIOR, VertebraParts

# Mean HU by depth below the mask's surface, of the simulated cohort of docs/decisions/0003 (60 patients, masks with a
# segmenter's errors) in crops of 2 mm brought to 120 kVp. Its core of 158 HU is that of the British cohort of 2023
# (n = 536) with the Austin cohort's shares of the classes: 159 HU.
REFERENCE_KVP = 120.0
DEPTH_MM = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 8.0)
BODY_HU = (214.0, 235.0, 202.0, 174.0, 165.0, 161.0, 160.0, 158.0)
ARCH_HU = (299.0, 341.0, 271.0, 218.0, 204.0, 188.0, 188.0, 188.0)
LEVEL_SIGMA_MM = 4.0  # what is coarser than about a centimetre counts as level, what is finer as pattern


def reference_crop(
    hu_zyx: NDArray[np.float32], parts: VertebraParts, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """The crop, in HU, shape (z, y, x), with its vertebra brought to the average levels; its surroundings stay.

    Only levels are made average, smoothly and each part for itself: texture, noise and the sharp edges of the real
    bone stay, so that no smooth patch gives away that something was replaced. What a network reads in the pattern
    finer than LEVEL_SIGMA_MM is therefore not part of a comparison with this vertebra.
    """
    apart = average_levels(parts, preprocessing) - hu_zyx
    result = np.array(hu_zyx, np.float32)
    for part in PARTS:
        inside = parts[part]
        if inside.any():
            weight = _blurred(inside, preprocessing.spacing_mm)[inside]
            result[inside] += _blurred(apart * inside, preprocessing.spacing_mm)[inside] / weight
    return result


def average_levels(parts: VertebraParts, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """HU of an average vertebra at each voxel's depth, shape (z, y, x), at the tube voltage that the network sees."""
    body = np.interp(parts.depth_mm_zyx, DEPTH_MM, BODY_HU)
    arch = np.interp(parts.depth_mm_zyx, DEPTH_MM, ARCH_HU)
    factor = to_voltage(REFERENCE_KVP, preprocessing.reference_kvp or REFERENCE_KVP)
    return np.asarray(np.where(parts[POSTERIOR], arch, body) * factor, np.float32)


def _blurred(array_zyx: NDArray[Any], spacing_mm: float) -> NDArray[np.float32]:
    image = sitk.GetImageFromArray(array_zyx.astype(np.float32))
    image.SetSpacing((spacing_mm,) * 3)
    # Truncated at 3 sigma, and never below 0 where a recursive filter would swing.
    blurred = sitk.DiscreteGaussian(image, variance=LEVEL_SIGMA_MM**2, maximumKernelWidth=64, maximumError=0.01)
    return np.asarray(sitk.GetArrayFromImage(blurred))
