"""A network sees what it was trained on, and its labels come back to where they were.

Oracles: totalsegmentator.resampling.change_spacing for the way there, a vertebra drawn with exact dimensions at 1 mm
for the way back.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from core.phantom import Phantom, grid, phantom, reoriented

from medconv.grid import to_image
from medconv.segmenters.resampling import ResampledBlock, canonical_block, labels_to_ct, nifti_image
from medconv.types import CTVolume, ImageGeometry

WHOLE = (0, 0, 0)
ORIENTATIONS = ("LPS", "RAS", "PIR", "ASL", "SRP")
OBLIQUE = tuple(
    (np.array([[1, 0, 0], [0, np.cos(0.26), -np.sin(0.26)], [0, np.sin(0.26), np.cos(0.26)]])).ravel().tolist()
)  # 15 degrees about the left-right axis


def noisy_ct(size_xyz=(23, 31, 17), spacing=(0.8, 0.9, 2.5), direction=OBLIQUE) -> CTVolume:
    """Nothing but noise: every voxel tells where it went."""
    geometry = ImageGeometry(size_xyz, spacing, (12.5, -40.0, 7.0), tuple(direction))
    return CTVolume(np.random.default_rng(3).integers(-1000, 1500, geometry.shape_zyx, np.int16), geometry)


def turned(ct: CTVolume, code: str) -> CTVolume:
    return reoriented(Phantom(ct, np.zeros(ct.array_zyx.shape, np.uint8)), code).ct


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def on_whole_grid(block: np.ndarray, start, geometry: ImageGeometry) -> np.ndarray:
    full = np.zeros(geometry.shape_zyx, np.uint8)
    x, y, z = start
    full[z : z + block.shape[0], y : y + block.shape[1], x : x + block.shape[2]] = block
    return full


@pytest.mark.parametrize("code", ORIENTATIONS)
@pytest.mark.parametrize("spacing_mm", [3.0, 1.5, 0.7])
def test_block_equals_what_totalsegmentator_makes_of_the_ct(code: str, spacing_mm: float) -> None:
    import nibabel
    from totalsegmentator import resampling

    ct = turned(noisy_ct(direction=np.eye(3).ravel()), code)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ct.geometry.matrix()
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(ct.array_zyx.transpose(2, 1, 0), affine))
    theirs = resampling.change_spacing(canonical, spacing_mm, order=1, dtype=np.int32)

    block = canonical_block(ct, WHOLE, ct.geometry.size_xyz, spacing_mm)

    ours = nifti_image(block)
    difference = np.abs(np.asarray(ours.dataobj, np.int32) - np.asarray(theirs.dataobj))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.03, "only where a value is whole but for the last bit"
    np.testing.assert_allclose(ours.header.get_zooms(), spacing_mm)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def test_package_does_not_resample_the_block_a_second_time() -> None:
    from totalsegmentator import resampling

    image = nifti_image(canonical_block(noisy_ct(), WHOLE, (23, 31, 17), 3.0))
    assert resampling.change_spacing(image, 3.0, order=1, dtype=np.int32) is image


def test_nifti_image_shares_the_blocks_memory() -> None:
    block = canonical_block(noisy_ct(), WHOLE, (23, 31, 17), 3.0)
    assert np.shares_memory(np.asanyarray(nifti_image(block).dataobj), block.array_zyx)


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_block_is_the_same_however_the_ct_is_stored(code: str) -> None:
    ct = noisy_ct()
    first = canonical_block(ct, WHOLE, ct.geometry.size_xyz, (1.0, 2.0, 3.0))
    other_ct = turned(ct, code)
    other = canonical_block(other_ct, WHOLE, other_ct.geometry.size_xyz, (1.0, 2.0, 3.0))
    assert np.array_equal(first.array_zyx, other.array_zyx)
    assert first.geometry.same_grid_as(other.geometry, 1e-3)


def test_blocks_axes_run_to_the_right_the_front_and_the_head() -> None:
    block = canonical_block(noisy_ct(direction=np.eye(3).ravel()), WHOLE, (23, 31, 17), 2.0)
    assert np.array_equal(np.reshape(block.geometry.direction, (3, 3)), np.diag([-1, -1, 1]))


def test_blocks_geometry_says_where_the_values_lie() -> None:
    """A ramp of HU along the patient's axes: each voxel's value is its place."""
    geometry = ImageGeometry((40, 30, 20), (0.9, 1.1, 2.0), (-300.0, 100.0, 50.0), tuple(OBLIQUE))
    z, y, x = np.indices(geometry.shape_zyx)
    places = geometry.index_to_lps(np.stack([x, y, z], axis=-1))
    ramp = CTVolume((places @ (3.0, -5.0, 7.0)).round().astype(np.int16), geometry)

    block = canonical_block(ramp, (5, 3, 2), (30, 20, 15), 2.7)

    z, y, x = np.indices(block.geometry.shape_zyx)
    expected = block.geometry.index_to_lps(np.stack([x, y, z], axis=-1)) @ (3.0, -5.0, 7.0)
    assert np.abs(block.array_zyx - expected).max() < 1.6, "rounding of the ramp and cutting of the result"


def test_block_in_the_middle_is_read_from_there_alone() -> None:
    ct = noisy_ct()
    inside = canonical_block(ct, (4, 5, 3), (12, 16, 9), 1.5)
    z, y, x = (slice(3, 12), slice(5, 21), slice(4, 16))
    cut = CTVolume(ct.array_zyx[z, y, x].copy(), ct.geometry.cut((4, 5, 3), (12, 16, 9)))
    alone = canonical_block(cut, WHOLE, (12, 16, 9), 1.5)
    assert np.array_equal(inside.array_zyx, alone.array_zyx)
    assert inside.geometry.same_grid_as(alone.geometry, 1e-4)


def test_what_is_no_number_becomes_air() -> None:
    hu = np.full((4, 5, 6), 40.0, np.float32)
    hu[2, 2, 2] = np.nan
    hu[1, 1, 1] = np.inf
    block = canonical_block(CTVolume(hu, ImageGeometry((6, 5, 4), (1.0, 1.0, 1.0), (0, 0, 0))), WHOLE, (6, 5, 4), 1.0)
    assert block.array_zyx.min() == -1000
    assert np.count_nonzero(block.array_zyx == 40) == 4 * 5 * 6 - 2


def test_memory_grows_with_the_block_and_not_with_the_ct() -> None:
    """A 400 x 300 x 300 CT (72 MB): its whole at 3 mm takes less than a quarter of it, and never float64."""
    geometry = ImageGeometry((300, 300, 400), (0.8, 0.8, 1.0), (0.0, 0.0, 0.0))
    ct = CTVolume(np.zeros(geometry.shape_zyx, np.int16), geometry)
    tracemalloc.start()
    try:
        canonical_block(ct, WHOLE, geometry.size_xyz, 3.0)
        assert tracemalloc.get_traced_memory()[1] < ct.array_zyx.nbytes / 4
    finally:
        tracemalloc.stop()


# --- labels back onto the CT ----------------------------------------------------------------------------------------


def resampled_truth(case: Phantom, spacing_mm: float) -> tuple[np.ndarray, ImageGeometry]:
    """The phantom's labels as a perfect network at that spacing would give them."""
    block: ResampledBlock = canonical_block(
        CTVolume(case.labels_zyx.astype(np.int16) * 100, case.ct.geometry), WHOLE, case.ct.geometry.size_xyz, spacing_mm
    )
    return np.where(block.array_zyx >= 1550, 31, 0).astype(np.uint8), block.geometry


@pytest.fixture(scope="module")
def fine() -> Phantom:
    return phantom(grid(spacing=(0.8, 0.8, 1.0)))


@pytest.mark.parametrize(("spacing_mm", "at_least"), [(3.0, 0.91), (1.5, 0.965)])
def test_a_vertebra_survives_the_way_to_a_coarse_grid_and_back(fine, spacing_mm: float, at_least: float) -> None:
    labels, geometry = resampled_truth(fine, spacing_mm)
    block, start = labels_to_ct(labels, geometry, fine.ct.geometry, {31: "L1"})
    back = on_whole_grid(block, start, fine.ct.geometry) == 31
    nearest = nearest_neighbour(labels, geometry, fine.ct.geometry) == 31
    truth = fine.labels_zyx == 31
    assert dice(back, truth) >= at_least
    assert dice(back, truth) > dice(nearest, truth), "smooth boundaries must be better than stairs"
    assert abs(np.count_nonzero(back) / np.count_nonzero(truth) - 1) < 0.06


def nearest_neighbour(labels: np.ndarray, geometry: ImageGeometry, target: ImageGeometry) -> np.ndarray:
    reference = to_image(np.zeros(target.shape_zyx, np.uint8), target)
    return sitk.GetArrayFromImage(
        sitk.Resample(to_image(labels, geometry), reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    )


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_labels_come_back_to_the_same_place_in_every_orientation(code: str) -> None:
    case = reoriented(phantom(), code)
    labels, geometry = resampled_truth(case, 2.0)
    block, start = labels_to_ct(labels, geometry, case.ct.geometry, {31: "L1"})
    assert dice(on_whole_grid(block, start, case.ct.geometry) == 31, case.labels_zyx == 31) > 0.93


def test_labels_come_back_to_an_oblique_ct() -> None:
    size, spacing = (110, 110, 80), (1.5, 1.5, 1.5)
    corner = -(np.reshape(OBLIQUE, (3, 3)) @ ((np.array(size) - 1) / 2 * 1.5))
    case = phantom(ImageGeometry(size, spacing, tuple(corner.tolist()), tuple(OBLIQUE)))
    labels, geometry = resampled_truth(case, 3.0)
    block, start = labels_to_ct(labels, geometry, case.ct.geometry, {31: "L1"})
    assert dice(on_whole_grid(block, start, case.ct.geometry) == 31, case.labels_zyx == 31) > 0.9


def test_labels_come_back_from_a_grid_with_other_axes() -> None:
    """A label map on straight axes onto an oblique CT: the same vertebra, drawn on both by its formula."""
    straight = phantom(grid(spacing=(1.0, 1.0, 1.0)))
    size = (130, 130, 90)
    corner = -(np.reshape(OBLIQUE, (3, 3)) @ ((np.array(size) - 1) / 2 * 1.2))
    oblique = phantom(ImageGeometry(size, (1.2, 1.2, 1.2), tuple(corner.tolist()), tuple(OBLIQUE)))
    block, start = labels_to_ct(straight.labels_zyx, straight.ct.geometry, oblique.ct.geometry, {31: "L1"})
    assert dice(on_whole_grid(block, start, oblique.ct.geometry) == 31, oblique.labels_zyx == 31) > 0.97


def test_touching_labels_meet_without_a_gap_and_without_overlap() -> None:
    coarse = np.zeros((10, 12, 12), np.uint8)
    coarse[1:5, 2:10, 2:10] = 30
    coarse[5:9, 2:10, 2:10] = 31
    geometry = ImageGeometry((12, 12, 10), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    ct_geometry = ImageGeometry((36, 36, 30), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0))
    block, start = labels_to_ct(coarse, geometry, ct_geometry, {30: "L2", 31: "L1"})
    full = on_whole_grid(block, start, ct_geometry)
    column = full[:, 18, 18]
    assert column.tolist() == [0] * 3 + [30] * 12 + [31] * 12 + [0] * 3


def test_block_is_no_larger_than_what_was_found_and_other_labels_are_dropped() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:8, 6:10, 7:12] = 31
    labels[0:2, 0:2, 0:2] = 99
    geometry = ImageGeometry((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    block, start = labels_to_ct(labels, geometry, geometry, {31: "L1"})
    assert start == (7, 6, 5)
    assert block.dtype == np.uint8
    assert np.array_equal(block, labels[5:8, 6:10, 7:12])


def test_nothing_found_is_one_voxel_of_background() -> None:
    geometry = ImageGeometry((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    block, start = labels_to_ct(np.zeros((20, 20, 20), np.uint8), geometry, geometry, {31: "L1"})
    assert (block.tolist(), start) == ([[[0]]], (0, 0, 0))


def test_labels_outside_of_the_ct_are_not_placed() -> None:
    labels = np.full((4, 4, 4), 31, np.uint8)
    geometry = ImageGeometry((4, 4, 4), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0))
    ct_geometry = ImageGeometry((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert not labels_to_ct(labels, geometry, ct_geometry, {31: "L1"})[0].any()
