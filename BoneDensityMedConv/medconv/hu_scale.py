"""Does the scale of the values fit what every CT of a trunk holds: air, fat and soft tissue?

Air reads −1000 HU by definition, fat near −100, muscle and organs 30 to 70 HU. On a wrong scale they keep their order
and proportions: fat lies six sevenths of the way from air to soft tissue. So three peaks of the histogram give slope
and intercept of whatever was done to the values. `hu_peaks` finds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.hu_peaks import (
    AIR_HU,
    AIR_IN_DOUBT_HU,
    AIR_WRONG_HU,
    FAT_HU,
    MAIN_TISSUE_HU,
    SOFT_HU,
    Peaks,
    find_peaks,
    in_place,
)
from medconv.types import InputRefused, QualityNote, Severity

# The error of bone of 100 HU, and of the slope, that are refused. 60 HU is a class of T-score and more.
BONE_HU, BONE_WRONG_HU, SLOPE_WRONG = 100.0, 60.0, 0.12
NARROWEST_PAIR_HU = 95.0
SHIFT_IN_DOUBT_HU, SHIFT_WRONG_HU = 50.0, 80.0
FAT_RANGE_HU, LITTLE_FAT, TISSUE_RANGE_HU = (-160.0, -60.0), 0.06, 300.0


def check_scale(sample_zyx: NDArray[Any]) -> list[QualityNote]:
    """Notes on the HU scale of an even sample of the whole CT: finite, shape (z, y, x).

    Raises InputRefused ("not_hu") if the scale is certainly and grossly wrong.
    """
    peaks, holds_fat = find_peaks(sample_zyx), _holds_fat(sample_zyx)
    if _is_grossly_wrong(peaks, holds_fat):
        raise InputRefused(
            "not_hu",
            f"The values are not Hounsfield units: {_told(peaks)}.",
            "Check the rescale slope and intercept, or what the CT was converted with; use the original CT.",
        )
    return _air_notes(peaks) or _tissue_notes(peaks, holds_fat)


def _holds_fat(sample_zyx: NDArray[Any]) -> bool:
    """Whether there is fat where fat belongs: then the scale can't be shifted far."""
    tissue = sample_zyx[np.abs(sample_zyx) <= TISSUE_RANGE_HU]
    share = np.count_nonzero((tissue >= FAT_RANGE_HU[0]) & (tissue <= FAT_RANGE_HU[1])) / max(1, tissue.size)
    return share >= LITTLE_FAT


def _is_grossly_wrong(peaks: Peaks, holds_fat: bool) -> bool:
    if peaks.may_be_lung:
        return False
    if peaks.air is not None and abs(peaks.air - AIR_HU) > AIR_WRONG_HU:
        return True
    three = peaks.proportional
    if three is not None:
        slope, intercept = _line(three)
        wrong = abs(slope * BONE_HU + intercept - BONE_HU) > BONE_WRONG_HU or abs(slope - 1) > SLOPE_WRONG
        _, fat, soft = three
        # Padding proves nothing against tissue; a child's muscle and enhanced organs lie apart as fat and muscle do.
        right = in_place((fat, soft)) or (holds_fat and fat > FAT_HU)
        if peaks.air is not None:
            right = holds_fat and peaks.air_in_place
        if wrong and not right:
            return True
    return peaks.air is None and _is_shifted(peaks, holds_fat, SHIFT_WRONG_HU)


def _is_shifted(peaks: Peaks, holds_fat: bool, limit: float) -> bool:
    """Whether fat and soft tissue lie elsewhere; upwards muscle and enhanced organs may, but with fat below."""
    return peaks.tissue_shift < -limit or (peaks.tissue_shift > limit and not holds_fat)


def _line(three: tuple[float, float, float]) -> tuple[float, float]:
    """Slope and intercept that make what was read of HU (least squares)."""
    slope, intercept = np.polyfit((AIR_HU, FAT_HU, SOFT_HU), three, 1)
    return float(slope), float(intercept)


def _told(peaks: Peaks) -> str:
    """What was found, what was expected, and what would explain it."""
    three = peaks.proportional
    if three is None:
        tissue = f"tissue mostly {peaks.main:.0f} (−100 to 100)"
        if peaks.fat_and_soft is not None:
            tissue = f"fat reads about {peaks.fat_and_soft[0]:.0f} (−100), soft tissue {peaks.fat_and_soft[1]:.0f} (50)"
        return tissue if peaks.air is None else f"air reads about {peaks.air:.0f} (should be −1000), {tissue}"
    slope, intercept = _line(three)
    done = [f"multiplied by {slope:.2f}"] if abs(slope - 1) > 0.05 else []
    done += [f"shifted by {intercept:+.0f}"] if abs(intercept) > 30 else []
    air, fat, soft = three
    read = f"air reads about {air:.0f} (should be −1000), fat {fat:.0f} (−100), soft tissue {soft:.0f} (50)"
    return f"{read}, as if HU had been {' and '.join(done)}" if done else read


def _air_notes(peaks: Peaks) -> list[QualityNote]:
    """A note where air, or the constant that stands for it, is not near −1000 HU; lung lies above −950."""
    if peaks.may_be_lung:
        text = f"Gas reads about {peaks.air:.0f} HU: lung, or air (−1000) on a wrong scale: check the rescale slope."
        return [QualityNote("air_not_minus_1000", Severity.WARNING, text)]
    constant = peaks.background if peaks.background is not None and -950 < peaks.background < -300 else None
    noisy = peaks.gas if peaks.gas is not None and peaks.gas < AIR_HU else None
    for found in (peaks.air, noisy, constant):
        if found is not None and abs(found - AIR_HU) > AIR_IN_DOUBT_HU:
            text = f"Air reads about {found:.0f} HU instead of −1000: the calibration or the rescale is in doubt."
            return [QualityNote("air_not_minus_1000", Severity.WARNING, text)]
    return []


def _tissue_notes(peaks: Peaks, holds_fat: bool) -> list[QualityNote]:
    low, high = MAIN_TISSUE_HU
    narrow = len(peaks.tissue) > 1 and peaks.tissue[1] - peaks.tissue[0] < NARROWEST_PAIR_HU
    shifted = _is_shifted(peaks, holds_fat, SHIFT_IN_DOUBT_HU)
    if peaks.tissue and (narrow or shifted or not low <= peaks.main <= high):
        places = " and ".join(f"{at:.0f}" for at in peaks.tissue[:3])
        text = (
            f"Tissue reads mostly about {places} HU; fat should read −100 and soft tissue 50: the rescale is in doubt."
        )
        return [QualityNote("tissue_out_of_place", Severity.WARNING, text)]
    air_seen = peaks.air is not None or (
        peaks.background is not None and abs(peaks.background - AIR_HU) <= AIR_IN_DOUBT_HU
    )
    if not air_seen and peaks.fat_and_soft is None:
        text = "The HU scale could not be checked: neither air nor fat and soft tissue can be told apart in this CT."
        return [QualityNote("hu_scale_unchecked", Severity.INFO, text)]
    return []
