"""What an epoch shows: the same for the same seed, balanced where it says so, and no value invented."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medconv.training.parts import sampling
from medconv.training.parts.sampling import NO_AUGMENTATION, Augmentation, EpochPlan, augment, batch, plan_epoch
from medconv.types import UsageError

CLASSES = np.repeat([0, 1, 2], [60, 30, 10])
WINDOW = (-200.0, 800.0)
STILL = {"mirror": False, "shift_voxels": 0}


def crops(count: int = 4, shape: tuple[int, ...] = (1, 9, 11, 10)) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (count, *shape)).astype(np.uint8)


def test_natural_shows_everyone_once() -> None:
    plan = plan_epoch("natural", CLASSES, 7, 0)
    assert sorted(plan.indices) == list(range(100))
    assert plan.augmented.all()
    assert not sampling.is_balanced("natural")


def test_resample_draws_each_class_equally_often_whatever_its_size() -> None:
    plan = plan_epoch("resample", np.repeat([0, 1, 2], [6000, 3000, 300]), 7, 0)
    assert len(plan) == 9300
    share = np.bincount(np.repeat([0, 1, 2], [6000, 3000, 300])[plan.indices]) / 9300
    assert share == pytest.approx([1 / 3] * 3, abs=4 * np.sqrt(2 / 9 / 9300))  # four standard errors
    osteoporosis = plan.indices[plan.indices >= 9000]
    assert len(set(osteoporosis.tolist())) > 290  # every one of the 300 has its turn: 10 each on average
    assert sampling.is_balanced("resample")


def test_balaug_repeats_the_smaller_classes_evenly_and_marks_the_repetitions() -> None:
    plan = plan_epoch("balaug", CLASSES, 7, 0)
    assert np.bincount(CLASSES[plan.indices]).tolist() == [60, 60, 60]
    assert sorted(plan.indices[~plan.augmented]) == list(range(100))
    times = np.bincount(plan.indices)
    assert set(times[:60]) == {1}
    assert set(times[60:90]) == {2}
    assert set(times[90:]) == {6}
    assert sampling.is_balanced("balaug")
    uneven = plan_epoch("balaug", np.array([0] * 7 + [1] * 3), 7, 0)
    assert sorted(np.bincount(uneven.indices)[7:]) == [2, 2, 3]
    with pytest.raises(UsageError, match="no sampling 'smote'"):
        plan_epoch("smote", CLASSES, 0, 0)


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_an_epoch_depends_on_seed_and_number_only(name: str) -> None:
    plans = [plan_epoch(name, CLASSES, *key).indices.tolist() for key in ((1, 2), (1, 2), (1, 3), (2, 2))]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2] != plans[3]


def test_a_position_is_varied_alike_in_whatever_batch_it_comes() -> None:
    everything = Augmentation(True, 2, 10.0, 0.1, 5.0, 0.02, 3.0)
    stored, plan = crops(6), EpochPlan(np.array([5, 0, 3, 3, 1]), np.array([True, True, True, True, False]))
    whole = batch(stored, plan, range(5), everything, WINDOW, seed=1, epoch=2)
    assert (whole.shape, whole.dtype) == ((5, 1, 9, 11, 10), np.float32)
    assert 0.0 <= whole.min() <= whole.max() <= 1.0
    parts = [batch(stored, plan, p, everything, WINDOW, 1, 2) for p in ([4, 1], [0], [2, 3])]
    np.testing.assert_array_equal(whole[[4, 1, 0, 2, 3]], np.concatenate(parts))
    assert not np.array_equal(whole[2], whole[3])  # the same patient twice, varied twice
    np.testing.assert_array_equal(whole[4], stored[1] / np.float32(255))  # not to be varied
    other = batch(stored, plan, range(5), everything, WINDOW, seed=1, epoch=3)
    assert not np.array_equal(whole[0], other[0])


def test_without_augmentation_a_crop_stays_as_it_is() -> None:
    (crop,) = crops(1)
    for seed in range(5):
        same = augment(crop, NO_AUGMENTATION, WINDOW, np.random.default_rng(seed))
        np.testing.assert_array_equal(same, crop / np.float32(255))


def test_mirroring_and_shifting_move_and_change_no_value() -> None:
    crop = np.zeros((1, 8, 9, 10), np.uint8)
    crop[0, 4, 4, 3] = 200
    seen = set()
    for seed in range(80):
        moved = augment(crop, Augmentation(True, 1), WINDOW, np.random.default_rng(seed))
        assert moved.sum() == pytest.approx(200 / 255)
        seen.add(tuple(int(i[0]) for i in np.nonzero(moved)[1:]))
    z, y, x = (set(values) for values in zip(*seen, strict=True))
    assert (z, y) == ({3, 4, 5}, {3, 4, 5})
    assert x == {2, 3, 4, 5, 6, 7}  # 3 or, mirrored, 6; each with its neighbours


def test_rotation_scaling_and_shift_are_scipys_affine_transform() -> None:
    crop = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(9, 11, 10)), 1.0).astype(np.float32)
    matrix = sampling._rotation(np.array([9.0, -5.0, 12.0])) / 1.08
    shift = np.array([1, -2, 0])
    centre = (np.array(crop.shape) - 1) / 2
    wanted = ndimage.affine_transform(crop, matrix, centre - matrix @ (centre + shift), order=1, mode="grid-constant")
    found = sampling._moved(crop[None], matrix, shift)[0]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    # Without rotation it is a plain shift, in the same direction as the whole-voxel one.
    grey = crops(1)[0]
    np.testing.assert_allclose(
        sampling._moved(grey.astype(np.float32), np.eye(3), shift), sampling.shifted(grey, shift), atol=0.05
    )


def test_a_quarter_turn_about_each_axis_is_numpys() -> None:
    cube = np.random.default_rng(2).random((1, 7, 7, 7)).astype(np.float32)
    for axis, (one, other) in enumerate([(1, 2), (0, 2), (0, 1)]):
        degrees = np.zeros(3)
        degrees[axis] = 90.0
        turned = sampling._moved(cube, sampling._rotation(degrees), np.zeros(3, np.int64))[0]
        both = [np.rot90(cube[0], k, (one, other)) for k in (1, -1)]
        assert min(np.abs(turned - b).max() for b in both) < 1e-4


def test_scaling_enlarges_by_its_factor() -> None:
    ball = (sum((g - 12.0) ** 2 for g in np.mgrid[0:25, 0:25, 0:25]) < 8.0**2).astype(np.float32)[None]
    larger = sampling._moved(ball, np.eye(3) / 1.2, np.zeros(3, np.int64))
    assert larger.sum() / ball.sum() == pytest.approx(1.2**3, rel=0.03)


def test_gain_offset_and_noise_are_in_hu_and_leave_the_outside_alone() -> None:
    crop = np.full((1, 20, 20, 20), 102, np.uint8)  # 0.4 of the window: 200 HU
    crop[:, :5] = 0
    noisy = augment(crop, Augmentation(**STILL, noise_hu=20.0), WINDOW, np.random.default_rng(0))
    hu = -200 + 1000 * noisy[:, 5:]
    assert hu.mean() == pytest.approx(200.0, abs=1.0)
    assert hu.std() == pytest.approx(20.0, rel=0.03)
    assert (noisy[:, :5] == 0).all()
    offsets = [
        augment(crop, Augmentation(**STILL, offset_hu=10.0), WINDOW, np.random.default_rng(s)) for s in range(300)
    ]
    levels = np.array([-200 + 1000 * o[0, 10, 0, 0] for o in offsets])
    assert all(np.ptp(o[:, 5:]) == 0 and (o[:, :5] == 0).all() for o in offsets)
    assert [levels.mean(), levels.std()] == pytest.approx([200.0, 10.0], abs=1.8)
    gains = [augment(crop, Augmentation(**STILL, gain=0.05), WINDOW, np.random.default_rng(s)) for s in range(300)]
    levels = np.array([-200 + 1000 * g[0, 10, 0, 0] for g in gains])
    assert [levels.mean(), levels.std()] == pytest.approx([200.0, 10.0], abs=1.8)  # 5 % of 200 HU


def test_switching_one_part_off_leaves_the_others() -> None:
    (crop,) = crops(1)
    with_noise = Augmentation(True, 2, noise_hu=1e-6)
    for seed in range(6):
        a = augment(crop, Augmentation(True, 2), WINDOW, np.random.default_rng(seed))
        np.testing.assert_allclose(augment(crop, with_noise, WINDOW, np.random.default_rng(seed)), a, atol=1e-6)


# --- windows ---------------------------------------------------------------------------------------------------------


def test_windows_are_width_and_level_in_hu() -> None:
    assert sampling.covering_window() == (-500.0, 1300.0)
    hu = np.array([-500.0, -160.0, 0.0, 40.0, 80.0, 240.0, 400.0, 1300.0])
    stored = ((hu + 500.0) / 1800.0).astype(np.float32).reshape(1, 1, 2, 2, 2)
    brain, soft_tissue, bone = sampling.window_channels(stored, (-500.0, 1300.0))[0].reshape(3, 8)
    assert brain == pytest.approx([0, 0, 0, 0.5, 1, 1, 1, 1], abs=1e-5)
    assert soft_tissue == pytest.approx([0, 0, 0.4, 0.5, 0.6, 1, 1, 1], abs=1e-5)
    assert bone == pytest.approx(list((hu + 500.0) / 1800.0), abs=1e-5)


def test_windows_beyond_what_is_stored_are_refused() -> None:
    stored = np.zeros((2, 1, 3, 3, 3), np.float32)
    with pytest.raises(UsageError, match=r"need -500 to 1300 HU, the crops hold -200 to 800"):
        sampling.window_channels(stored, WINDOW)
    assert sampling.window_channels(stored, WINDOW, [(0.0, 100.0), (-200.0, 800.0)]).shape == (2, 2, 3, 3, 3)
    with pytest.raises(UsageError, match="one channel, got 3"):
        sampling.window_channels(np.zeros((2, 3, 3, 3, 3), np.float32), (-500.0, 1300.0))
