"""The standardised crop: where it is, what is in it, and that the way a CT is stored does not matter."""

from dataclasses import replace

import numpy as np
import pytest
from core.phantom import Phantom, grid, phantom, reoriented

from medconv import pipeline
from medconv.config import Preprocessing
from medconv.crop import crop_geometry, standardised_crop
from medconv.types import CTVolume

SETTINGS = Preprocessing(size_xyz=(64, 60, 48), spacing_mm=1.0, window_hu=(-200.0, 800.0), masked=False)


def crop_of(case: Phantom, settings: Preprocessing = SETTINGS):
    return standardised_crop(pipeline.prepare(case.ct, case.mask), settings)


def test_at_the_ct_s_own_spacing_and_grid_nothing_is_changed():
    case = phantom(noise_sd=25)
    prepared = pipeline.prepare(case.ct, case.mask)
    # Put the centre on a voxel so that the crop's voxels are the CT's.
    index = np.round(case.ct.geometry.lps_to_index(prepared.center_lps_mm)).astype(int)
    settings = Preprocessing(size_xyz=(41, 41, 31), spacing_mm=1.0, window_hu=(-1100.0, 1100.0), masked=False)
    on_voxel = replace(prepared, center_lps_mm=tuple(case.ct.geometry.index_to_lps(index)))
    crop = standardised_crop(on_voxel, settings)
    x, y, z = index
    expected = case.ct.array_zyx[z - 15 : z + 16, y - 20 : y + 21, x - 20 : x + 21]
    assert crop.shape == (1, 31, 41, 41)
    assert crop[0] * 2200 - 1100 == pytest.approx(expected, abs=0.01)


def test_the_grid_is_centred_on_l1_with_axes_left_posterior_superior(vertebra):
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    g = crop_geometry(case, SETTINGS)
    middle = g.index_to_lps((np.array(SETTINGS.size_xyz) - 1) / 2)
    assert middle == pytest.approx(case.center_lps_mm)
    assert g.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.parametrize("code", ["RAS", "PIR", "SAL"])
@pytest.mark.parametrize("masked", [True, False])
def test_storage_order_and_orientation_do_not_matter(code, masked):
    settings = Preprocessing(size_xyz=(48, 48, 32), spacing_mm=1.5, masked=masked)
    case = phantom(grid((0.9, 1.0, 1.25)), noise_sd=25)
    assert crop_of(reoriented(case, code), settings) == pytest.approx(crop_of(case, settings), abs=1e-4)


def test_masked_voxels_outside_l1_have_the_windows_lower_end(vertebra):
    masked = crop_of(vertebra, Preprocessing(size_xyz=(64, 60, 48), spacing_mm=1.0, masked=True))
    plain = crop_of(vertebra)
    inside = masked > 0
    # All of L1 (37.9 ml at 1 mm) that fits the field of view shows, unchanged; soft tissue (0.24) does not.
    assert np.array_equal(masked[inside], plain[inside])
    assert plain[~inside].min() >= 0
    assert not np.isclose(masked, (40 + 200) / 1000, atol=1e-3).any()


def test_window_maps_to_zero_and_one(vertebra):
    crop = crop_of(vertebra)
    assert crop.min() >= 0
    assert crop.max() <= 1
    assert np.isclose(crop, (150 + 200) / 1000, atol=1e-6).sum() > 5000  # trabecular bone
    assert crop.dtype == np.float32


def test_channels_repeat_the_grey_image(vertebra):
    three = crop_of(vertebra, Preprocessing(size_xyz=(32, 32, 32), spacing_mm=2.0, channels=3))
    assert three.shape == (3, 32, 32, 32)
    assert np.array_equal(three[0], three[1])
    assert np.array_equal(three[0], three[2])


def test_beyond_the_edge_of_the_ct_is_the_windows_lower_end():
    case = phantom(grid(field_mm=(70.0, 110.0, 46.0), center=(0.0, 15.0, -6.0)))
    crop = crop_of(case, Preprocessing(size_xyz=(64, 64, 64), spacing_mm=1.5, masked=False))
    assert (crop[0, 0] == 0).all()
    assert (crop[0, -1] == 0).all()


def test_fine_and_coarse_scans_of_the_same_bone_look_alike():
    settings = Preprocessing(size_xyz=(48, 48, 32), spacing_mm=1.5, masked=False)
    fine = crop_of(phantom(grid((0.5, 0.5, 0.75))), settings)
    same = crop_of(phantom(grid((1.5, 1.5, 1.5))), settings)
    naive = np.abs(fine - same)
    assert naive.mean() < 0.02
    middle = fine[0, 14:18, 10:16, 20:28]
    assert middle == pytest.approx(0.35, abs=0.01)


def test_metal_does_not_bleed_into_bone(vertebra):
    hu = vertebra.ct.array_zyx.astype(np.int32).copy()
    hu[50:60, 120:124, 78:82] = 30000
    metal = Phantom(CTVolume(hu, vertebra.ct.geometry, vertebra.ct.acquisition), vertebra.labels_zyx)
    assert crop_of(metal).max() <= 1.0
    assert np.abs(crop_of(metal) - crop_of(vertebra))[0, :, :30].max() < 1e-3
