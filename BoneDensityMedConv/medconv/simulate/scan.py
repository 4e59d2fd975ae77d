"""How a simulated patient is scanned: voltage, grid, kernel, dose and contrast phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from medconv.mineral import hu_per_mg_ha
from medconv.simulate import physics
from medconv.types import Acquisition

_Choice = TypeVar("_Choice", float, str)

# Shares are our assumption of a mixed abdominal practice; what matters is that training sees the whole range.
KVP_SHARES = {120.0: 0.78, 100.0: 0.13, 140.0: 0.05, 80.0: 0.04}
SLICE_SHARES_MM = {0.7: 0.06, 1.0: 0.18, 1.25: 0.10, 1.5: 0.14, 2.0: 0.12, 2.5: 0.08, 3.0: 0.20, 5.0: 0.12}
KERNEL_SHARES = {"soft": 0.60, "medium": 0.28, "sharp": 0.12}
PHASE_SHARES = {"native": 0.60, "portal": 0.30, "arterial": 0.10}
IN_PLANE_SPACING_MM = (0.6, 1.0)

NOISE_HU = 11.0  # SD at 3 mm slices, soft kernel, usual dose in a patient of usual size
NOISE_SPREAD = 0.35  # SD of the logarithm: dose and patient size together
NOISE_LIMIT_HU = 90.0
# Dose and patient size as named variables (`noise_hu`): together they spread noise as NOISE_SPREAD does. Noise falls
# with the root of dose (photon statistics) and rises with the root of what water attenuates, e^(0.19/cm · diameter)
# (NIST, 66 keV), of which the tube current's modulation takes half; that half, and the spreads, are our assumption.
DIAMETER_CM = (25.5, 2.5)  # water-equivalent diameter of the trunk, mean and SD
DIAMETER_RANGE_CM = (20.0, 31.0)
DOSE_SPREAD = 0.65  # SD of the logarithm of relative dose, 1 being usual
WATER_PER_CM = 0.19
MODULATION = 0.5
NOISE_BY_KVP = {80.0: 1.3, 100.0: 1.12, 120.0: 1.0, 140.0: 0.94}


@dataclass(frozen=True)
class Scan:
    """One acquisition. `slice_increment_mm` is the distance of slice centres, at most the thickness."""

    kvp: float = 120.0
    in_plane_spacing_mm: float = 0.9
    slice_thickness_mm: float = 1.5
    slice_increment_mm: float = 1.5
    kernel: str = "soft"
    noise_hu: float = 12.0
    phase: str = "native"
    contrast_offset_hu: float = 0.0

    def __post_init__(self) -> None:
        hu_per_mg_ha(self.kvp)
        physics.kernel(self.kernel)
        if self.phase not in physics.CONTRAST_OFFSET_HU:
            raise ValueError(f"unknown phase '{self.phase}', expected one of {sorted(physics.CONTRAST_OFFSET_HU)}")
        if min(self.in_plane_spacing_mm, self.slice_thickness_mm, self.slice_increment_mm) <= 0 or self.noise_hu < 0:
            raise ValueError(f"spacing and thickness must be positive and noise not negative, got {self}")

    @property
    def edge_sigma_mm(self) -> float:
        """SD of the in-plane blur: the kernel's PSF and the voxel's own width."""
        return math.hypot(physics.kernel(self.kernel).psf_sigma_mm, self.in_plane_spacing_mm / math.sqrt(12.0))

    def acquisition(self) -> Acquisition:
        """As a DICOM header would tell it."""
        return Acquisition(
            modality="CT",
            kvp=self.kvp,
            slice_thickness_mm=self.slice_thickness_mm,
            kernel=self.kernel,
            contrast_agent=None if self.phase == "native" else f"simulated, {self.phase} phase",
        )


def draw_scan(rng: np.random.Generator) -> Scan:
    """A random acquisition of a mixed practice."""
    kvp = _choose(rng, KVP_SHARES)
    thickness = _choose(rng, SLICE_SHARES_MM)
    kernel = _choose(rng, KERNEL_SHARES)
    phase = _choose(rng, PHASE_SHARES)
    increment = thickness * (0.6 if thickness > 0.9 and rng.random() < 0.2 else 1.0)
    dose = float(np.exp(NOISE_SPREAD * rng.standard_normal()))
    return Scan(
        kvp=kvp,
        in_plane_spacing_mm=float(rng.uniform(*IN_PLANE_SPACING_MM)),
        slice_thickness_mm=thickness,
        slice_increment_mm=increment,
        kernel=kernel,
        noise_hu=min(expected_noise_hu(kvp, thickness, kernel) * dose, NOISE_LIMIT_HU),
        phase=phase,
        contrast_offset_hu=contrast_offset_hu(rng, phase),
    )


def contrast_offset_hu(rng: np.random.Generator, phase: str) -> float:
    """By how much contrast agent raises trabecular HU in this patient; 0 without contrast, never negative."""
    spread = physics.CONTRAST_OFFSET_SPREAD_HU * float(rng.standard_normal())
    return 0.0 if phase == "native" else max(physics.CONTRAST_OFFSET_HU[phase] + spread, 0.0)


def expected_noise_hu(kvp: float, thickness_mm: float, kernel: str) -> float:
    """SD of the noise at usual dose: ∝ 1/sqrt(thickness) (photon statistics), louder with sharper kernels."""
    by_voltage = float(np.interp(kvp, sorted(NOISE_BY_KVP), [NOISE_BY_KVP[v] for v in sorted(NOISE_BY_KVP)]))
    return NOISE_HU * by_voltage * math.sqrt(3.0 / thickness_mm) * physics.kernel(kernel).noise_factor


def draw_diameter_cm(rng: np.random.Generator) -> float:
    """A random water-equivalent diameter of the trunk."""
    return float(np.clip(DIAMETER_CM[0] + DIAMETER_CM[1] * rng.standard_normal(), *DIAMETER_RANGE_CM))


def draw_relative_dose(rng: np.random.Generator) -> float:
    """A random tube dose, 1 being usual."""
    return float(np.exp(DOSE_SPREAD * rng.standard_normal()))


def noise_hu(kvp: float, thickness_mm: float, kernel: str, relative_dose: float, diameter_cm: float) -> float:
    """SD of the noise in a patient of that size at that dose, at most NOISE_LIMIT_HU."""
    by_size = math.exp(0.5 * WATER_PER_CM * (1.0 - MODULATION) * (diameter_cm - DIAMETER_CM[0]))
    return min(expected_noise_hu(kvp, thickness_mm, kernel) * by_size / math.sqrt(relative_dose), NOISE_LIMIT_HU)


def _choose(rng: np.random.Generator, shares: dict[_Choice, float]) -> _Choice:
    names = list(shares)
    return names[int(np.searchsorted(np.cumsum([shares[n] for n in names])[:-1], rng.random(), side="right"))]
