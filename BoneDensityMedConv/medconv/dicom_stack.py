"""Do the slices of a DICOM series make an even stack, at right angles? If not, which of them does not fit, and how."""

from __future__ import annotations

import numpy as np

from medconv.types import FloatArray, InputRefused

GAP_TOLERANCE = 0.1  # of the median gap
TILT_TOLERANCE_DEG = 0.5


def check_stack(positions_lps_mm: FloatArray, orientations: FloatArray, pixel_spacings: FloatArray) -> None:
    """Raise InputRefused unless the slices are alike, parallel, evenly spaced and stacked at right angles.

    positions_lps_mm: shape (slices, 3), in slice order. orientations: shape (slices, 6), row and column directions.
    pixel_spacings: shape (slices, 2), millimetres.
    """
    if np.abs(pixel_spacings - pixel_spacings[0]).max() > 1e-3 * pixel_spacings[0].max():
        raise InputRefused(
            "slices_differ", "The slices of the series have different pixel sizes.", "Export the series again."
        )
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise InputRefused(
            "slices_not_parallel",
            "The slices of the series are not parallel (a scout image among them?).",
            "Choose a series of parallel slices.",
        )
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    steps = np.diff(positions_lps_mm, axis=0)
    gaps = steps @ normal
    median = float(np.median(np.abs(gaps)))
    if median < 1e-3 or np.min(np.abs(gaps)) < 1e-3:
        at = int(np.argmin(np.abs(gaps)))
        raise InputRefused(
            "slices_repeated",
            f"Slices {at + 1} and {at + 2} lie at the same place: the series mixes phases or reconstructions.",
            "Split the series, or export a single phase.",
        )
    worst = int(np.argmax(np.abs(np.abs(gaps) - median)))
    if abs(abs(gaps[worst]) - median) > GAP_TOLERANCE * median:
        kind = "slices are missing" if abs(gaps[worst]) > 1.5 * median else "the spacing is uneven"
        raise InputRefused(
            "slices_uneven",
            f"Between slices {worst + 1} and {worst + 2} lie {abs(gaps[worst]):.2f} mm, elsewhere {median:.2f} mm: "
            f"{kind}.",
            "Export the complete series again.",
        )
    _check_straight(positions_lps_mm, normal, pixel_spacings[0])


def _check_straight(positions_lps_mm: FloatArray, normal: FloatArray, pixel_spacing: FloatArray) -> None:
    """Refuse a tilted stack, and one in which a slice lies beside the line of the others."""
    whole = positions_lps_mm[-1] - positions_lps_mm[0]
    tilt = np.degrees(np.arccos(np.clip(abs(whole @ normal) / np.linalg.norm(whole), 0, 1)))
    if tilt > TILT_TOLERANCE_DEG:
        raise InputRefused(
            "gantry_tilt",
            f"The slices were taken with the gantry tilted by {tilt:.1f} degrees.",
            "Use a series without tilt, or correct it first (in Slicer: DICOM import, acquisition geometry "
            "regularisation).",
        )
    along = (positions_lps_mm - positions_lps_mm[0]) @ normal
    expected = positions_lps_mm[0] + np.outer(along / along[-1], whole)
    aside = np.linalg.norm(positions_lps_mm - expected, axis=1)
    if aside.max() > 0.5 * pixel_spacing.min():
        raise InputRefused(
            "slices_shifted",
            f"Slice {int(aside.argmax()) + 1} lies {aside.max():.1f} mm beside the line of the others.",
            "Export the series again; if the table moved, use another reconstruction.",
        )
