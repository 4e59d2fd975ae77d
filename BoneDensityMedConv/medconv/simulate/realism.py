"""How alike a real CT and simulated ones of its kind are: L1's HU, the texture of bone and soft tissue, L1's edge.

All three are measured in the same way on both. The simulated ones have the real CT's grid and voltage, and the density
that gives the real L1's core HU, so that what differs is the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from medconv.grid import canonical, index3, to_image
from medconv.mineral import hu_per_mg_ha
from medconv.simulate import physics
from medconv.simulate.person import Person, PersonSettings, draw_person
from medconv.simulate.person_ct import person_ct
from medconv.simulate.scan import Scan, noise_hu
from medconv.simulate.spine import LABELS
from medconv.types import BoolArray, CTVolume, FloatArray, ImageGeometry, Vector3
from medconv.vertebral_body import core_center

HISTOGRAM_HU = np.arange(-200.0, 1201.0, 20.0)  # edges
PERCENTILES = (5, 25, 50, 75, 95, 99)
DEPTH_MM = np.arange(-6.0, 12.01, 1.5)  # edges; below 0 is outside of the mask
CORE_MM = (21.0, 15.0, 12.0)  # left to right, front to back, height: the middle of the smallest body
CORE_DEPTH_MM = 5.0
SOFT_HU = (-20.0, 130.0)  # muscle and organs, with or without contrast agent
SOFT_BLOCK_MM = 21.0
EVEN_SHARE = 0.25  # of the soft tissue's blocks, those of the lowest SD
FREQUENCY_STEP = 0.04  # cycles per mm
FIELD_OF_VIEW_MM = (-60.0, 60.0)
USUAL_KVP = 120.0
FINE_MM = 1.0


@dataclass(frozen=True)
class Appearance:
    """What one CT looks like around its L1.

    histogram: share of L1's voxels in each bin of HISTOGRAM_HU. percentiles_hu: at PERCENTILES. edge_hu: mean HU by
    depth (bins of DEPTH_MM). core_spectrum, soft_spectrum: HU²·mm² by spatial frequency in the slice (steps of
    FREQUENCY_STEP, NaN above the grid's limit). core_median_hu, core_sd_hu and soft_sd_hu: of the same places.
    """

    histogram: FloatArray
    percentiles_hu: FloatArray
    edge_hu: FloatArray
    core_spectrum: FloatArray
    soft_spectrum: FloatArray
    core_median_hu: float
    core_sd_hu: float
    soft_sd_hu: float
    volume_ml: float


def appearance(ct: CTVolume, mask_zyx: BoolArray) -> Appearance:
    """Measure a CT; `mask_zyx`: L1 on its grid. Raises ValueError for an empty mask."""
    if not mask_zyx.any():
        raise ValueError("the mask is empty")
    hu, geometry = canonical(np.asarray(ct.array_zyx), ct.geometry)
    mask = canonical(mask_zyx.astype(np.uint8), ct.geometry)[0].astype(bool)
    spacing = geometry.spacing_mm_xyz
    hu = hu.astype(np.float32)
    core = _core(hu, mask, spacing)
    blocks = _even_blocks(hu, spacing)
    inside = hu[mask]
    counts, _ = np.histogram(np.clip(inside, HISTOGRAM_HU[0], HISTOGRAM_HU[-1] - 1.0), HISTOGRAM_HU)
    return Appearance(
        histogram=counts / counts.sum(),
        percentiles_hu=np.percentile(inside, PERCENTILES),
        edge_hu=_edge_profile(hu, mask, geometry),
        core_spectrum=power_spectrum(list(core), spacing[0]),
        soft_spectrum=power_spectrum(blocks, spacing[0]),
        core_median_hu=float(np.median(core)),
        core_sd_hu=float(np.mean([patch.std() for patch in core])),
        soft_sd_hu=float(np.mean([block.std() for block in blocks])) if blocks else float("nan"),
        volume_ml=float(mask.sum()) * geometry.voxel_volume_ml,
    )


def simulated_like(
    ct: CTVolume, core_median_hu: float, persons: PersonSettings, count: int
) -> Iterator[tuple[CTVolume, BoolArray]]:
    """Persons whose CT has the grid and voltage of `ct` and whose core reads `core_median_hu`, with L1's mask.

    `persons` names the kernel and, where the dose is known, the dose.
    """
    for index in range(count):
        shown = person_ct(_alike(draw_person(persons, index), ct, core_median_hu), FIELD_OF_VIEW_MM)
        yield shown.ct, shown.labels_zyx == LABELS["L1"]


def power_spectrum(patches: Sequence[FloatArray], pixel_mm: float) -> FloatArray:
    """Mean radial power spectrum of square-pixel patches, HU²·mm², after a plane is taken from each.

    A Hann window keeps a patch's borders out; its loss of power is made good. The sum over frequencies (in cycles per
    mm, over the plane) is the variance.
    """
    bins = np.arange(0.0, 0.5 / pixel_mm + FREQUENCY_STEP / 2.0, FREQUENCY_STEP)
    total, seen = np.zeros(len(bins) - 1), np.zeros(len(bins) - 1)
    for patch in patches:
        height, width = patch.shape
        window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
        power = np.abs(np.fft.fft2(_without_plane(patch) * window)) ** 2 * pixel_mm**2 / (window**2).sum()
        frequency = np.hypot(np.fft.fftfreq(height, pixel_mm)[:, None], np.fft.fftfreq(width, pixel_mm)[None, :])
        total += np.histogram(frequency, bins, weights=power)[0]
        seen += np.histogram(frequency, bins)[0]
    return np.asarray(np.where(seen > 0, total / np.maximum(seen, 1.0), np.nan))


def difference(real: Appearance, simulated: Sequence[Appearance]) -> Mapping[str, float]:
    """The comparison in numbers; HU but for the ratios.

    histogram_distance_hu: how far L1's HU must be moved from one to the other (Wasserstein-1). edge_rms_hu: root mean
    square over the depth bins. spectrum ratios: simulated power over real power, whole band.
    """
    mean = {name: mean_of([getattr(s, name) for s in simulated]) for name in ARRAYS}
    moved = np.abs(np.cumsum(real.histogram - mean["histogram"])).sum() * float(HISTOGRAM_HU[1] - HISTOGRAM_HU[0])
    return {
        "histogram_distance_hu": float(moved),
        "edge_rms_hu": float(np.sqrt(np.nanmean((real.edge_hu - mean["edge_hu"]) ** 2))),
        "edge_peak_real_hu": float(np.nanmax(real.edge_hu)),
        "edge_peak_simulated_hu": float(np.nanmax(mean["edge_hu"])),
        "core_sd_ratio": float(np.mean([s.core_sd_hu for s in simulated])) / real.core_sd_hu,
        "soft_sd_ratio": float(np.nanmean([s.soft_sd_hu for s in simulated])) / real.soft_sd_hu,
        "core_power_ratio": _ratio(mean["core_spectrum"], real.core_spectrum),
        "soft_power_ratio": _ratio(mean["soft_spectrum"], real.soft_spectrum),
        "volume_ratio": float(np.mean([s.volume_ml for s in simulated])) / real.volume_ml,
    }


ARRAYS = ("histogram", "percentiles_hu", "edge_hu", "core_spectrum", "soft_spectrum")


def _ratio(simulated: FloatArray, real: FloatArray) -> float:
    both = np.isfinite(simulated) & np.isfinite(real)
    return float(simulated[both].sum() / real[both].sum()) if both.any() else float("nan")


def _alike(person: Person, ct: CTVolume, core_median_hu: float) -> Person:
    """The person with the CT's grid and voltage, and the density that gives that core."""
    geometry = canonical(np.zeros(ct.geometry.shape_zyx, np.uint8), ct.geometry)[1]
    across, slice_mm = (geometry.spacing_mm_xyz[0] + geometry.spacing_mm_xyz[1]) / 2.0, geometry.spacing_mm_xyz[2]
    kvp = float(np.clip(ct.acquisition.kvp or USUAL_KVP, 80.0, 140.0))
    loud = noise_hu(kvp, slice_mm, person.scan.kernel, person.relative_dose, person.diameter_cm)
    scan = Scan(kvp, across, slice_mm, slice_mm, person.scan.kernel, loud)
    marrow = physics.marrow_hu(person.patient.marrow_fat_fraction)
    density = max((core_median_hu - marrow) / hu_per_mg_ha(kvp), physics.MINIMUM_DENSITY_MG_HA)
    return replace(person, scan=scan, patient=replace(person.patient, density_mg_ha=density))


def _core(hu: FloatArray, mask: BoolArray, spacing: Vector3) -> FloatArray:
    """The middle of the body as a stack of patches (z, y, x)."""
    center = core_center(mask, spacing)
    cuts = []
    for axis in (2, 1, 0):
        half = CORE_MM[axis] / 2.0 / spacing[axis]
        low, high = (round(float(center[axis]) + sign * half) for sign in (-1.0, 1.0))
        cuts.append(slice(max(low, 0), max(high, low + 1)))
    return hu[tuple(cuts)]


def _even_blocks(hu: FloatArray, spacing: Vector3) -> list[FloatArray]:
    """Square patches of slices that hold soft tissue only, the most even of them."""
    side = max(int(SOFT_BLOCK_MM / spacing[0]), 4)
    low, high = SOFT_HU
    found = []
    for image in hu[:: max(int(6.0 / spacing[2]), 1)]:
        rows, columns = (n // side for n in image.shape)
        tiles = image[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
        means = tiles.mean(axis=(2, 3))
        found += list(tiles[(means > low) & (means < high)])
    spread = np.array([block.std() for block in found])
    if not len(spread):
        return []
    limit = np.quantile(spread, EVEN_SHARE)
    return [block for block, sd in zip(found, spread, strict=True) if sd <= limit]


def _without_plane(patch: FloatArray) -> FloatArray:
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]]
    terms = np.column_stack([np.ones(patch.size), y.ravel(), x.ravel()])
    fitted = terms @ np.linalg.lstsq(terms, patch.ravel().astype(float), rcond=None)[0]
    return np.asarray(patch - fitted.reshape(patch.shape))


def _edge_profile(hu: FloatArray, mask: BoolArray, geometry: ImageGeometry) -> FloatArray:
    """Mean HU by depth below the mask's surface, on a fine grid, so that coarse voxels fill every bin."""
    places = np.argwhere(mask)[:, ::-1]
    margin = -DEPTH_MM[0] + 2.0
    low = geometry.index_to_lps(places.min(axis=0)) - margin
    high = geometry.index_to_lps(places.max(axis=0)) + margin
    x, y, z = (float(v) for v in low)
    size = index3(np.ceil((high - low) / FINE_MM).astype(int) + 1)
    fine = ImageGeometry(size, (FINE_MM, FINE_MM, FINE_MM), (x, y, z))
    grid = to_image(np.zeros(fine.shape_zyx, np.uint8), fine)
    on_fine = [
        sitk.Resample(to_image(part, geometry), grid, sitk.Transform(), sitk.sitkLinear, outside)
        for part, outside in ((hu, float("nan")), (mask.astype(np.float32), 0.0))
    ]
    values = sitk.GetArrayFromImage(on_fine[0])
    inside = sitk.BinaryThreshold(on_fine[1], 0.5, 2.0)
    distance = sitk.SignedMaurerDistanceMap(inside, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    # Maurer counts from the outermost voxels' centres; the surface lies half a voxel further out.
    depth = sitk.GetArrayFromImage(distance) + FINE_MM / 2.0
    place = np.digitize(depth, DEPTH_MM) - 1
    kept = (place >= 0) & (place < len(DEPTH_MM) - 1) & np.isfinite(values)
    count = np.bincount(place[kept], minlength=len(DEPTH_MM) - 1)
    total = np.bincount(place[kept], values[kept], minlength=len(DEPTH_MM) - 1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def mean_of(rows: Sequence[FloatArray]) -> FloatArray:
    """Mean over several CTs of what each could measure; NaN where none could."""
    stack = np.array(rows)
    seen = np.isfinite(stack)
    total = np.where(seen, stack, 0.0).sum(axis=0)
    return np.asarray(np.where(seen.any(axis=0), total / np.maximum(seen.sum(axis=0), 1), np.nan))
