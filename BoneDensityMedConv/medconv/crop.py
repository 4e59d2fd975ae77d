"""The standardised crop around L1: the only way in which training and inference see a CT.

The grid is centred on the L1 mask's centroid, with axes to the patient's left, posterior and superior, so that the
storage order and orientation of the file do not matter. Where the CT is finer than the crop it is first blurred to
the crop's resolution (a voxel is taken as a slit of its own width), so that the same patient scanned at 0.7 and at
1.5 mm looks alike. Nothing is ever cropped from the middle of the image: without an L1 mask there is no crop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.config import Preprocessing
from medconv.grid import to_image
from medconv.mineral import to_voltage
from medconv.types import Acquisition, ImageGeometry, L1Case, QualityNote, Severity

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


def standardised_crop(case: L1Case, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The network's input, shape (channels, z, y, x), values 0 to 1 over the window.

    Voxels outside the CT, and outside L1 if `preprocessing.masked`, have the window's lower end (0).
    """
    return as_input(crop_hu(case, preprocessing), preprocessing)


def crop_hu(case: L1Case, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The crop in HU before it is scaled, shape (z, y, x), clipped to the window; outside as in `standardised_crop`."""
    low, high = preprocessing.window_hu
    target = crop_geometry(case, preprocessing)
    reference = to_image(np.zeros(target.shape_zyx, np.uint8), target)
    # Clipping first keeps metal and air from bleeding through the blur and the interpolation.
    hu = to_image(np.clip(_at_reference(case, preprocessing), low, high).astype(np.float32), case.ct.geometry)
    hu = _blur_to(hu, preprocessing.spacing_mm)
    crop = sitk.GetArrayFromImage(sitk.Resample(hu, reference, sitk.Transform(), sitk.sitkLinear, low))
    if preprocessing.masked:
        mask = to_image(case.mask_zyx.astype(np.float32), case.ct.geometry)
        inside = sitk.GetArrayFromImage(sitk.Resample(mask, reference, sitk.Transform(), sitk.sitkLinear, 0.0))
        crop = np.where(inside >= 0.5, crop, np.float32(low))
    return np.asarray(crop, np.float32)


def as_input(hu_zyx: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """HU on the crop's grid as the network's input, shape (channels, z, y, x), values 0 to 1 over the window."""
    low, high = preprocessing.window_hu
    scaled = np.clip((hu_zyx - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return np.repeat(scaled[np.newaxis], preprocessing.channels, axis=0)  # (channels, z, y, x)


def _at_reference(case: L1Case, preprocessing: Preprocessing) -> NDArray[Any]:
    """The CT's HU, brought to the preprocessing's tube voltage where it names one."""
    if preprocessing.reference_kvp is None:
        return case.ct.array_zyx
    factor = to_voltage(case.ct.acquisition.kvp, preprocessing.reference_kvp)
    return case.ct.array_zyx if factor == 1.0 else case.ct.array_zyx * np.float32(factor)


def voltage_notes(acquisition: Acquisition, preprocessing: Preprocessing) -> list[QualityNote]:
    """What bringing the network's input to another tube voltage, or not being able to, means for the answer."""
    reference, kvp = preprocessing.reference_kvp, acquisition.kvp
    if reference is None or (kvp is not None and to_voltage(kvp, reference) == 1.0):
        return []
    if kvp is None:
        return [
            QualityNote(
                "network_voltage_assumed",
                Severity.WARNING,
                f"MedConv took this CT for one of {reference:g} kVp, because its tube voltage is unknown: at 100 kVp "
                f"bone would look {to_voltage(reference, 100.0) - 1.0:.0%} denser to it than it is.",
            )
        ]
    return [
        QualityNote(
            "network_voltage_corrected",
            Severity.INFO,
            f"MedConv saw HU times {to_voltage(kvp, reference):.2f}: what mineral attenuates at {reference:g} kVp, "
            f"against {kvp:g} kVp here. The HU that are shown are as scanned.",
        )
    ]


def crop_geometry(case: L1Case, preprocessing: Preprocessing) -> ImageGeometry:
    """The crop's grid in the patient: centred on L1, axes to left, posterior, superior."""
    spacing = preprocessing.spacing_mm
    half = (np.asarray(preprocessing.size_xyz) - 1) / 2.0 * spacing
    x, y, z = (float(v) for v in np.asarray(case.center_lps_mm) - half)
    return ImageGeometry(preprocessing.size_xyz, (spacing, spacing, spacing), (x, y, z))


def _blur_to(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Gaussian blur along each axis that is finer than `spacing_mm`, so that widths add up to it in quadrature."""
    for axis, own in enumerate(image.GetSpacing()):
        if own < 0.99 * spacing_mm and image.GetSize()[axis] >= 4:
            sigma = math.sqrt(spacing_mm**2 - own**2) / FWHM_PER_SIGMA
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    return image
