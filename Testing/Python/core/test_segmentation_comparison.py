"""Overlap and surface distances: by hand, against a KD-tree, and on a real CT."""

from __future__ import annotations

import numpy as np
import pytest
from core.phantom import grid, phantom
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from medconv.segmentation_comparison import compare_blocks, compare_masks, compare_segmentations, structure_mask
from medconv.types import ImageGeometry, InputRefused, L1Mask, SpineSegmentation, UsageError
from medconv.vertebrae import read_label_map
from medconv.volume_io import read_labels

GEOMETRY = ImageGeometry((40, 40, 40), (0.8, 0.8, 2.5), (-10.0, 4.0, 300.0))


def box(start_zyx, size_zyx, geometry=GEOMETRY, source=""):
    return L1Mask(np.ones(size_zyx, bool), tuple(start_zyx[::-1]), geometry, source)


def by_kd_tree(a, b, spacing_zyx):
    """Dice, symmetric mean surface distance and 95 % Hausdorff distance from two clouds of surface voxels."""

    def surface(mask):
        padded = np.pad(mask, 1)
        return (np.argwhere(padded & ~binary_erosion(padded)) - 1) * spacing_zyx

    points = surface(a), surface(b)
    there, back = cKDTree(points[1]).query(points[0])[0], cKDTree(points[0]).query(points[1])[0]
    dice = 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
    return dice, np.concatenate([there, back]).mean(), max(np.percentile(there, 95), np.percentile(back, 95))


def test_a_box_moved_by_two_thick_slices_is_as_far_as_the_hand_says() -> None:
    # 3 x 4 x 3 voxels, moved by 2 of 3 slices. 34 of its 36 voxels are surface (two lie in the middle). Of each box,
    # 12 voxels have the other's surface 2 slices away, 10 one slice, 12 none: (12 * 5 + 10 * 2.5) / 34 = 2.5 mm.
    found = compare_masks(box((2, 3, 3), (3, 4, 3)), box((4, 3, 3), (3, 4, 3)))
    assert found.dice == pytest.approx(2 * 12 / 72)
    assert found.mean_surface_mm == pytest.approx(2.5)
    assert found.hausdorff95_mm == pytest.approx(5.0)
    assert found.volume_a_ml == found.volume_b_ml == pytest.approx(36 * 0.8 * 0.8 * 2.5 / 1000)
    assert found.centre_distance_mm == pytest.approx(5.0)


def test_one_voxel_and_another_are_their_distance_apart_along_every_axis() -> None:
    # 3 steps of 0.8, 4 of 0.8, 1 of 2.5 mm.
    found = compare_masks(box((5, 5, 5), (1, 1, 1)), box((6, 9, 8), (1, 1, 1)))
    distance = np.sqrt(2.4**2 + 3.2**2 + 2.5**2)
    assert found.dice == 0.0
    assert (found.mean_surface_mm, found.hausdorff95_mm, found.centre_distance_mm) == pytest.approx([distance] * 3)


def test_a_mask_is_no_distance_from_itself_even_where_it_fills_its_block() -> None:
    whole = np.ones((4, 5, 6), bool)
    found = compare_blocks(whole, whole, (1.0, 2.0, 3.0))
    assert (found.dice, found.mean_surface_mm, found.hausdorff95_mm, found.centre_distance_mm) == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 3.0), (1.5, 0.4, 0.9)])
def test_rough_masks_agree_with_a_kd_tree(spacing) -> None:
    rng = np.random.default_rng(3)
    z, y, x = np.indices((24, 30, 28))
    ball = (z - 12) ** 2 / 9**2 + (y - 15) ** 2 / 11**2 + (x - 14) ** 2 / 10**2
    a, b = (ball + 0.25 * rng.standard_normal(ball.shape) < size for size in (1.0, 0.8))
    found = compare_blocks(a, np.roll(b, 2, axis=1), spacing)
    expected = by_kd_tree(a, np.roll(b, 2, axis=1), spacing[::-1])
    assert (found.dice, found.mean_surface_mm, found.hausdorff95_mm) == pytest.approx(expected, rel=1e-5)


def test_order_only_swaps_the_volumes() -> None:
    one, two = box((2, 3, 3), (9, 9, 9)), box((5, 1, 4), (7, 12, 3))
    there, back = compare_masks(one, two), compare_masks(two, one)
    assert (there.dice, there.mean_surface_mm, there.hausdorff95_mm) == pytest.approx(
        (back.dice, back.mean_surface_mm, back.hausdorff95_mm)
    )
    assert (there.volume_a_ml, there.volume_b_ml) == (back.volume_b_ml, back.volume_a_ml)


def test_a_dice_of_a_bigger_phantom_is_the_share_of_its_voxels() -> None:
    mask = phantom(grid((1.5, 1.5, 2.0))).mask
    lower = L1Mask(mask.block_zyx[:-3], mask.start_xyz, mask.ct_geometry)
    n, m = np.count_nonzero(mask.block_zyx), np.count_nonzero(lower.block_zyx)
    assert compare_masks(mask, lower).dice == pytest.approx(2 * m / (n + m))


def segmentation(names, boxes, start_xyz=(0, 0, 0)):
    labels = np.zeros(GEOMETRY.shape_zyx, np.uint8)
    for label, (z, zz) in boxes.items():
        labels[z:zz, 10:20, 10:20] = label
    x, y, z = start_xyz
    return SpineSegmentation(labels[z:, y:, x:], start_xyz, GEOMETRY, names, "test")


def test_every_structure_is_compared_whatever_its_number_and_block() -> None:
    a = segmentation({1: "L2", 2: "L1", 3: "T12"}, {1: (5, 9), 2: (10, 14), 3: (15, 19)})
    b = segmentation({30: "L2", 31: "L1", 25: "sacrum"}, {30: (5, 9), 31: (11, 15), 25: (1, 3)}, (4, 6, 1))
    rows = compare_segmentations(a, b)
    assert [(r.name, r.only_in, r.a_in_b) for r in rows] == [
        ("T12", "a", ""),
        ("L1", "", "L1"),
        ("L2", "", "L2"),
        ("sacrum", "b", ""),
    ]
    assert [r.comparison is None for r in rows] == [True, False, False, True]
    assert rows[1].comparison.dice == pytest.approx(0.75)
    assert rows[1].comparison.centre_distance_mm == pytest.approx(2.5)
    assert rows[2].comparison.dice == 1.0


def test_levels_counted_differently_are_told_by_the_other_name() -> None:
    a = segmentation({1: "L2", 2: "L1"}, {1: (5, 9), 2: (10, 14)})
    b = segmentation({1: "L1", 2: "T12"}, {1: (5, 9), 2: (10, 14)})
    assert {r.name: r.a_in_b for r in compare_segmentations(a, b)} == {"T12": "", "L1": "T12", "L2": "L1"}


def test_what_cannot_be_compared_is_told() -> None:
    other = ImageGeometry((40, 40, 40), (0.8, 0.8, 2.5), (-10.0, 4.0, 301.0))
    with pytest.raises(UsageError, match="different voxel grids"):
        compare_masks(box((1, 1, 1), (2, 2, 2)), box((1, 1, 1), (2, 2, 2), other))
    with pytest.raises(InputRefused, match="empty"):
        compare_blocks(np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool), (1.0, 1.0, 1.0))


@pytest.mark.real_ct
def test_a_real_vertebra_and_its_body_agree_with_a_kd_tree(real_case) -> None:
    folder = real_case("abdomen_3mm_l1_complete")
    masks = []
    for name, numbering in (("totalseg", "totalsegmentator"), ("totalseg_vertebrae_pp_refined", "verse")):
        labels, geometry, _ = read_labels(folder / f"{name}.nii.gz")
        whole = SpineSegmentation(labels.astype(np.uint8), (0, 0, 0), geometry, read_label_map(numbering), "file")
        masks.append(structure_mask(whole, "L1"))
    assert masks[0] is not None
    assert masks[1] is not None
    found = compare_masks(*masks)
    full = [m.full_array_zyx().astype(bool) for m in masks]
    expected = by_kd_tree(*full, masks[0].ct_geometry.spacing_mm_xyz[::-1])
    assert (found.dice, found.mean_surface_mm, found.hausdorff95_mm) == pytest.approx(expected, rel=1e-5)
    assert 0.5 < found.dice < 1.0
