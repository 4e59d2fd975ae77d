"""An average vertebra in the shape of a given one: what a part is compared with when an answer is explained.

Replacing a part by air, or by the vertebra's own mean, would not do: bone of zero density exists in nobody, and a core
that is even everywhere would, replaced by its own mean, never have moved anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medconv.config import Preprocessing
from medconv.mineral import to_voltage
from medconv.vertebra_parts import POSTERIOR, VertebraParts

# Mean HU by depth below the mask's surface, of the simulated cohort of docs/decisions/0003 (60 patients, masks with a
# segmenter's errors) in crops of 2 mm brought to 120 kVp. Its core of 158 HU is that of the British cohort of 2023
# (n = 536) with the Austin cohort's shares of the classes: 159 HU.
REFERENCE_KVP = 120.0
DEPTH_MM = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 8.0)
BODY_HU = (214.0, 235.0, 202.0, 174.0, 165.0, 161.0, 160.0, 158.0)
ARCH_HU = (299.0, 341.0, 271.0, 218.0, 204.0, 188.0, 188.0, 188.0)


def reference_crop(
    crop_hu_zyx: NDArray[np.float32], parts: VertebraParts, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """The crop with the average vertebra in place of its own, in HU, shape (z, y, x); its surroundings stay.

    Only the level is average: what lies at one depth is shifted together, so that texture, noise and every unevenness
    of the real bone stay, and no smooth patch gives away that it was replaced.
    """
    average = np.where(
        parts[POSTERIOR],
        np.interp(parts.depth_mm_zyx, DEPTH_MM, ARCH_HU),
        np.interp(parts.depth_mm_zyx, DEPTH_MM, BODY_HU),
    )
    average = average * to_voltage(REFERENCE_KVP, preprocessing.reference_kvp or REFERENCE_KVP)
    return np.asarray(np.where(parts.inside, average, crop_hu_zyx), np.float32)
