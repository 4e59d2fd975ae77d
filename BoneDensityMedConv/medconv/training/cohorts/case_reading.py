"""A labelled case's files as the `L1Case` that measuring and cropping take, judged as the product judges a patient.

The authors' files hold L1 alone, everything outside being one constant value, and there is no mask: it is derived
from that constant (`mask_of_l1_alone`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from medconv import l1_mask, mask_fit, pipeline, volume_io
from medconv.hounsfield import CLIPPED_BELOW_HU, check_finite
from medconv.slices import check_slices
from medconv.training.cohorts.cases import LabelledCase
from medconv.types import BoolArray, CTVolume, InputRefused, L1Case, L1Mask, UsageError
from medconv.vertebral_body import VOLUME_RANGE_ML

SOFT_TISSUE_HU = 40.0
MASK_NEEDED = "Give L1's mask as masks/<SubjectID>.nii.gz."
KVP_TOLERANCE = 1.0


def read_case(case: LabelledCase, is_simulated: bool = False) -> L1Case:
    """Read and judge one case. Raises InputRefused as the product would for this CT and mask.

    is_simulated: the simulator made the CT, so that it is in HU; a neighbourhood of L1 is too small to tell.
    """
    return judge_case(case, volume_io.read_ct(case.ct), is_simulated)


def judge_case(case: LabelledCase, ct: CTVolume, is_simulated: bool = False) -> L1Case:
    """As `read_case`, with the CT read already."""
    ct = with_kvp(ct, case.kvp)
    if case.mask is None:
        ct, mask = l1_alone(ct)
        check_slices(ct)
        return pipeline.cut_out(ct, mask)
    mask = _read_mask(case, ct)
    known = is_simulated or ct.is_simulated
    if known:
        check_slices(ct)
        check_finite(ct)
    result = pipeline.cut_out(ct, mask) if known else pipeline.prepare(ct, mask)
    mask_fit.check_fit(result)
    return result


def l1_alone(ct: CTVolume) -> tuple[CTVolume, L1Mask]:
    """A CT that holds L1 alone, ready to be measured, and L1's mask. Raises InputRefused if it is not such a CT.

    Outside L1 comes soft tissue (40 HU) instead of the constant, so that the crop's blur meets at L1's edge about what
    it meets in a whole CT: in six simulated cases the two crops then differ by 9 to 20 HU on average, with −1024 HU by
    23 to 41. A margin is added, because such files are often cut to L1's own box.
    """
    mask = mask_of_l1_alone(ct)
    values = np.where(mask, ct.array_zyx, SOFT_TISSUE_HU).astype(np.float32)
    if not np.isfinite(values).all() or values[mask].max() < CLIPPED_BELOW_HU / 2:
        raise InputRefused(
            "not_hu",
            f"L1's values end at {np.nanmax(values[mask]):.0f}: not Hounsfield units, or bone has been clipped away.",
            "Use the original CT in HU, not a windowed or normalised copy.",
        )
    geometry = ct.geometry
    x, y, z = (float(v) for v in geometry.index_to_lps((-1, -1, -1)))
    width, height, depth = geometry.size_xyz
    geometry = replace(geometry, size_xyz=(width + 2, height + 2, depth + 2), origin_lps_mm=(x, y, z))
    padded = np.pad(values, 1, constant_values=SOFT_TISSUE_HU)
    alone = replace(ct, array_zyx=padded, geometry=geometry, keep_alive=None)
    return alone, l1_mask.from_array(np.pad(mask, 1), geometry, geometry, "the CT's constant background")


def mask_of_l1_alone(ct: CTVolume) -> BoolArray:
    """L1 in a CT whose every other voxel has one constant value, shape as the CT; holes inside L1 are L1.

    The constant is what all eight corners of the volume hold (any value, or NaN). Raises InputRefused
    ("not_l1_alone") if the corners differ, or what differs from them has not the volume of one vertebra: a whole CT
    without a mask.
    """
    values = ct.array_zyx
    corners = np.asarray(values[:: len(values) - 1, :: values.shape[1] - 1, :: values.shape[2] - 1]).ravel()
    if not (np.isnan(corners).all() or (corners == corners[0]).all()):
        raise InputRefused(
            "not_l1_alone",
            f"There is no mask, and the CT is not L1 alone: its corners hold {corners.min():g} to {corners.max():g}, "
            "not one constant value.",
            MASK_NEEDED,
        )
    differs = ~np.isnan(values) if np.isnan(corners[0]) else values != corners[0]
    # A voxel of margin joins what lies outside, so that only holes that are closed on all sides are filled.
    image = sitk.GetImageFromArray(np.pad(differs, 1).astype(np.uint8))
    mask = sitk.GetArrayFromImage(sitk.BinaryFillhole(image, fullyConnected=False))[1:-1, 1:-1, 1:-1].astype(bool)
    volume, (low, high) = np.count_nonzero(mask) * ct.geometry.voxel_volume_ml, VOLUME_RANGE_ML
    if not low <= volume <= high:
        raise InputRefused(
            "not_l1_alone",
            f"There is no mask, and the CT is not L1 alone: {volume:,.0f} ml of it differ from the value in its "
            f"corners ({corners[0]:g}); a whole vertebra has {low:.0f} to {high:.0f} ml.",
            MASK_NEEDED,
        )
    return mask


def _read_mask(case: LabelledCase, ct: CTVolume) -> L1Mask:
    assert case.mask is not None
    labels, geometry, _owner = volume_io.read_labels(case.mask)
    try:
        return l1_mask.from_labels(labels, geometry, case.label, ct.geometry)[0]
    except UsageError as error:
        remedy = "Say which label is L1 in the label sheet's column Label."
        raise InputRefused(error.code, error.message, remedy) from error


def with_kvp(ct: CTVolume, kvp: float | None) -> CTVolume:
    """The CT with the sheet's tube voltage where the file tells none. Raises InputRefused if the two differ."""
    own: Any = ct.acquisition.kvp
    if kvp is None or (own is not None and abs(own - kvp) <= KVP_TOLERANCE):
        return ct
    if own is not None:
        raise InputRefused(
            "kvp_contradicts",
            f"The CT was made with {own:g} kV by its file and with {kvp:g} kV by the label sheet.",
            "Mend the sheet; one of the two may belong to another CT.",
        )
    return replace(ct, acquisition=replace(ct.acquisition, kvp=kvp))
