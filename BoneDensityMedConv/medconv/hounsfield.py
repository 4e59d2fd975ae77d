"""Is this a CT in Hounsfield units? Judged from the file's tags and from the numbers themselves.

Air reads −1000 HU and water 0 HU by definition of the scale; muscle, blood and organs lie between −20 and 100 HU and
fat near −100 HU. A CT of a trunk therefore has many voxels between −200 and 200 HU and, unless cut to the body, a
peak of air near −1000.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.grid import even_sample
from medconv.types import Acquisition, CTVolume, InputRefused, QualityNote, Severity

SOFT_TISSUE_HU = (-200.0, 200.0)
MINIMUM_SOFT_TISSUE = 0.02
AIR_SEARCH_HU = (-2200.0, -850.0)
AIR_HU = -1000.0
AIR_TOLERANCE_HU = 50.0
MINIMUM_AIR = 0.01
CLIPPED_BELOW_HU = 500.0
PADDING_BELOW_HU = -1500.0
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
    low, high = float(sample.min()), float(sample.max())
    soft = float(np.mean((sample >= SOFT_TISSUE_HU[0]) & (sample <= SOFT_TISSUE_HU[1])))
    if low > -150 or soft < MINIMUM_SOFT_TISSUE:
        raise InputRefused(
            "not_hu",
            f"The values ({low:.0f} to {high:.0f}, {soft:.0%} of them in the soft-tissue range) are not Hounsfield "
            "units: air should read about −1000 HU and muscle about 50 HU.",
            "Check the rescale slope and intercept, and that the image is a CT and not MR or a normalised copy.",
        )
    if high < CLIPPED_BELOW_HU:
        raise InputRefused(
            "hu_clipped",
            f"The highest value is {high:.0f} HU: bone has been clipped away.",
            "Use the original CT, not a windowed copy.",
        )
    return _air_notes(sample) + acquisition_notes(ct.acquisition)


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


def _air_notes(sample: NDArray[np.float32]) -> list[QualityNote]:
    """Where air is in the picture, its most frequent value must be near −1000 HU."""
    air = sample[(sample >= AIR_SEARCH_HU[0]) & (sample <= AIR_SEARCH_HU[1])]
    lowest = float(sample.min())
    if lowest < PADDING_BELOW_HU:  # a constant outside the scanner's circle is padding, not air
        air = air[air != lowest]
    if air.size < MINIMUM_AIR * sample.size:
        return []
    counts, edges = np.histogram(air, bins=135, range=AIR_SEARCH_HU)
    at = int(counts.argmax())
    peak = float(edges[at] + edges[at + 1]) / 2
    if at == len(counts) - 1 or abs(peak - AIR_HU) <= AIR_TOLERANCE_HU:  # a rise towards the edge is lung, not air
        return []
    return [
        QualityNote(
            "air_not_minus_1000",
            Severity.WARNING,
            f"Air reads about {peak:.0f} HU instead of −1000: the scanner's calibration or the rescale is in doubt.",
        )
    ]
