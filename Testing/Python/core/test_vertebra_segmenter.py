"""The demonstration segmenter: its training against hand-worked numbers, its folder against nnU-Net's own code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medconv.simulate import simulate_lumbar_ct
from medconv.training.vertebrae import vertebra_segmenter as segmenter
from medconv.training.vertebrae import vertebra_segmenter_data as data
from medconv.training.vertebrae import vertebra_segmenter_evaluation as evaluation
from medconv.training.vertebrae import vertebra_segmenter_folder as folder
from medconv.training.vertebrae import vertebra_segmenter_network as networks
from medconv.training.vertebrae.vertebra_segmenter_loss import dice_and_cross_entropy, supervised_loss

NOTHING = data.Disturbance(
    rotation_deg=0.0, scale=0.0, shift_across=0, reach_beyond=0.0, cut_share=0.0, gain=0.0, offset=0.0, gamma=0.0,
    noise=0.0, blur_share=0.0, thick_slice_share=0.0, soft_tissue=0.0, stretch=0.0,
)  # fmt: skip
NORM = data.Normalization(mean=100.0, std=200.0, lowest=-300.0, highest=600.0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def volume() -> data.TrainingVolume:
    """Random HU with a block of label 10 (a left rib) at the patient's left and one of 12 at the right."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-200, 500, size=(112, 52, 70)).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[40:70, 15:35, 15:25] = 10  # axes are up, forwards, to the right: the left side has the low numbers
    labels[40:70, 15:35, 45:55] = 12
    return data.TrainingVolume(hu, labels)


@pytest.fixture(scope="module")
def shipped(repository: Path) -> Path:
    return repository / "model_weights" / folder.MODEL_NAME


# --- data


def test_training_volume_is_what_nnunets_reader_gives(tmp_path: Path) -> None:
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    case = simulate_lumbar_ct(1, in_plane_spacing_mm=3.0, slice_thickness_mm=3.0, field_of_view_mm=(-30.0, 30.0))
    evaluation.write_nifti(case.ct, tmp_path / "ct.nii.gz")
    read, properties = NibabelIOWithReorient().read_images([str(tmp_path / "ct.nii.gz")])
    np.testing.assert_array_equal(read[0], data.as_training_volume(case).hu_zyx)
    assert properties["spacing"] == pytest.approx([3.0, 3.0, 3.0])


def test_labels_are_totalsegmentators_by_name() -> None:
    from totalsegmentator.map_to_binary import class_map as class_maps

    class_map = class_maps["total"]
    for number, own in data.FROM_SIMULATED.items():
        assert data.LABEL_NAMES[own] == ("sacrum" if number == 26 else class_map[number])
    assert sorted(set(data.FROM_SIMULATED.values())) == list(range(1, len(data.LABEL_NAMES)))


def test_undisturbed_patch_is_the_middle_of_the_volume(volume: data.TrainingVolume) -> None:
    image, labels = data.draw_patch(volume, NORM, (112, 48, 64), np.random.default_rng(0), NOTHING)
    z, y, x = (slice(0, 112), slice(2, 50), slice(3, 67))
    expected = (np.clip(volume.hu_zyx[z, y, x], -300, 600) - 100.0) / 200.0
    np.testing.assert_allclose(image[0].numpy(), expected, atol=2e-4)
    np.testing.assert_array_equal(labels.numpy(), volume.labels_zyx[z, y, x])


def test_same_random_numbers_give_the_same_patch(volume: data.TrainingVolume) -> None:
    first, second, other = (
        data.draw_patch(volume, NORM, (48, 32, 48), np.random.default_rng(seed), data.Disturbance())
        for seed in (5, 5, 6)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_sides_are_never_swapped(volume: data.TrainingVolume) -> None:
    for seed in range(25):
        _, labels = data.draw_patch(volume, NORM, (96, 48, 64), np.random.default_rng(seed), data.Disturbance())
        left, right = (np.argwhere(labels.numpy() == label) for label in (10, 12))
        if len(left) > 200 and len(right) > 200:
            assert left[:, 2].mean() < right[:, 2].mean() - 10.0


def test_what_the_field_of_view_does_not_reach_is_zero_and_ignored(volume: data.TrainingVolume) -> None:
    how = data.Disturbance(cut_share=1.0, shortest_cut=10)
    image, labels = data.draw_patch(volume, NORM, (64, 32, 48), np.random.default_rng(2), how)
    hidden = labels < 0
    assert 0.05 < hidden.float().mean() < 0.95
    assert torch.count_nonzero(image[0][hidden]) == 0
    assert hidden.flatten(1).all(1).any()  # whole slices


def test_blur_spreads_a_point_as_a_gaussian_does() -> None:
    point = torch.zeros(1, 21, 21, 21)
    point[0, 10, 10, 10] = 1.0
    blurred = data.blur(point, (1.5, 0.0, 1.0))[0].numpy()
    assert blurred.sum() == pytest.approx(1.0, abs=1e-4)
    z = np.arange(21) - 10
    assert (blurred.sum((1, 2)) * z**2).sum() == pytest.approx(1.5**2, rel=0.1)  # cut at 2.5 SD
    assert blurred.sum((0, 2))[10] == pytest.approx(1.0, abs=1e-4)


# --- loss


def test_loss_is_the_hand_worked_one() -> None:
    """Two classes of one voxel each would not count as present: nine voxels of label 1, one background, p = 0.5."""
    logits = torch.zeros(10, 2)
    target = torch.tensor([1] * 9 + [0])
    # Cross-entropy: ln 2 whatever the weights. Dice of label 1: (2·4.5 + 1) / (5 + 9 + 1) = 10/15.
    value = dice_and_cross_entropy(logits, target, torch.ones(10))
    assert float(value) == pytest.approx(math.log(2.0) + 1.0 - 10.0 / 15.0)


def test_rows_that_stand_for_several_voxels_count_as_often() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((40, 3)))
    target = torch.from_numpy(np.repeat([0, 1, 2], [12, 14, 14]))
    times = torch.where(target == 0, 3, 1)
    repeated = dice_and_cross_entropy(
        logits.repeat_interleave(times, 0).float(), target.repeat_interleave(times), torch.ones(int(times.sum()))
    )
    shared = dice_and_cross_entropy(logits.float(), target, times.float())
    assert float(shared) == pytest.approx(float(repeated), rel=1e-5)


def test_ignored_voxels_change_nothing() -> None:
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    labels[:, :3] = 1
    labels[:, 6:] = -1
    logits = torch.randn(1, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[:, :, 6:] += 7.0
    first, second = (float(supervised_loss([x], labels, np.random.default_rng(1))) for x in (logits, other))
    assert first == pytest.approx(second, rel=1e-6)


# --- network


def test_fast_norm_is_instance_norm() -> None:
    torch.manual_seed(0)
    plain = folder.build_network(folder.NARROW_FEATURES)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        before = plain(image)
        after = networks.with_fast_norm(plain)(image)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-3)


def test_grown_network_starts_with_the_narrow_ones_answer() -> None:
    torch.manual_seed(1)
    narrow = networks.narrow_network()
    image = torch.randn(1, 1, 48, 48, 48)
    full = networks.grown(narrow, [image])
    with torch.inference_mode():
        coarse = networks.outputs_below_full_size(narrow, image)[0][0]
        outputs = full(image)
    torch.testing.assert_close(outputs[1][0], coarse, atol=5e-3, rtol=1e-3)
    fine = outputs[0][0][:, ::2, ::2, ::2]
    together = np.corrcoef(fine.flatten().numpy(), coarse.flatten().numpy())[0, 1]
    assert together > 0.8


# --- training


@pytest.fixture
def cache(tmp_path: Path, volume: data.TrainingVolume) -> Path:
    """Volumes in place of simulated ones."""
    place = tmp_path / "cache"
    place.mkdir()
    for seed in (segmenter.TRAINING_SEED, segmenter.VALIDATION_SEED):
        file = place / f"trunk-v{data.CACHE_VERSION}-{seed}.npz"
        np.savez_compressed(file, hu=volume.hu_zyx, labels=volume.labels_zyx)
    return place


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = segmenter.Settings(cases=1, validation_cases=1, steps=4, coarse_steps=2, warm_up_steps=1)
    monkeypatch.setattr(segmenter, "CHECKPOINT_EVERY", 1)
    whole = segmenter.train(settings, tmp_path / "whole", cache)
    real_step = segmenter._one_step

    def killed(*arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return real_step(*arguments)

    monkeypatch.setattr(segmenter, "_one_step", killed)
    with pytest.raises(KeyboardInterrupt):
        segmenter.train(settings, tmp_path / "killed", cache)
    monkeypatch.setattr(segmenter, "_one_step", real_step)
    resumed = segmenter.train(settings, tmp_path / "killed", cache)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="holds a run of other settings"):
        segmenter.train(segmenter.Settings(cases=1, steps=9), tmp_path / "killed", cache)


def test_learning_rate_falls_in_both_parts_and_ends_at_nothing() -> None:
    settings = segmenter.Settings(steps=300, coarse_steps=200)
    rates = [segmenter.learning_rate(settings, step) for step in range(300)]
    assert max(rates) == rates[settings.warm_up_steps - 1] == settings.learning_rate
    assert np.all(np.diff(rates[settings.warm_up_steps : 200]) <= 0.0)
    assert rates[220] > rates[260] > rates[299]
    assert rates[299] < 0.01 * settings.learning_rate


def test_trunks_come_first_and_parts_of_them_later() -> None:
    shares = [segmenter.disturbance_at(progress).cut_share for progress in (0.0, 0.15, 0.4, 0.65, 1.3)]
    assert shares == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.5])
    assert segmenter.disturbance_at(1.0) == data.Disturbance()


# --- the shipped folder


def test_shipped_folder_is_small_safe_and_says_what_it_is(shipped: Path) -> None:
    assert sum(file.stat().st_size for file in shipped.rglob("*") if file.is_file()) < 3_000_000
    checkpoint = torch.load(shipped / folder.CHECKPOINT, weights_only=True)  # tensors and plain values: can't run code
    assert {value.dtype for value in checkpoint["network_weights"].values()} == {torch.float16}
    assert json.loads((shipped / "dataset.json").read_text("utf-8")) == folder.dataset_document(
        json.loads((shipped / "training.json").read_text("utf-8"))["cases_trained"]
    )
    text = (shipped / "README.md").read_text("utf-8")
    assert "Demonstration, trained on simulated CT only" in text
    assert "python -m medconv.training.vertebrae.vertebra_segmenter " in text
    described = json.loads((shipped / "dataset.json").read_text("utf-8"))["description"]
    assert described == "Demonstration: trained on simulated CT only. Not for real CT."


def test_the_list_of_weights_does_not_stumble_over_the_folder(shipped: Path) -> None:
    from medconv.weights import read_manifest

    names = [card.name for card in read_manifest(shipped.parent / "manifest.json")]
    assert names
    assert folder.MODEL_NAME not in names


def test_shipped_segmenter_finds_every_level_in_a_ct_it_has_not_seen(shipped: Path, tmp_path: Path) -> None:
    """Stored turned (slices along y, first voxel at the back and the right), by nnU-Net's own predictor."""
    case = simulate_lumbar_ct(
        980_001, in_plane_spacing_mm=1.5, slice_thickness_mm=2.5, field_of_view_mm=(-190.0, 110.0)
    )
    evaluation.write_nifti(case.ct, tmp_path / "ct.nii.gz")
    turned = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "ct.nii.gz")), "RIP")
    sitk.WriteImage(turned, str(tmp_path / "Wirbelsäule gedreht.nii.gz"))
    found = evaluation.predict(shipped, tmp_path / "Wirbelsäule gedreht.nii.gz")
    assert found.GetSize() == turned.GetSize()
    assert found.GetOrigin() == pytest.approx(turned.GetOrigin(), abs=1e-3)
    assert found.GetDirection() == pytest.approx(turned.GetDirection(), abs=1e-5)
    table = np.zeros(256, np.uint8)
    table[list(data.FROM_SIMULATED)] = list(data.FROM_SIMULATED.values())
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS"))
    dice = evaluation.dice_per_label(back, table[case.labels_zyx])
    lumbar = [dice[f"vertebrae_{level}"] for level in ("T11", "T12", "L1", "L2", "L3", "L4", "L5")]
    assert min(lumbar) > 0.7
    assert dice["vertebrae_L1"] > 0.8
    assert min(dice[f"rib_{side}_12"] for side in ("left", "right")) > 0.5
    assert dice["sacrum"] > 0.8
