"""Where air, lung, fat and soft tissue lie in a CT's histogram, on whatever scale its values are.

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

AIR_HU, FAT_HU, SOFT_HU = -1000.0, -100.0, 50.0
# Air beyond −1000 ± 50 is in doubt (starting value, CLINICAL 11); no drift of a scanner explains 120 HU.
AIR_IN_DOUBT_HU, AIR_WRONG_HU = 50.0, 120.0
# From fat to soft tissue it is 150 HU, 0.143 of the 1050 HU from air on; low voltages and contrast widen it.
FAT_TO_SOFT_SHARE, FAT_TO_SOFT_HU = (0.105, 0.180), (110.0, 190.0)
IN_PLACE_HU = 50.0
MAIN_TISSUE_HU = (-135.0, 120.0)  # the highest peak: fat in the obese at 80 kVp, organs with contrast

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
        return alone or in_place(self.tissue)

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


def find_peaks(sample_zyx: NDArray[Any]) -> Peaks:
    """Where the histogram's peaks lie, without the constants that a CT may be padded with."""
    background = _background(sample_zyx)
    values = sample_zyx[(sample_zyx >= RANGE_HU[0]) & (sample_zyx <= RANGE_HU[1]) & (sample_zyx != background)]
    values = _without_padding(values)
    found = _histogram_peaks(values) if values.size else []
    gas, tissue = _gas_and_tissue(found)
    if gas is not None and gas < PADDING_BELOW_HU:  # padding that interpolation or compression has blurred?
        other, rest = _gas_and_tissue(found[1:])
        if (other is not None and abs(other - AIR_HU) <= AIR_IN_DOUBT_HU) or in_place(at for at, _ in rest):
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


def in_place(tissue: Iterable[float]) -> bool:
    """Whether two neighbouring peaks (HU, from low to high) lie where fat and soft tissue belong."""
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
