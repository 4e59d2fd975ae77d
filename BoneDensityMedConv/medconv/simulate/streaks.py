"""What titanium does to the slices of a CT: dark bands and streaks, from the projections, as in a scanner.

Rays are polychromatic (Kramers' spectrum at four energies, NIST attenuation of water and titanium) and corrected as if
all were water. What is then wrong, and the noise of rays that hardly pass, is reconstructed by filtered
back-projection. Parallel rays in each slice by itself; the body is an ellipse of water; no scatter, no metal artefact
reduction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medconv.simulate.rendering import PixelGrid
from medconv.simulate.scan import Scan
from medconv.simulate.vertebra import Array
from medconv.types import FloatArray

TITANIUM_HU = 9000.0  # far above what 12 bits hold
# Attenuation per cm (NIST; titanium of 4.506 g/cm³) at the energies in keV, and the breadth that each stands for.
ENERGIES_KEV = np.array([50.0, 60.0, 80.0, 100.0])
BREADTH_KEV = np.array([10.0, 15.0, 20.0, 25.0])
WATER_PER_CM = np.array([0.2269, 0.2059, 0.1837, 0.1707])
TITANIUM_PER_CM = 4.506 * np.array([1.213, 0.7661, 0.4052, 0.2721])
MOST_WATER_CM = 80.0
ANGLES = 240
RAY_MM = 1.0
GRID_MM = 2.0  # streaks are broad; the metal itself is drawn finely


@dataclass(frozen=True)
class TrunkOutline:
    """The trunk as an ellipse of water: half axes (x, y) and how far back its centre lies, mm."""

    half_axes_mm: tuple[float, float]
    center_y_mm: float


class Streaks:
    """The errors of a scanner that sees metal, on a coarse grid over the pixels given."""

    def __init__(self, pixels: PixelGrid, trunk: TrunkOutline, scan: Scan) -> None:
        self._x, self._y = (_coarse(axis) for axis in (pixels.x_mm, pixels.y_mm))
        self._pixels = pixels
        self._angles = np.arange(ANGLES) * math.pi / ANGLES
        reach = float(np.hypot(np.abs(pixels.x_mm).max(), np.abs(pixels.y_mm).max())) + 5.0
        self._rays = np.arange(-reach, reach + RAY_MM, RAY_MM)
        weights = np.maximum(scan.kvp - ENERGIES_KEV, 0.0) * BREADTH_KEV
        self._weights = weights / weights.sum()
        self._water_cm = _paths_through(trunk, self._angles, self._rays)
        self._of_water = self._projection(self._water_cm, np.zeros_like(self._water_cm))
        # The variance of a ray is e^p over the photons sent out: so many that without metal the CT has its noise.
        white = np.random.default_rng(0).standard_normal((1, *self._water_cm.shape))
        middle = self._back_projected(white * np.exp(self._of_water / 2.0))[0]
        rows, columns = (slice(n // 3, 2 * n // 3 + 1) for n in middle.shape)
        self._ray_noise_hu = scan.noise_hu / max(float(middle[rows, columns].std()), 1e-9)

    def of_slices(self, share_zyx: Array, rng: np.random.Generator) -> Array:
        """HU to be added, shape (z, coarse y, coarse x), to slices of which `share_zyx` is titanium."""
        metal_cm = np.stack([self._metal_paths(share) for share in share_zyx])
        seen = self._projection(self._water_cm[None], metal_cm)
        table_cm = np.linspace(0.0, MOST_WATER_CM, 801)
        as_water = np.interp(seen, self._projection(table_cm, np.zeros_like(table_cm)), table_cm)
        # In HU·cm, against water and titanium as they are drawn.
        wrong = 1000.0 * (as_water - self._water_cm) - (TITANIUM_HU + 1000.0) * metal_cm
        loud = np.sqrt(np.maximum(np.exp(seen) - np.exp(self._of_water), 0.0))
        wrong += self._ray_noise_hu * loud * rng.standard_normal(wrong.shape)
        return self._back_projected(np.where(metal_cm > 0.01, wrong, 0.0))

    def _projection(self, water_cm: FloatArray, metal_cm: FloatArray) -> FloatArray:
        """−log of the share of the beam that passes."""
        energies = zip(self._weights, WATER_PER_CM, TITANIUM_PER_CM, strict=True)
        return np.asarray(-np.log(sum(w * np.exp(-(a * water_cm + b * metal_cm)) for w, a, b in energies)))

    def _metal_paths(self, share_yx: Array) -> FloatArray:
        """Centimetres of metal on each ray: each pixel's area is shared out between the two nearest rays."""
        rows, columns = np.nonzero(share_yx > 0.01)
        pixel_mm = float(self._pixels.x_mm[1] - self._pixels.x_mm[0])
        # Nine points a pixel: one alone beats with the rays' own spacing.
        offsets = (np.arange(3) - 1.0) * pixel_mm / 3.0
        x, y = (
            (axis[index][:, None, None] + shift + np.zeros((3, 3))).ravel()
            for axis, index, shift in (
                (self._pixels.x_mm, columns, offsets[None, None, :]),
                (self._pixels.y_mm, rows, offsets[None, :, None]),
            )
        )
        area_mm2 = np.repeat(share_yx[rows, columns] * pixel_mm**2 / 9.0, 9)
        paths = np.empty((len(self._angles), len(self._rays)))
        for i, angle in enumerate(self._angles):
            place = (x * math.cos(angle) + y * math.sin(angle) - self._rays[0]) / RAY_MM
            left = place.astype(int)
            paths[i] = np.bincount(left, area_mm2 * (1.0 - (place - left)), len(self._rays))
            paths[i] += np.bincount(left + 1, area_mm2 * (place - left), len(self._rays))
        return paths / RAY_MM / 10.0

    def _back_projected(self, sinograms: FloatArray) -> Array:
        """Filtered back-projection (Ram-Lak with a Hann window) of (n, angles, rays) on the coarse grid."""
        size = 2 * len(self._rays)
        frequency = np.fft.rfftfreq(size, RAY_MM / 10.0)  # per cm
        ramp = frequency * (0.5 + 0.5 * np.cos(math.pi * frequency / frequency[-1]))
        filtered = np.fft.irfft(np.fft.rfft(sinograms, size, axis=2) * ramp, size, axis=2)[:, :, : len(self._rays)]
        filtered = filtered.astype(np.float32)
        image = np.zeros((len(sinograms), len(self._y) * len(self._x)), np.float32)
        for i, angle in enumerate(self._angles):
            position = self._x[None, :] * math.cos(angle) + self._y[:, None] * math.sin(angle)
            place = (position.ravel() - self._rays[0]) / RAY_MM
            left = place.astype(np.intp)
            below = np.take(filtered[:, i], left, axis=1)
            image += below + (place - left).astype(np.float32) * (np.take(filtered[:, i], left + 1, axis=1) - below)
        return (image * np.float32(math.pi / ANGLES)).reshape(len(sinograms), len(self._y), len(self._x))


def _paths_through(trunk: TrunkOutline, angles: FloatArray, rays_mm: FloatArray) -> FloatArray:
    """Centimetres of body on each ray, shape (angles, rays)."""
    a, b = (half / 10.0 for half in trunk.half_axes_mm)
    radius = np.hypot(a * np.cos(angles), b * np.sin(angles))[:, None]
    offset = rays_mm[None, :] / 10.0 - (trunk.center_y_mm / 10.0 * np.sin(angles))[:, None]
    return np.asarray(2.0 * a * b * np.sqrt(np.maximum(radius**2 - offset**2, 0.0)) / radius**2)


def _coarse(axis_mm: FloatArray) -> FloatArray:
    step = float(axis_mm[1] - axis_mm[0])
    width = len(axis_mm) * step
    count = max(round(width / GRID_MM), 2)
    return np.asarray(axis_mm[0] - step / 2.0 + width / count * (np.arange(count) + 0.5))
