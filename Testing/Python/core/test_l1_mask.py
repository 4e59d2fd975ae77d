"""L1 out of label maps: the right voxels on the CT's grid, or a refusal by name."""

import numpy as np
import pytest
from core.phantom import grid, phantom

from medconv import l1_mask
from medconv.types import ImageGeometry, InputRefused, L1Mask, UsageError


def code_of(action, error=InputRefused):
    with pytest.raises(error) as caught:
        action()
    return caught.value.code


def test_the_label_is_cut_out_voxel_for_voxel(vertebra):
    mask = vertebra.mask
    assert np.array_equal(mask.full_array_zyx().astype(bool), vertebra.labels_zyx == 31)
    assert mask.block_zyx.shape < vertebra.labels_zyx.shape
    volume = np.count_nonzero(vertebra.labels_zyx) / 1000.0  # 1 mm voxels
    assert l1_mask.volume_ml(mask) == pytest.approx(volume)
    z, y, x = (i.mean() for i in np.nonzero(vertebra.labels_zyx))
    assert l1_mask.center_lps_mm(mask) == pytest.approx(np.add(vertebra.ct.geometry.origin_lps_mm, (x, y, z)))


def test_a_single_label_needs_no_number_and_several_do(vertebra):
    g = vertebra.ct.geometry
    only, _ = l1_mask.from_labels(vertebra.labels_zyx, g, None, g)
    assert np.array_equal(only.full_array_zyx(), vertebra.labels_zyx // 31)
    two = vertebra.labels_zyx.copy()
    two[0, 0, 0] = 30
    assert code_of(lambda: l1_mask.from_labels(two, g, None, g), UsageError) == "label_needed"


def test_an_absent_label_lists_those_there(vertebra):
    g = vertebra.ct.geometry
    with pytest.raises(InputRefused, match="it holds 31") as caught:
        l1_mask.from_labels(vertebra.labels_zyx, g, 20, g)
    assert caught.value.code == "label_absent"


def test_a_mask_on_another_grid_is_resampled_where_it_overlaps(vertebra):
    other = phantom(grid((1.0, 1.0, 2.0), (120.0, 130.0, 60.0)))
    mask, notes = l1_mask.from_labels(other.labels_zyx, other.ct.geometry, 31, vertebra.ct.geometry)
    assert [n.code for n in notes] == ["mask_resampled"]
    ours, true = mask.full_array_zyx().astype(bool), vertebra.labels_zyx == 31
    dice = 2 * (ours & true).sum() / (ours.sum() + true.sum())
    assert dice > 0.95


def test_a_mask_elsewhere_in_space_is_refused(vertebra):
    away = grid(center=(0.0, 0.0, 900.0))
    far = phantom(grid()).labels_zyx
    assert code_of(lambda: l1_mask.from_labels(far, away, 31, vertebra.ct.geometry)) == "mask_elsewhere"


def test_a_mask_that_leaves_the_ct_touches_its_border(vertebra):
    low = grid(field_mm=(160.0, 160.0, 60.0), center=(0.0, 0.0, -30.0))
    mask, _ = l1_mask.from_labels(vertebra.labels_zyx, vertebra.ct.geometry, 31, low)
    assert code_of(lambda: l1_mask.check(mask)) == "l1_touches_border"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_every_face_of_the_volume_is_a_border(vertebra, axis, end):
    labels = vertebra.labels_zyx == 31
    index = [50, 80, 80]
    index[axis] = end
    labels[tuple(index)] = True
    g = vertebra.ct.geometry
    mask = l1_mask.from_array(labels, g, g)
    assert l1_mask.touches_border(mask)
    assert not l1_mask.touches_border(vertebra.mask)


def test_two_halves_are_refused_and_stray_voxels_left_out(vertebra):
    g = vertebra.ct.geometry
    broken = vertebra.labels_zyx.copy()
    broken[54:57] = 0
    assert code_of(lambda: l1_mask.check(l1_mask.from_labels(broken, g, 31, g)[0])) == "l1_in_pieces"
    stray = vertebra.labels_zyx.copy()
    stray[20, 20, 20:23] = 31
    mask, notes = l1_mask.check(l1_mask.from_labels(stray, g, 31, g)[0])
    assert [n.code for n in notes] == ["stray_voxels_removed"]
    assert np.array_equal(mask.full_array_zyx(), vertebra.labels_zyx // 31)


@pytest.mark.parametrize("edge_mm", [20, 60])
def test_implausible_volumes_are_refused(edge_mm):
    g = ImageGeometry((100, 100, 100), (1.0, 1.0, 1.0), (0, 0, 0))
    cube = np.zeros((100, 100, 100), np.uint8)
    cube[10 : 10 + edge_mm, 10 : 10 + edge_mm, 10 : 10 + edge_mm] = 1
    assert code_of(lambda: l1_mask.check(l1_mask.from_array(cube, g, g))) == "l1_volume_implausible"


def test_an_empty_mask_is_refused():
    g = ImageGeometry((10, 10, 10), (1.0, 1.0, 1.0), (0, 0, 0))
    assert code_of(lambda: l1_mask.check(L1Mask(np.zeros((3, 3, 3), bool), (2, 2, 2), g))) == "mask_empty"
    assert code_of(lambda: l1_mask.from_array(np.zeros((10, 10, 10)), g, g)) == "label_absent"
