"""The check that tells simulated CTs from real ones: what it measures by hand, and what it says on both kinds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medconv.segmenters.domain import check_domain, mixed_share
from medconv.simulate import SimulatedCase, simulate_lumbar_ct
from medconv.types import CTVolume, ImageGeometry

REAL_CASES = (
    ("abdomen_3mm_l1_complete", "example_ct.nii.gz"),
    ("aorta_1.5mm_l1_truncated", "ct_cropped.nii.gz"),
    ("dicom_thorax_l1_absent", "example_ct_dicom"),
    ("lumbar_l3_subregions", "sub-ct_label-22_ct.nii.gz"),
)


def volume(array_zyx: np.ndarray, spacing_mm: float = 3.0) -> CTVolume:
    z, y, x = array_zyx.shape
    return CTVolume(array_zyx, ImageGeometry((x, y, z), (spacing_mm,) * 3, (0.0, 0.0, 0.0)))


def read_any(path: Path) -> CTVolume:
    """As the product reads it, and where that refuses the file (too small, not HU in its eyes), by SimpleITK."""
    import SimpleITK as sitk

    from medconv import volume_io
    from medconv.grid import geometry_of
    from medconv.types import MedConvError

    try:
        return volume_io.read_ct(path)
    except MedConvError:
        image = sitk.ReadImage(str(path))
        return CTVolume(sitk.GetArrayFromImage(image), geometry_of(image))


@pytest.fixture(scope="module")
def domain(repository: Path) -> dict[str, Any]:
    """What the shipped segmenter's folder says about simulated CTs."""
    return json.loads((repository / "model_weights" / "medconv-sim-vertebrae" / "domain.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def simulated() -> SimulatedCase:
    """One whose seed is not among those that domain.json was made from."""
    return simulate_lumbar_ct(2000, in_plane_spacing_mm=1.5, slice_thickness_mm=3.0, field_of_view_mm=(-80.0, 80.0))


def test_share_is_that_of_the_patches_between_fat_and_water() -> None:
    # Ten rows of fat, ten of a mixture, ten of muscle, 30 columns, 4 slices.
    rows = np.repeat([-100, -40, 60], 10)
    array = np.broadcast_to(rows[None, :, None], (4, 30, 30)).astype(np.int16)
    # Patches of 3 x 3 have their middle in rows 1 to 28: eight rows inside each tissue and two on each border, whose SD
    # is sqrt(2/9)·60 = 28.3 HU between fat and mixture (even) and sqrt(2/9)·100 = 47.1 HU between mixture and muscle.
    # The even border rows average -80 (no mixture) and -60 HU (one). Even: 3·8 + 2 = 26, mixed: 8 + 1 = 9.
    assert mixed_share(volume(array)) == pytest.approx(100.0 * 9 / 26)


def test_finer_voxels_are_averaged_first() -> None:
    coarse = np.repeat([-100, -40, 60], 10)[None, :, None] * np.ones((4, 1, 30))
    fine = np.kron(coarse, np.ones((2, 2, 2))).astype(np.int16)
    assert mixed_share(volume(fine, 1.5)) == pytest.approx(mixed_share(volume(coarse.astype(np.int16))))


def test_storage_order_changes_nothing(simulated: SimulatedCase) -> None:
    ct = simulated.ct
    x, y, z = ct.geometry.size_xyz
    a, b, c = ct.geometry.spacing_mm_xyz
    # Stored with slices along the patient's x: voxel axes (x, y, z) of the file point to S, P, L.
    geometry = replace(ct.geometry, size_xyz=(z, y, x), spacing_mm_xyz=(c, b, a), direction=(0, 0, 1, 0, 1, 0, 1, 0, 0))
    turned = CTVolume(np.ascontiguousarray(ct.array_zyx.transpose(2, 1, 0)), geometry)
    np.testing.assert_allclose(turned.geometry.index_to_lps([3, 2, 1]), ct.geometry.index_to_lps([1, 2, 3]))
    assert mixed_share(turned) == pytest.approx(mixed_share(ct), rel=0.03)


def test_a_simulated_ct_is_accepted(simulated: SimulatedCase, domain: dict[str, Any]) -> None:
    assert check_domain(simulated.ct, domain) == ""


def test_fat_in_muscle_makes_a_simulated_ct_look_real(simulated: SimulatedCase, domain: dict[str, Any]) -> None:
    """Ten percent of its soft tissue replaced by a mixture, with the noise left as it is."""
    array = simulated.ct.array_zyx.copy()
    rng = np.random.default_rng(0)
    corners = rng.integers(0, np.array(array.shape) - (5, 12, 12), size=(900, 3))
    for z, y, x in corners:
        part = array[z : z + 5, y : y + 12, x : x + 12]
        if (np.abs(part) < 150).all():
            part += np.int16(-35) - np.int16(part.mean())
    sentence = check_domain(replace(simulated.ct, array_zyx=array), domain)
    assert sentence.startswith(f"{mixed_share(replace(simulated.ct, array_zyx=array)):.1f} % of its even soft tissue")
    assert sentence.endswith("% do.")


@pytest.mark.parametrize("array", [np.full((20, 20, 20), -1000, np.int16), np.zeros((1, 2, 2), np.int16)])
def test_too_little_tissue_is_said_and_not_accepted(array: np.ndarray, domain: dict[str, Any]) -> None:
    assert math.isnan(mixed_share(volume(array)))
    assert check_domain(volume(array), domain) == "It shows too little soft tissue to compare it with simulated CTs."


@pytest.mark.parametrize("seed", range(2001, 2009))
def test_held_out_scans_of_all_settings_are_accepted(seed: int, domain: dict[str, Any]) -> None:
    """Eight of forty; all forty were looked at when domain.json was made (see the model card)."""
    from medconv.training.vertebrae.vertebra_segmenter_evaluation import random_scan

    assert check_domain(random_scan(seed, (60.0, 90.0)).ct, domain) == ""


@pytest.mark.parametrize(("case", "name"), REAL_CASES)
def test_real_cts_are_refused_with_a_margin(
    real_case: Callable[[str], Path], domain: dict[str, Any], case: str, name: str
) -> None:
    ct = read_any(real_case(case) / name)
    assert check_domain(ct, domain) != ""
    assert mixed_share(ct) > 1.2 * domain["mixed_share_percent"]["limit"]
