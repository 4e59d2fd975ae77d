"""A mask that lies beside the bone must not give a confident answer."""

import itertools

import numpy as np
import pytest
from core.phantom import AIR_HU, CORTEX_HU, SOFT_HU, Phantom, grid, phantom, reoriented

from medconv import l1_mask, pipeline
from medconv.mask_fit import better_place, check_fit, edge_contrast_hu
from medconv.types import CTVolume, InputRefused
from medconv.volume_io import read_ct, read_labels


def shifted(case: Phantom, mm_zyx):
    labels = np.roll(case.labels_zyx, [round(mm) for mm in mm_zyx], (0, 1, 2))
    return pipeline.prepare(case.ct, Phantom(case.ct, labels).mask)


def test_a_mask_on_the_bone_fits(vertebra):
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    # The outer 2 mm are cortex (700 HU) with some trabecular bone (150), around it lies soft tissue (40).
    assert 400 < edge_contrast_hu(case) < 660
    assert check_fit(case) == []


@pytest.mark.parametrize("mm_zyx", [(0, -45, 0), (0, -38, 0)])
def test_a_mask_beside_the_bone_is_refused(vertebra, mm_zyx):
    with pytest.raises(InputRefused) as caught:
        check_fit(shifted(vertebra, mm_zyx))
    assert caught.value.code in ("mask_does_not_fit", "mask_displaced")


@pytest.mark.parametrize(
    ("mm_zyx", "way"),
    [
        ((9, 0, 0), "9 mm further down its edge"),
        ((-9, 0, 0), "9 mm further up its edge"),
        ((0, 6, 0), "6 mm further forward its edge"),
        ((0, -9, 0), "9 mm further back its edge"),
        ((0, 0, 9), "9 mm further to the patient's right its edge"),
        ((0, 0, -12), "12 mm further to the patient's left its edge"),
        ((21, 0, 0), "21 mm further down its edge"),
        ((0, -21, 0), "21 mm further back its edge"),
        ((0, 9, -9), "9 mm further to the patient's left and 9 mm further forward its edge"),
    ],
)
@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_a_displaced_mask_is_refused_with_the_way_back(vertebra, mm_zyx, way, code):
    moved = Phantom(vertebra.ct, np.roll(vertebra.labels_zyx, mm_zyx, (0, 1, 2)))
    moved = reoriented(moved, code)
    with pytest.raises(InputRefused, match=way) as caught:
        check_fit(pipeline.cut_out(moved.ct, moved.mask))
    assert caught.value.code == "mask_displaced"


def test_a_displaced_mask_is_told_where_the_ct_ends_beside_the_vertebra():
    case = phantom(grid(field_mm=(64.0, 100.0, 60.0), center=(0.0, 20.0, -5.0)))  # 9 mm of soft tissue at the sides
    assert check_fit(pipeline.cut_out(case.ct, case.mask)) == []
    moved = Phantom(case.ct, np.roll(case.labels_zyx, 8, axis=2))
    with pytest.raises(InputRefused) as caught:
        check_fit(pipeline.cut_out(moved.ct, moved.mask))
    assert caught.value.code == "mask_displaced"


@pytest.mark.parametrize("side", [-1, 1])
def test_a_faint_vertebra_is_not_given_up_for_a_cemented_neighbour(vertebra, side):
    # 37 HU of contrast; the neighbour lies 7 mm of disc away. With a search up to 26 mm both sides were refused.
    faint = np.where(vertebra.labels_zyx > 0, np.where(vertebra.ct.array_zyx == CORTEX_HU, 90, 60), SOFT_HU)
    faint[vertebra.ct.array_zyx == AIR_HU] = AIR_HU
    neighbour = np.roll(vertebra.labels_zyx > 0, 33 * side, axis=0)
    hu = np.where(neighbour & (vertebra.labels_zyx == 0), 1000, faint).astype(np.int16)
    case = Phantom(CTVolume(hu, vertebra.ct.geometry, vertebra.ct.acquisition), vertebra.labels_zyx)
    prepared = pipeline.prepare(case.ct, case.mask)
    assert 20 < edge_contrast_hu(prepared) < 50
    assert [note.code for note in check_fit(prepared)] == ["mask_fit_doubtful"]


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.0), (1.0, 1.0, 5.0)])
def test_thick_and_thin_slices_fit_alike(spacing):
    case = phantom(grid(spacing))
    assert check_fit(pipeline.prepare(case.ct, case.mask)) == []


@pytest.mark.real_ct
def test_on_the_real_ct_every_lumbar_mask_fits_and_none_does_when_moved(real_ct_dir):
    folder = real_ct_dir / "abdomen_3mm_l1_complete"
    ct = read_ct(folder / "example_ct.nii.gz")
    labels, geometry, _owner = read_labels(folder / "totalseg.nii.gz")
    for label in (27, 28, 29, 30, 31):
        mask, _ = l1_mask.from_labels(labels, geometry, label, ct.geometry)
        assert check_fit(pipeline.prepare(ct, mask)) == []
    for axis, voxels in itertools.product((0, 1, 2), (-7, -5, -3, -2, 2, 3, 5, 7)):
        moved = np.roll(labels == 31, voxels, axis)
        case = pipeline.prepare(ct, l1_mask.from_array(moved, geometry, ct.geometry))
        with pytest.raises(InputRefused) as caught:
            check_fit(case)
        assert caught.value.code == "mask_displaced"
        assert f": {abs(voxels) * 3} mm further" in caught.value.message


@pytest.mark.real_ct
def test_on_the_real_ct_a_mask_of_the_body_alone_is_not_called_displaced(real_ct_dir):
    folder = real_ct_dir / "abdomen_3mm_l1_complete"
    ct = read_ct(folder / "example_ct.nii.gz")
    labels, geometry, _owner = read_labels(folder / "totalseg_vertebrae_pp_refined.nii.gz")
    for label in (20, 21, 22, 23, 24):
        case = pipeline.prepare(ct, l1_mask.from_labels(labels, geometry, label, ct.geometry)[0])
        place = better_place(case)
        assert place is not None
        if label != 24:  # L5's lies in the soft tissue behind it by half, and was refused before
            assert not place.is_clearly_better
