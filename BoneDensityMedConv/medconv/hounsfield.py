"""Is this a CT in Hounsfield units? Judged from the file's tags and from the numbers themselves.

Where air, fat and soft tissue lie tells of a wrong rescale (`hu_scale`). What has nothing like them, MR or a normalised
copy, is known by its range; a copy for the screen by the bone that was clipped away.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.grid import even_sample
from medconv.hu_scale import check_scale
from medconv.types import Acquisition, CTVolume, InputRefused, QualityNote, Severity

SOFT_TISSUE_HU = (-200.0, 200.0)
MINIMUM_SOFT_TISSUE = 0.02
CLIPPED_BELOW_HU = 500.0
# Bone clipped at a limit piles up there. Shares of the bone above 300 HU in TotalSegmentator's example: 0.33 clipped at
# 500 HU, 0.09 at 1000, below 0.001 unclipped. Scanners end at 3071 HU, where metal piles up.
BONE_FROM_HU, PILE_SHARE, PILE_VOXELS, PILE_BELOW_HU = 300.0, 0.02, 30, 1500.0
# A pile stands on a slope of less dense bone; a drawn phantom's one value for cortex does not.
SLOPE_BELOW_HU, SLOPE_SHARE = 50.0, 0.15
SHARP_KERNEL_FROM = 50  # Siemens-style names (B60f, Br64): numbers of 50 and above are edge-enhancing
SHARP_KERNELS = frozenset({"BONE", "BONEPLUS", "EDGE", "LUNG", "YC", "YD", "D", "E"})  # GE and Philips
PROJECTIONS = frozenset({"LOCALIZER", "MIP", "MINIP", "PROJECTION IMAGE", "SCREEN SAVE"})
HU_OF_ANOTHER_KIND = frozenset({"VMI", "MONO", "MONOENERGETIC", "VNC", "IODINE", "VIRTUAL"})


def check_hounsfield(ct: CTVolume) -> list[QualityNote]:
    """Notes on modality, HU scale and acquisition. Raises InputRefused if it is not a CT or not in HU."""
    modality = ct.acquisition.modality
    if modality not in (None, "", "CT"):
        raise InputRefused(
            "not_ct", f"The image is {modality}, not CT.", "Choose a CT; T-score classes need Hounsfield units."
        )
    if projection := PROJECTIONS.intersection(ct.acquisition.image_type):
        raise InputRefused(
            "not_original",
            f"The image is no CT volume but a {', '.join(sorted(projection)).lower()}.",
            "Choose the original axial series.",
        )
    sample = np.asarray(even_sample(ct), np.float32)
    _refuse_unless_finite(sample)
    notes = check_scale(sample)
    low, high = float(sample.min()), float(sample.max())
    soft = float(np.mean((sample >= SOFT_TISSUE_HU[0]) & (sample <= SOFT_TISSUE_HU[1])))
    if low > -150 or soft < MINIMUM_SOFT_TISSUE:
        raise InputRefused(
            "not_hu",
            f"The values ({low:.0f} to {high:.0f}, {soft:.0%} of them in the soft-tissue range) are not Hounsfield "
            "units: air should read about −1000 HU and muscle about 50 HU.",
            "Check the rescale slope and intercept, and that the image is a CT and not MR or a normalised copy.",
        )
    if high < CLIPPED_BELOW_HU or _piles_up(sample, high):
        raise InputRefused(
            "hu_clipped",
            f"The highest value is {high:.0f} HU: bone has been clipped away.",
            "Use the original CT, not a copy with a limited range of values.",
        )
    return notes + acquisition_notes(ct.acquisition)


def check_finite(block: CTVolume) -> None:
    """Raise InputRefused if a voxel of the block is no number: one would spread through every filter."""
    _refuse_unless_finite(block.array_zyx)


def _refuse_unless_finite(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise InputRefused(
            "not_hu", "The image holds values that are not numbers (NaN or infinity).", "Export the CT again."
        )


def acquisition_notes(acquisition: Acquisition) -> list[QualityNote]:
    """What the tags say that moves HU: tube voltage, contrast agent, kernel (CLINICAL sources in the user guide)."""
    notes = []
    if acquisition.kvp is None:
        notes.append(
            QualityNote("kvp_unknown", Severity.INFO, "Tube voltage (kVp) unknown: HU are shown without correction.")
        )
    elif round(acquisition.kvp) != 120:
        notes.append(
            QualityNote(
                "kvp_not_120",
                Severity.WARNING,
                f"Tube voltage {acquisition.kvp:.0f} kVp: HU differ from those at 120 kVp, for which thresholds are "
                "published; no correction was made.",
            )
        )
    unusual = HU_OF_ANOTHER_KIND.intersection(acquisition.image_type)
    if unusual:
        notes.append(
            QualityNote(
                "not_conventional_hu",
                Severity.WARNING,
                f"A derived image ({', '.join(sorted(unusual))}): its HU are not those of a conventional CT.",
            )
        )
    if acquisition.contrast_agent:
        notes.append(
            QualityNote(
                "contrast_agent",
                Severity.WARNING,
                "The file names a contrast agent: intravenous contrast raises L1 by about 13 HU (arterial) to 18 HU "
                "(portal venous; Pompe 2015). No correction was made.",
            )
        )
    kernel = (acquisition.kernel or "").upper()
    number = re.search(r"[0-9]+", kernel)
    if kernel in SHARP_KERNELS or (number and int(number[0]) >= SHARP_KERNEL_FROM):
        notes.append(
            QualityNote("sharp_kernel", Severity.WARNING, f"Sharp kernel ({acquisition.kernel}): noise is enhanced.")
        )
    return notes


def _piles_up(sample: NDArray[np.float32], high: float) -> bool:
    """Whether much of the bone has exactly the highest value of all: it was clipped there."""
    if high >= PILE_BELOW_HU:
        return False
    pile = int(np.count_nonzero(sample == high))
    below = int(np.count_nonzero((sample < high) & (sample >= high - SLOPE_BELOW_HU)))
    bone = int(np.count_nonzero(sample > BONE_FROM_HU))
    return pile >= PILE_VOXELS and pile > PILE_SHARE * bone and below > SLOPE_SHARE * pile
