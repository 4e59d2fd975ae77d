"""From tissue to Hounsfield units: the constants, each with its source, and the shape of edges and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.mineral import HU_PER_MG_HA, hu_per_mg_ha
from medconv.types import FloatArray

FAT_HU = -120.0  # pure fat at 66 keV (NIST attenuation of adipose tissue)
RED_MARROW_HU = 45.0  # our assumption: red marrow attenuates like other cellular soft tissue
MARROW_FAT_FRACTION = (0.425, 0.06)  # mean and SD; our assumption within published MR fractions of 0.3 to 0.6

# Trabecular density: with the marrow above, mean 127 and SD 27.5 mg/cm³ HA read 159 ± 40 HU at 120 kVp, which gives
# class means near 118/143/178 HU (British cohort 2023, n = 536) and the SD of Jang 2019 (38 to 44 HU).
# A cross-check: 80 mg/cm³, QCT's limit of osteoporosis, reads 91 HU; a published screening limit is 90.25 HU.
DENSITY_MG_HA = (127.0, 27.5)
MINIMUM_DENSITY_MG_HA = 15.0

# Fully mineralised cortex at 66 to 71 keV reads 1560 to 1720 HU; the thin shell reads far lower through the PSF.
CORTICAL_HU_120_KVP = 1640.0

# IV contrast raises trabecular HU (Pompe 2015): arterial +13.5, portal venous +18.2; its spread is our assumption.
CONTRAST_OFFSET_HU: Mapping[str, float] = {"native": 0.0, "arterial": 13.5, "portal": 18.2}
CONTRAST_OFFSET_SPREAD_HU = 5.0
BLOOD_HU: Mapping[str, float] = {"native": 42.0, "arterial": 320.0, "portal": 155.0}  # typical aortic values
PARENCHYMA_HU: Mapping[str, float] = {"native": 55.0, "arterial": 75.0, "portal": 110.0}  # liver, typical values


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: SD of its in-plane Gaussian PSF and how loud its noise is beside the soft kernel's."""

    name: str
    psf_sigma_mm: float
    noise_factor: float


# FWHM about 1.5, 1.1 and 0.75 mm: typical of abdominal, intermediate and bone kernels; noise factors are typical too.
KERNELS: Mapping[str, Kernel] = {
    "soft": Kernel("soft", 0.64, 1.0),
    "medium": Kernel("medium", 0.47, 1.5),
    "sharp": Kernel("sharp", 0.32, 2.8),
}


def marrow_hu(fat_fraction: float) -> float:
    """HU of marrow without bone: fat and red marrow by volume."""
    return fat_fraction * FAT_HU + (1.0 - fat_fraction) * RED_MARROW_HU


def trabecular_hu(density_mg_ha: float, kvp: float, marrow_fat_fraction: float, contrast_offset_hu: float) -> float:
    """Mean HU of trabecular bone: mineral by kVp, marrow's offset, contrast agent in its vessels."""
    return hu_per_mg_ha(kvp) * density_mg_ha + marrow_hu(marrow_fat_fraction) + contrast_offset_hu


def cortical_hu(kvp: float) -> float:
    """HU of compact bone: mineral scales with kVp as in trabecular bone."""
    return CORTICAL_HU_120_KVP * hu_per_mg_ha(kvp) / HU_PER_MG_HA[120.0]


def bone_through_psf(
    distance_mm: NDArray[np.float32],
    shell_mm: NDArray[np.float32],
    outside_hu: NDArray[np.float32],
    trabecular: NDArray[np.float32],
    cortex_hu: float,
    sigma_mm: float,
) -> NDArray[np.float32]:
    """HU near a bone surface, with the shell blurred exactly as a Gaussian PSF blurs a flat layer.

    distance_mm: signed distance from the outer surface, negative inside. All arrays of one shape.
    A layer from 0 to `shell_mm` convolved with a Gaussian is the difference of two normal distribution functions.
    """
    bone, core = blurred_fractions(distance_mm, shell_mm, sigma_mm)
    return outside_hu + bone * (np.float32(cortex_hu) - outside_hu) + core * (trabecular - np.float32(cortex_hu))


def blurred_fractions(
    distance_mm: NDArray[np.float32], shell_mm: NDArray[np.float32], sigma_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How much of each point's blur lies in the bone as a whole, and how much inside its shell."""
    scale = np.float32(1.0 / sigma_mm)
    return _normal_cdf(-distance_mm * scale), _normal_cdf(-(distance_mm + shell_mm) * scale)


def correlated_noise(
    rng: np.random.Generator, shape_zyx: tuple[int, int, int], spacing_mm: float, psf_sigma_mm: float, sd_hu: float
) -> NDArray[np.float32]:
    """Noise of filtered back-projection: independent slices, in-plane power ∝ f·MTF(f)², SD `sd_hu`.

    Source of the form: Hanson 1981; Boedeker 2007, "Application of the noise power spectrum in modern diagnostic MDCT".
    """
    from scipy import fft

    slices, height, width = shape_zyx
    amplitude, padded = noise_amplitude((height, width), spacing_mm, psf_sigma_mm)
    white = rng.standard_normal((slices, *padded), dtype=np.float32)
    spectrum = fft.rfft2(white) * (sd_hu * amplitude).astype(np.float32)
    noise = fft.irfft2(spectrum, s=padded)
    return np.asarray(noise[:, :height, :width], np.float32)


def noise_amplitude(
    shape_yx: tuple[int, ...], spacing_mm: float, psf_sigma_mm: float
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """By how much filtered back-projection scales each frequency of white noise of SD 1, so that the SD stays 1.

    Returns the amplitudes (y, x/2 + 1) and the padded size (y, x) that they belong to.
    """
    from scipy import fft

    height, width = shape_yx
    # Room for the correlation to end, so that opposite borders are independent; and a size that transforms fast.
    padded = (fft.next_fast_len(height + 8, real=True), fft.next_fast_len(width + 8, real=True))
    fy = np.fft.fftfreq(padded[0], spacing_mm)[:, np.newaxis]
    fx = np.fft.rfftfreq(padded[1], spacing_mm)[np.newaxis]
    frequency = np.hypot(fy, fx)  # cycles per mm, (y, x/2 + 1)
    amplitude = np.sqrt(frequency) * np.exp(-2.0 * (math.pi * 0.8 * psf_sigma_mm * frequency) ** 2)
    doubled = np.where((fx > 0) & (fx < 0.5 / spacing_mm - 1e-9), 2.0, 1.0)  # rfft stores half of the plane
    amplitude /= math.sqrt(float((doubled * amplitude**2).sum()) / (padded[0] * padded[1]))
    return amplitude, padded


def _normal_cdf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normal distribution function by a logistic approximation (Bowling 2009), error below 1.5e-4; fast."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.7988) * x + np.float32(0.03528) * x * x * x)


def kernel(name: str) -> Kernel:
    """The kernel of that name. Raises ValueError naming the known ones."""
    if name not in KERNELS:
        raise ValueError(f"unknown kernel '{name}', expected one of {sorted(KERNELS)}")
    return KERNELS[name]


def smooth_step(distance_mm: FloatArray, width_mm: float = 1.0) -> FloatArray:
    """1 well inside (negative distance), 0 outside, over about `width_mm`."""
    return 0.5 - 0.5 * np.tanh(distance_mm / width_mm)
