"""A mask that lies beside the bone must not give a confident answer."""

import numpy as np
import pytest
from core.phantom import Phantom, grid, phantom

from medconv import l1_mask, pipeline
from medconv.mask_fit import check_fit, edge_contrast_hu
from medconv.types import InputRefused
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
    assert caught.value.code == "mask_does_not_fit"


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
    for voxels in ((0, 3, 0), (0, -3, 0), (0, 0, 3), (0, 0, 6)):
        moved = np.roll(labels == 31, voxels, (0, 1, 2))
        case = pipeline.prepare(ct, l1_mask.from_array(moved, geometry, ct.geometry))
        try:
            codes = [n.code for n in check_fit(case)]
        except InputRefused as refusal:
            codes = [refusal.code]
        assert codes in (["mask_fit_doubtful"], ["mask_does_not_fit"])
