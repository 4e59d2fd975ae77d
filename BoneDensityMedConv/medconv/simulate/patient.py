"""From a patient's standardised features to tissue: density, texture, cortex and size of the spine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from medconv.simulate import physics
from medconv.simulate.cohort import CohortModel
from medconv.simulate.scan import Scan
from medconv.simulate.vertebra import VertebraShape, draw_shape

# How one SD of a feature shows. Directions are clinical knowledge: bone loss thins the cortex and makes the
# trabecular pattern patchier; the magnitudes are our assumption (docs/decisions/0003-simulation.md).
TEXTURE_SD_HU = 22.0  # patient's median SD of the trabecular pattern at about 2 mm resolution
TEXTURE_STEP = 0.32  # change of its logarithm per SD of the feature; a regular pattern has the lower SD
SHELL_BODY_MM = 0.26  # cortical shell of the body: histology gives 0.2 to 0.5 mm, part of it pores
SHELL_ARCH_MM = 0.55  # pedicles and laminae, seen through the same PSF
SHELL_STEP = 0.24  # change of the logarithm per SD
SIZE_STEP = 0.045  # relative change of width and depth per SD


@dataclass(frozen=True)
class Patient:
    """One simulated person: T-score, hidden signal, and the tissue that follows from it."""

    t_score: float
    signal: float
    features: Mapping[str, float]
    density_mg_ha: float
    marrow_fat_fraction: float
    texture_sd_hu: float
    shell_body_mm: float
    shell_arch_mm: float
    shape: VertebraShape

    def trabecular_hu(self, scan: Scan) -> float:
        """The L1 core's true mean HU in that scan."""
        return physics.trabecular_hu(self.density_mg_ha, scan.kvp, self.marrow_fat_fraction, scan.contrast_offset_hu)

    def truth(self, scan: Scan) -> dict[str, float | str]:
        """Every hidden variable of patient and scan, flat, for a ground-truth sheet."""
        own = asdict(self)
        features, shape = own.pop("features"), own.pop("shape")
        sheet = own | {f"feature_{name}": value for name, value in features.items()}
        sheet |= {f"shape_{name}": value for name, value in shape.items()}
        sheet |= {f"scan_{name}": value for name, value in asdict(scan).items()}
        return sheet | {"trabecular_hu": self.trabecular_hu(scan)}


def draw_patient(rng: np.random.Generator, cohort: CohortModel, t_score: float | None = None) -> Patient:
    """A random patient of the cohort, or one of those who have the T-score given."""
    signal = cohort.draw(rng, t_score)
    features = signal.features
    mean, sd = physics.DENSITY_MG_HA
    fat_mean, fat_sd = physics.MARROW_FAT_FRACTION
    thickness = math.exp(SHELL_STEP * features["cortex"])
    return Patient(
        t_score=signal.t_score,
        signal=signal.signal,
        features=features,
        density_mg_ha=max(mean + sd * features["density"], physics.MINIMUM_DENSITY_MG_HA),
        marrow_fat_fraction=float(np.clip(fat_mean + fat_sd * rng.standard_normal(), 0.15, 0.7)),
        texture_sd_hu=TEXTURE_SD_HU * math.exp(-TEXTURE_STEP * features["texture"]),
        shell_body_mm=SHELL_BODY_MM * thickness,
        shell_arch_mm=SHELL_ARCH_MM * thickness,
        shape=draw_shape(rng, 1.0 + SIZE_STEP * features["size"]),
    )
