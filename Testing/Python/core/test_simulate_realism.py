"""How alike two CTs are, against scipy and hand-worked noise; and the command on a CT whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medconv import simulation_realism
from medconv.cli import main
from medconv.grid import to_image
from medconv.simulate.person import PersonSettings, draw_person
from medconv.simulate.person_ct import person_ct
from medconv.simulate.realism import FREQUENCY_STEP, HISTOGRAM_HU, Appearance, appearance, difference, power_spectrum
from medconv.types import CTVolume

COARSE = PersonSettings(21, kvp=120.0, slice_thickness_mm=3.0, kernel="soft", phase="native", dose=1.0)


@pytest.fixture(scope="module")
def known() -> tuple[CTVolume, np.ndarray]:
    """A simulated CT with 2 mm pixels in the place of a real one, and L1 in it."""
    person = draw_person(COARSE, 0)
    shown = person_ct(replace(person, scan=replace(person.scan, in_plane_spacing_mm=2.0)), (-60.0, 60.0))
    return shown.ct, shown.labels_zyx == 31


def test_white_noise_has_a_flat_spectrum_of_its_variance() -> None:
    rng = np.random.default_rng(0)
    patches = [20.0 * rng.standard_normal((24, 28)) + 100.0 for _ in range(300)]
    # SD 20 HU in pixels of 0.8 mm: 400·0.64 = 256 HU²·mm² at every frequency.
    spectrum = power_spectrum(patches, 0.8)
    np.testing.assert_allclose(spectrum[2:], 256.0, rtol=0.05)


def test_a_wave_shows_at_its_frequency() -> None:
    x = np.arange(40) * 0.5
    wave = np.tile(30.0 * np.sin(2.0 * np.pi * 0.3 * x), (40, 1))
    assert int(np.argmax(power_spectrum([wave], 0.5))) == int(0.3 / FREQUENCY_STEP)


def test_histogram_distance_is_scipys(known: tuple[CTVolume, np.ndarray]) -> None:
    from scipy.stats import wasserstein_distance

    one = appearance(*known)
    rng = np.random.default_rng(1)
    other_counts = rng.random(len(HISTOGRAM_HU) - 1)
    other = replace(one, histogram=other_counts / other_counts.sum())
    middle = (HISTOGRAM_HU[1:] + HISTOGRAM_HU[:-1]) / 2.0
    expected = wasserstein_distance(middle, middle, one.histogram, other.histogram)
    assert difference(one, [other])["histogram_distance_hu"] == pytest.approx(expected)


def test_a_ct_is_like_itself_and_unlike_a_noisier_one(known: tuple[CTVolume, np.ndarray]) -> None:
    ct, mask = known
    own = appearance(ct, mask)
    same = difference(own, [own])
    assert same["histogram_distance_hu"] == same["edge_rms_hu"] == 0.0
    assert {same[name] for name in same if "ratio" in name} == {1.0}
    noise = np.random.default_rng(0).normal(0.0, 30.0, ct.array_zyx.shape)
    noisy = appearance(CTVolume(ct.array_zyx + noise, ct.geometry, ct.acquisition), mask)
    changed = difference(own, [noisy])
    assert changed["core_sd_ratio"] > 1.3
    assert changed["soft_sd_ratio"] > 1.8
    assert changed["edge_rms_hu"] < 12.0  # the mean of many voxels hardly moves


def test_the_edge_rises_from_fat_to_the_shell_and_falls_to_marrow(known: tuple[CTVolume, np.ndarray]) -> None:
    found: Appearance = appearance(*known)
    outside, shell, marrow = found.edge_hu[0], found.edge_hu[3:6].max(), found.edge_hu[8]
    assert outside < marrow < shell
    assert marrow == pytest.approx(found.core_median_hu, abs=40.0)


def test_orientation_does_not_matter(known: tuple[CTVolume, np.ndarray]) -> None:
    from medconv.grid import geometry_of

    ct, mask = known
    turned = [sitk.DICOMOrient(to_image(a, ct.geometry), "RAS") for a in (ct.array_zyx, mask.astype(np.uint8))]
    hu, labels = (sitk.GetArrayFromImage(image) for image in turned)
    other = appearance(CTVolume(hu, geometry_of(turned[0])), labels.astype(bool))
    np.testing.assert_allclose(other.edge_hu, appearance(ct, mask).edge_hu, atol=1.0, equal_nan=True)
    np.testing.assert_array_equal(other.histogram, appearance(ct, mask).histogram)


def test_the_command_finds_a_simulated_ct_like_simulated_ones(
    known: tuple[CTVolume, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation_realism, "COMPARED", 2)
    ct, mask = known
    sitk.WriteImage(to_image(ct.array_zyx, ct.geometry), str(tmp_path / "ct.nii.gz"))
    sitk.WriteImage(to_image(mask.astype(np.uint8), ct.geometry), str(tmp_path / "mask.nii.gz"))
    files = ["--compare", str(tmp_path / "ct.nii.gz"), "--mask", str(tmp_path / "mask.nii.gz")]
    assert main(["simulate", *files, "--out", str(tmp_path / "out"), "--seed", "5"]) == 0
    document = json.loads((tmp_path / "out" / "realism.json").read_text())
    assert len(document["simulated"]) == 2
    assert document["difference"]["edge_rms_hu"] < 45.0
    assert 0.6 < document["difference"]["soft_sd_ratio"] < 1.7
    picture = sitk.ReadImage(str(tmp_path / "out" / "realism.png"))
    assert min(picture.GetSize()) > 800


def test_a_comparison_without_its_mask_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--compare", str(tmp_path / "ct.nii.gz")]) == 2
    assert "needs the mask of L1 and a folder" in capsys.readouterr().err
