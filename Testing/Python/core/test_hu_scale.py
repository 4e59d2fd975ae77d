"""Wrong rescale slopes and intercepts are refused with their cause; odd but right CTs are not."""

from __future__ import annotations

import numpy as np
import pytest

from medconv.hounsfield import check_hounsfield
from medconv.types import Acquisition, CTVolume, ImageGeometry, InputRefused, Severity
from medconv.volume_io import read_ct

AIR, LUNG, FAT, SOFT, BONE = -1000.0, -820.0, -100.0, 50.0, 300.0


def trunk(noise_sd=15.0, fat=FAT, soft=SOFT, air=True, lung=False, seed=0) -> np.ndarray:
    """HU of a drawn trunk, shape (z, y, x): a disc of soft tissue in a ring of fat, bone with a tail to 1500 HU."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices((40, 80, 80))
    radius = np.hypot(y - 39.5, x - 39.5)
    hu = np.where(radius < 26, soft, fat).astype(np.float32)
    if lung:
        hu[(np.hypot(y - 39.5, x - 28) < 11)] = LUNG
        hu[(np.hypot(y - 39.5, x - 28) < 1.5)] = AIR
        hu[hu == LUNG] = rng.normal(LUNG, 75, np.count_nonzero(hu == LUNG))
    bone = np.hypot(y - 55, x - 39.5) < 6
    hu[bone] = 80 + rng.exponential(250, np.count_nonzero(bone)).clip(0, 1400)
    hu[radius >= 36] = AIR if air else fat
    return (hu + rng.normal(0, noise_sd, hu.shape)).round()


def judged(values: np.ndarray) -> list[str]:
    """Codes of warnings, or ["refused", code, message]."""
    grid = ImageGeometry(values.shape[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    try:
        notes = check_hounsfield(CTVolume(values, grid, Acquisition(modality="CT", kvp=120.0)))
    except InputRefused as refusal:
        return ["refused", refusal.code, refusal.message]
    return [note.code for note in notes if note.severity is not Severity.INFO]


@pytest.mark.parametrize("shift", [-300, -200, -100, 100, 140, 170, 200, 300, 400, 500, 700, 1000, 1024])
def test_a_shifted_scale_is_refused_with_the_shift(shift):
    found = judged(trunk() + shift)
    assert found[:2] == ["refused", "not_hu"]
    told = float(found[2].rsplit("shifted by ", 1)[1].rstrip("."))
    assert told == pytest.approx(shift, abs=12)


@pytest.mark.parametrize("slope", [0.5, 0.6, 0.7, 0.8, 1.2, 1.35, 1.5, 1.7, 2.0])
def test_a_stretched_scale_is_refused_with_the_factor(slope):
    found = judged(trunk() * slope)
    assert found[:2] == ["refused", "not_hu"]
    assert float(found[2].split("multiplied by ")[1].split()[0].rstrip(".")) == pytest.approx(slope, abs=0.03)


@pytest.mark.parametrize("change", [lambda hu: hu * 0.9, lambda hu: hu * 1.1])
def test_a_slightly_wrong_scale_is_warned_of(change):
    assert judged(change(trunk())) == ["air_not_minus_1000"]


@pytest.mark.parametrize("shift", [-200, 100, 140, 200])
def test_a_shift_is_found_where_the_background_was_set_to_a_constant(shift):
    hu = trunk()
    for constant in (0, -1024, -2000):
        values = np.where(hu < -500, constant, hu + shift)
        assert judged(values)[:2] == ["refused", "not_hu"], constant


@pytest.mark.parametrize("shift", [-200, -100, 100, 200])
def test_a_shift_is_found_in_a_crop_without_air(shift):
    assert judged(trunk(air=False) + shift)[:2] == ["refused", "not_hu"]


RIGHT = {
    "plain": trunk(),
    "low voltage": trunk(fat=-115, soft=62),
    "contrast": trunk(soft=95),
    "noisy": trunk(noise_sd=60),
    "noisy, air cut off at -1024": trunk(noise_sd=60).clip(-1024),
    "lung": trunk(lung=True),
    "lung, no air around": trunk(air=False, lung=True),
    "body alone": trunk(air=False),
    "noisy body alone": trunk(air=False, noise_sd=60),
    "a child without fat": trunk(fat=40),
    "air at -1024": np.where(trunk() < -900, -1024, trunk()),
    "metal": np.where(trunk() > 900, 3071, trunk()),
    "12 bits": trunk().clip(-1024, 3071),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_scale_is_left_alone(name):
    assert judged(RIGHT[name]) == []


@pytest.mark.parametrize("padding", [-32768, -3024, -2000, -1200, -1024, 0])
@pytest.mark.parametrize("air", [True, False])
def test_padding_is_not_air(padding, air):
    hu = trunk(air=air)
    _, y, x = np.indices(hu.shape)
    hu[np.hypot(y - 39.5, x - 39.5) > 45] = padding
    assert judged(hu) == []


@pytest.mark.parametrize("limit", [400, 500, 600, 800, 1000])
def test_clipped_bone_is_refused_and_told_by_its_pile(limit):
    found = judged(np.minimum(trunk(), limit))
    assert found[:2] == ["refused", "hu_clipped"]
    assert str(limit) in found[2]


def test_what_cant_be_checked_is_said_without_a_warning():
    values = np.random.default_rng(1).normal(0, 90, (40, 40, 40)) + 600.0 * (np.indices((40, 40, 40))[0] == 3)
    grid = ImageGeometry((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    notes = check_hounsfield(CTVolume(values, grid, Acquisition(modality="CT", kvp=120.0)))
    assert [(note.code, note.severity) for note in notes] == [("hu_scale_unchecked", Severity.INFO)]


def spine_crop(lung_sd=30.0) -> np.ndarray:
    """HU around the spine, shape (z, y, x): even lung in front at one side, no air, no windpipe."""
    hu = trunk(air=False, soft=52, fat=-98)
    lung = np.index_exp[:25, :34, :30]
    hu[lung] = np.random.default_rng(2).normal(-840, lung_sd, hu[lung].shape)
    return hu


def test_even_lung_in_a_crop_without_air_is_not_refused_as_air_on_a_wrong_scale():
    assert judged(spine_crop()) == ["air_not_minus_1000"]


@pytest.mark.real_ct
@pytest.mark.parametrize(("first", "end"), [(84, 112), (91, 111)])
def test_real_lung_in_crops_around_the_spine_is_not_refused(real_ct_dir, first, end):
    ct = read_ct(real_ct_dir / "abdomen_3mm_l1_complete" / "example_ct.nii.gz")
    assert judged(ct.array_zyx[first:end, 16:56, 38:78].astype(float)) == ["air_not_minus_1000"]


def test_vessels_with_contrast_and_bone_are_not_fat_and_soft_tissue_on_a_wrong_scale():
    shares = {-962: 0.3, 82: 0.4, 318: 0.18, 488: 0.12}  # the peaks of an aorta with contrast, little fat around it
    rng = np.random.default_rng(3)
    means = rng.choice(list(shares), (40, 60, 60), p=list(shares.values()))
    assert judged(means + rng.normal(0, 20, means.shape) + 900 * (rng.random(means.shape) < 0.002)) == []
