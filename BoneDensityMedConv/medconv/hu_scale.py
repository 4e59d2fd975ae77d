"""Does the scale of the values fit what every CT of a trunk holds: air, fat and soft tissue?

Air reads −1000 HU by definition, fat near −100, muscle and organs 30 to 70 HU. On a wrong scale they keep their order
and proportions: fat lies six sevenths of the way from air to soft tissue. So three peaks of the histogram give slope
and intercept of whatever was done to the values.

Peaks measured (air / fat / soft tissue, HU; bins of 5): TotalSegmentator's example at 3 mm −992 / −98 / 32, its 30
slices around L1 −992 / −98 / 42, a contrast thorax (120 kVp) −992 / −78 / 92, an aorta's crop, mostly lung, −982 /
−88 / 62, a noisy crop around L3 only a single peak at 28. 64 simulated whole CTs −1018 to −992 / −98 to −92 / 42 to 58,
in four noisy ones fat and soft tissue a single peak at −88 to −72; 70 crops around L1, without air, −92 to −78 /
52 to 58 (three without fat's peak).

Lung can be as narrow a peak as air: −838 to −822, with nothing below it, in crops around the spine of the first of
these CTs. Only what fills the volume's corners is known to be air.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import InputRefused, QualityNote, Severity

AIR_HU, FAT_HU, SOFT_HU = -1000.0, -100.0, 50.0
# Air beyond −1000 ± 50 is in doubt (starting value, CLINICAL 11); no drift of a scanner explains 120 HU.
AIR_IN_DOUBT_HU, AIR_WRONG_HU = 50.0, 120.0
# The error of bone of 100 HU, and of the slope, that are refused. 60 HU is a class of T-score and more.
BONE_HU, BONE_WRONG_HU, SLOPE_WRONG = 100.0, 60.0, 0.12
# From fat to soft tissue it is 150 HU, 0.143 of the 1050 HU from air on; low voltages and contrast widen it.
FAT_TO_SOFT_SHARE, FAT_TO_SOFT_HU = (0.105, 0.180), (110.0, 190.0)
NARROWEST_PAIR_HU = 95.0
IN_PLACE_HU = 50.0
MAIN_TISSUE_HU = (-135.0, 120.0)  # the highest peak: fat in the obese at 80 kVp, organs with contrast
SHIFT_IN_DOUBT_HU, SHIFT_WRONG_HU = 50.0, 80.0
FAT_RANGE_HU, LITTLE_FAT, TISSUE_RANGE_HU = (-160.0, -60.0), 0.06, 300.0

RANGE_HU, BIN_HU, SMOOTH_HU = (-3000.0, 2500.0), 5.0, 12.0
PROMINENCE = 0.1  # a peak rises by this share above the saddle beside it
LOWEST_PEAK = 0.02  # of the highest one
CORNER_SHARE, CORNERS_FILLED = 0.1, 0.75  # lung fills the front corners of a crop around the spine at most
PADDING_BELOW_HU, PADDING_BESIDE_HU, PADDING_ALONE = -1500.0, 40.0, 0.9
AIR_SHARE, AIR_HALF_WIDTH_HU = 0.01, 80.0
# Below the peak of air is its noise alone; below lung's there is thinner lung, windpipe and bowel gas.
BELOW_AIR = 0.03
GAS_TO_TISSUE_HU = 400.0
GAS_BELOW_HU = -600.0  # a lowest peak above may be fat, and what lies far above it bone, unless the proportions tell
TISSUE_PEAK_SHARE = 0.15  # of the highest tissue peak; lower ones are bone, vessels, contrast in the bowel
TISSUE_TO_REST = 0.3  # of the highest peak that is not the lowest: else the lowest one is fat, and the far one bone

Peak = tuple[float, float]  # place in HU, height


@dataclass(frozen=True)
class Peaks:
    """Peaks of the histogram, HU.

    air: the lowest one if hardly anything lies below it, as is rare in lung (`may_be_lung`); None: not seen for sure.
    outside: whether the lowest one fills the volume's corners, as the air around a patient does.
    gas: the lowest one far below tissue, air or lung. tissue: from low to high; main: the highest of them.
    background: the constant in most of the volume's corners; it is left out of the others.
    """

    air: float | None
    gas: float | None
    tissue: tuple[float, ...]
    main: float
    background: float | None
    outside: bool = False

    @property
    def air_in_place(self) -> bool:
        """Whether air was seen, and reads as it should."""
        return self.air is not None and abs(self.air - AIR_HU) <= AIR_IN_DOUBT_HU

    @property
    def may_be_lung(self) -> bool:
        """Whether what is taken for air lies inside the body, as high as lung, while tissue reads as it should."""
        if self.air is None or self.outside or not AIR_HU + AIR_WRONG_HU < self.air < GAS_BELOW_HU:
            return False
        alone = len(self.tissue) == 1 and FAT_HU - IN_PLACE_HU <= self.tissue[0] <= SOFT_HU + IN_PLACE_HU
        return alone or _in_place(self.tissue)

    @property
    def fat_and_soft(self) -> tuple[float, float] | None:
        """The two lowest tissue peaks, if they are apart as fat and soft tissue are."""
        low, high = FAT_TO_SOFT_HU
        if len(self.tissue) < 2 or not low <= self.tissue[1] - self.tissue[0] <= high:
            return None
        return self.tissue[0], self.tissue[1]

    @property
    def tissue_shift(self) -> float:
        """How far fat and soft tissue lie from their places on average, HU; 0 if they can't be told apart."""
        return (sum(self.fat_and_soft) - FAT_HU - SOFT_HU) / 2 if self.fat_and_soft else 0.0

    @property
    def proportional(self) -> tuple[float, float, float] | None:
        """Air, fat and soft tissue, known by their proportions alone; a constant background may be the air."""
        air, tissue = self.background if self.air is None else self.air, self.tissue
        if self.air_in_place:
            # Soft tissue, vessels with contrast and bone can lie as far apart as fat and soft tissue on a wrong scale.
            tissue = () if tissue and MAIN_TISSUE_HU[0] <= tissue[0] <= MAIN_TISSUE_HU[1] else tissue[:2]
        found = None if air is None else _proportional(air, tissue)
        return None if air is None or found is None else (air, *found)


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


def find_peaks(sample_zyx: NDArray[Any]) -> Peaks:
    """Where the histogram's peaks lie, without the constants that a CT may be padded with."""
    background = _background(sample_zyx)
    values = sample_zyx[(sample_zyx >= RANGE_HU[0]) & (sample_zyx <= RANGE_HU[1]) & (sample_zyx != background)]
    values = _without_padding(values)
    found = _histogram_peaks(values) if values.size else []
    gas, tissue = _gas_and_tissue(found)
    if gas is not None and gas < PADDING_BELOW_HU:  # padding that interpolation or compression has blurred?
        other, rest = _gas_and_tissue(found[1:])
        if (other is not None and abs(other - AIR_HU) <= AIR_IN_DOUBT_HU) or _in_place(at for at, _ in rest):
            values = values[values > gas + AIR_HALF_WIDTH_HU]
            gas, tissue = other, rest
    main, highest = max(tissue, key=lambda peak: peak[1], default=(0.0, 0.0))
    places = tuple(at for at, height in tissue if height >= TISSUE_PEAK_SHARE * highest)
    if gas is None:
        return Peaks(None, None, places, main, background)
    near = float(np.mean(np.abs(values - gas) <= AIR_HALF_WIDTH_HU))
    below = float(np.mean(values < gas - AIR_HALF_WIDTH_HU))
    air = gas if near >= AIR_SHARE and below <= BELOW_AIR * near else None
    return Peaks(air, gas, places, main, background, _fills_corners(sample_zyx, gas))


def _gas_and_tissue(found: list[Peak]) -> tuple[float | None, list[Peak]]:
    """The lowest peak, if high ones lie far above it, and the peaks of tissue."""
    if found:
        gas, others = found[0][0], found[1:]
        tissue = [(at, height) for at, height in others if at >= gas + GAS_TO_TISSUE_HU]
        is_high = bool(tissue) and max(h for _, h in tissue) >= TISSUE_TO_REST * max(h for _, h in others)
        if is_high and (gas < GAS_BELOW_HU or _proportional(gas, tuple(at for at, _ in tissue))):
            return gas, tissue
    return None, found


def _proportional(air: float, tissue: tuple[float, ...]) -> tuple[float, float] | None:
    low, high = FAT_TO_SOFT_SHARE
    for fat, soft in pairwise(tissue):
        if air < fat and low <= (soft - fat) / (soft - air) <= high:
            return fat, soft
    return None


def _in_place(tissue: Iterable[float]) -> bool:
    return any(
        abs(fat - FAT_HU) <= IN_PLACE_HU and abs(soft - SOFT_HU) <= IN_PLACE_HU for fat, soft in pairwise(tissue)
    )


def _without_padding(values: NDArray[Any]) -> NDArray[Any]:
    """Without the lowest value of all where it is below air: a constant beside which there is nothing, or no gas."""
    lowest = values.min(initial=AIR_HU)
    if lowest >= AIR_HU - AIR_IN_DOUBT_HU:
        return values
    held = np.count_nonzero(values == lowest)
    alone = held > 1 and held >= PADDING_ALONE * np.count_nonzero(values <= lowest + PADDING_BESIDE_HU)
    return values[values != lowest] if alone or lowest < PADDING_BELOW_HU else values


def _background(sample_zyx: NDArray[Any]) -> float | None:
    """The value that at least half of the volume's corners hold, or None."""
    z, y, x = (sorted({0, length - 1}) for length in sample_zyx.shape)
    found, counts = np.unique(sample_zyx[np.ix_(z, y, x)], return_counts=True)
    return float(found[counts.argmax()]) if 2 * counts.max() >= counts.sum() else None


def _fills_corners(sample_zyx: NDArray[Any], gas: float) -> bool:
    """Whether the volume's eight corners, a tenth of each axis, hold mostly values of the peak of gas."""
    ends = [np.r_[: max(1, int(n * CORNER_SHARE)), n - max(1, int(n * CORNER_SHARE)) : n] for n in sample_zyx.shape]
    near = np.abs(sample_zyx[np.ix_(*ends)] - gas) <= AIR_HALF_WIDTH_HU
    return bool(near.mean() >= CORNERS_FILLED)


def _histogram_peaks(values: NDArray[Any]) -> list[Peak]:
    """Place and height of the smoothed histogram's maxima, from low to high."""
    counts, edges = np.histogram(values, bins=round((RANGE_HU[1] - RANGE_HU[0]) / BIN_HU), range=RANGE_HU)
    reach = np.arange(-10, 11) * BIN_HU
    kernel = np.exp(-0.5 * (reach / SMOOTH_HU) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    kept: list[int] = []
    for at in np.flatnonzero((smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:])) + 1:
        if kept and smooth[kept[-1] : at].min() > (1 - PROMINENCE) * min(smooth[kept[-1]], smooth[at]):
            kept[-1] = max(kept[-1], int(at), key=lambda place: float(smooth[place]))  # one peak with two tips
        else:
            kept.append(int(at))
    return [
        (float(edges[at]) + BIN_HU / 2, float(smooth[at])) for at in kept if smooth[at] >= LOWEST_PEAK * smooth.max()
    ]


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
        right = _in_place((fat, soft)) or (holds_fat and fat > FAT_HU)
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
