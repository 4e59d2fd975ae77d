"""What a training does with its settings and data, and what it says when it can't go on."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.train_toys import TINY, toy_set, toy_settings
from sklearn.metrics import balanced_accuracy_score, log_loss

from medconv.training.figures.choice import RunChoice
from medconv.training.figures.predictions import Predictions
from medconv.training.parts import assembly
from medconv.training.parts.sampling import NO_AUGMENTATION
from medconv.training.runs import loop, precision, run_folder, run_log
from medconv.training.runs.readout import balanced_nll, class_balanced, network_logits
from medconv.training.runs.run import train_run
from medconv.training.runs.run_folder import load_weights
from medconv.types import InputRefused, MedConvError, UsageError


class Ears(run_log.Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, float]] = []

    def told(self, text: str) -> None:
        self.lines.append(text)

    def step(self, text: str, fraction: float) -> None:
        self.steps.append((text, fraction))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that learned what is plain to see, with all that it said."""
    torch.set_num_threads(1)
    ears = Ears()
    settings = toy_settings(epochs=5, learning_rate=1e-2, width=4)
    run = tmp_path_factory.mktemp("plain")
    return train_run(settings, toy_set(96, 0), toy_set(30, 1), run, device="cpu", progress=ears), ears


# --- a run ----------------------------------------------------------------------------------------------------------


def test_the_kept_epoch_is_the_likeliest_and_its_predictions_are_stored(plain: Any) -> None:
    trained, _ = plain
    assert trained.epoch == min(trained.rows, key=lambda row: row.validation_nll).epoch
    stored = Predictions.load(trained.run / "predictions_validation.npz")
    assert (stored.split, stored.tau1_train, len(stored)) == ("validation", 1.0, 30)
    assert stored.case_ids == toy_set(30, 1).case_ids
    answers = stored.logits.argmax(axis=1)  # tau1_train = 1: raw logits are class-balanced
    assert balanced_accuracy_score(stored.classes, answers) > 0.75  # chance is 0.333
    kept = trained.rows[trained.epoch].validation_balanced_accuracy
    assert kept == pytest.approx(balanced_accuracy_score(stored.classes, answers))
    assert RunChoice.load(trained.run).cases_by_class["normal"] == int(np.sum(stored.classes == 0))


@pytest.mark.parametrize(("width", "expected"), [(4, 1), (64, 2)])
def test_a_slim_network_is_read_by_one_thread(monkeypatch: pytest.MonkeyPatch, width: int, expected: int) -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv3d(1, width, 1)

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return crops.mean(dim=(2, 3, 4)).repeat(1, 3)

    seen: list[int] = []
    monkeypatch.delenv("MEDCONV_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # somebody counted: a wide network keeps it
    torch.set_num_threads(2)
    network_logits(Counting(), toy_set(3, 0))
    assert (seen, torch.get_num_threads()) == ([expected], 2)


@pytest.mark.parametrize(
    ("read", "missing"), [(run_folder.read_settings, "there is no settings.json"), (load_weights, "there is no ")]
)
def test_what_is_missing_in_a_folder_is_told_in_words(tmp_path: Path, read: Any, missing: str) -> None:
    with pytest.raises(InputRefused) as refused:
        read(tmp_path / "run")
    assert missing in refused.value.message
    assert "Errno" not in str(refused.value)


def test_stored_weights_are_the_ones_that_answered(plain: Any) -> None:
    trained, _ = plain
    parts = assembly.build_parts(trained.settings, (1, 1, 1))
    parts.network.load_state_dict(load_weights(trained.run / "best.npz"))
    parts.network.eval()
    crops = torch.from_numpy(toy_set(30, 1).crops).float() / 255
    with torch.inference_mode():
        np.testing.assert_allclose(parts.network(crops).numpy(), trained.predictions.logits, atol=1e-4)


def test_the_log_has_one_row_an_epoch_and_the_rate_falls_as_half_a_cosine(plain: Any) -> None:
    trained, ears = plain
    with (trained.run / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [float(row["validation_nll"]) for row in rows] == pytest.approx([r.validation_nll for r in trained.rows])
    steps = 12 * 5  # 96 patients in batches of 8; the rate of an epoch's last step, after a warm-up of 2 steps
    expected = [1e-2 * 0.5 * (1 + math.cos(math.pi * (12 * e + 11 - 2) / (steps - 2))) for e in range(5)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected)
    assert len(ears.lines) == 5
    assert ears.lines[0].startswith("epoch 1 of 5: loss ")
    assert ears.steps[0] == ("Epoch 1 of 5, step 1 of 12", 0.0)
    assert ears.steps[1][0].startswith("Epoch 1 of 5, step 1 of 12, loss ")
    assert ears.steps[13] == ("Epoch 1 of 5, validation on 30 cases", 12 / (5 * 12))
    assert ears.steps[-1][1] == 1.0
    assert list((trained.run / "tensorboard").iterdir())


def test_a_finished_run_is_read_not_trained_again(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = plain
    monkeypatch.setattr(loop.Training, "_pass", None)
    again = train_run(trained.settings, toy_set(96, 0), toy_set(30, 1), trained.run, device="cpu")
    np.testing.assert_array_equal(again.predictions.logits, trained.predictions.logits)
    assert (again.epoch, again.rows) == (trained.epoch, trained.rows)


def test_a_folder_of_other_settings_or_data_is_refused(plain: Any) -> None:
    trained, _ = plain
    other = trained.settings.with_changes(learning_rate=0.5)
    with pytest.raises(UsageError, match=r"settings\.learning_rate is 0\.01, asked for 0\.5"):
        train_run(other, toy_set(96, 0), toy_set(30, 1), trained.run, device="cpu")
    with pytest.raises(UsageError, match="data_sha256"):
        train_run(trained.settings, toy_set(96, 2), toy_set(30, 1), trained.run, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "sam"},
        {"optimiser": "schedule_free"},
        {"head": "corn", "sampling": "resample"},
        {"head": "joint", "ema_decay": 0.9},
        {"loss": "ldam_drw", "select": "last"},
        {"texture": True, "preprocessing": dataclasses.replace(TINY, channels=3)},
        {"windows": True, "preprocessing": dataclasses.replace(TINY, window_hu=(-500.0, 1300.0))},
    ],
    ids=lambda changes: next(f"{name}-{value}" for name, value in changes.items()),
)
def test_every_kind_of_training_goes_on_after_a_stop_as_if_none_had_been(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sets = toy_settings(**changes), (toy_set(16, 0), toy_set(9, 1))
    alone = train_run(settings, *sets, tmp_path / "alone", device="cpu")
    one_pass = loop.Training._pass

    def stopped(self: loop.Training, epoch: int, pace: run_log.Pace) -> tuple[float, float]:
        found = one_pass(self, epoch, pace)
        if epoch == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(loop.Training, "_pass", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_run(settings, *sets, tmp_path / "stopped", device="cpu")
    monkeypatch.setattr(loop.Training, "_pass", one_pass)
    train_run(settings, *sets, tmp_path / "stopped", device="cpu")
    for name in ("best.npz", "log.csv", "predictions_validation.npz"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    assert np.isfinite(alone.predictions.logits).all()


def test_soft_targets_take_the_place_of_classes(tmp_path: Path) -> None:
    # Every patient is told to be osteoporotic with certainty: the network must follow that and not the classes.
    training, validation = toy_set(48, 0), toy_set(12, 1)
    soft = np.tile([0.0, 0.0, 1.0], (48, 1))
    settings = toy_settings(epochs=4, targets="truth-posterior", loss="ce", learning_rate=1e-2)
    trained = train_run(settings, training, validation, tmp_path, device="cpu", soft=soft)
    assert (trained.predictions.logits.argmax(axis=1) == 2).all()
    with pytest.raises(UsageError, match="class probabilities of every training case"):
        train_run(settings, training, validation, tmp_path / "without", device="cpu")


def test_training_ends_when_validation_gains_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([1.0, 0.8, 0.9, 0.81, 0.5])
    monkeypatch.setattr(loop, "balanced_nll", lambda logits, classes: next(figures))
    trained = train_run(toy_settings(epochs=9, patience=2), toy_set(8, 0), toy_set(9, 1), tmp_path, device="cpu")
    assert (len(trained.rows), trained.epoch) == (4, 1)


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    with run_folder.held(tmp_path), pytest.raises(UsageError, match="Another process is training") as caught:
        train_run(toy_settings(), toy_set(8, 0), toy_set(9, 1), tmp_path, device="cpu")
    assert caught.value.code == "run_in_use"


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_cause_and_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sets = toy_settings(epochs=3), (toy_set(16, 0), toy_set(9, 1))
    one_pass, backward = loop.Training._pass, loop.Training._backward

    def diverging(self: loop.Training, epoch: int, pace: run_log.Pace) -> tuple[float, float]:
        if epoch == 1:
            monkeypatch.setattr(loop.Training, "_backward", lambda self, batch: backward(self, batch) * math.nan)
        return one_pass(self, epoch, pace)

    monkeypatch.setattr(loop.Training, "_pass", diverging)
    with pytest.raises(MedConvError, match="no number any more in epoch 2, step 1") as caught:
        train_run(settings, *sets, tmp_path, device="cpu")
    assert caught.value.code == "loss_not_finite"
    assert "--lr 0.0003" in caught.value.remedy
    kept = run_folder.load_checkpoint(tmp_path)
    assert kept is not None
    assert len(kept["rows"]) == 1
    assert (tmp_path / "best.npz").exists()


def test_a_full_memory_halves_the_parts_of_a_batch_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, sets, ears = toy_settings(batch_size=8), (toy_set(16, 0), toy_set(9, 1)), Ears()
    asked = train_run(settings.with_changes(accumulate=4), *sets, tmp_path / "asked", device="cpu")
    backward = loop.Training._backward

    def full(self: loop.Training, batch: list[Any]) -> float:
        if any(len(crops) > 2 for crops, _ in batch):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backward(self, batch)

    monkeypatch.setattr(loop.Training, "_backward", full)
    found = train_run(settings, *sets, tmp_path / "found", device="cpu", progress=ears)
    assert "computed in 4 parts of 2 patients" in ears.lines[1]
    np.testing.assert_array_equal(found.predictions.logits, asked.predictions.logits)


def test_a_memory_too_small_for_two_patients_ends_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: loop.Training, batch: list[Any]) -> float:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loop.Training, "_backward", full)
    with pytest.raises(MedConvError, match="a batch of 4 patients in 2 part") as caught:
        train_run(toy_settings(batch_size=4), toy_set(8, 0), toy_set(9, 1), tmp_path, device="cpu")
    assert caught.value.code == "memory_full"


def test_half_formats_are_for_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy_settings(amp="auto")
    assert precision.format_of(settings, "cpu") == "off"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert precision.format_of(settings, "cuda") == "fp16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert precision.format_of(settings, "cuda") == "bf16"
    with pytest.raises(UsageError, match="bf16 needs a CUDA device, not 'cpu'"):
        precision.choose(toy_settings(amp="bf16"), "cpu")


def test_another_failure_of_torch_is_not_taken_for_a_full_memory() -> None:
    assert not precision.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert precision.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_a_class_without_patients_is_refused_before_training(tmp_path: Path) -> None:
    training = toy_set(30, 0)
    training.classes[training.classes == 2] = 1
    with pytest.raises(InputRefused, match="training set of 30 patients has none with osteoporosis"):
        train_run(toy_settings(), training, toy_set(9, 1), tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_told_not_guessed_at(tmp_path: Path) -> None:
    settings, sets = toy_settings(), (toy_set(8, 0), toy_set(9, 1))
    train_run(settings, *sets, tmp_path, device="cpu")
    (tmp_path / "last.pt").write_bytes(b"half of")
    with pytest.raises(InputRefused, match="can't be read"):
        train_run(settings, *sets, tmp_path, device="cpu")


# --- figures --------------------------------------------------------------------------------------------------------


def test_balanced_likelihood_is_scikit_learns_with_every_class_weighing_alike() -> None:
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(60, 3)), rng.choice(3, 60, p=(0.6, 0.3, 0.1))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = 1.0 / np.bincount(classes)[classes]
    expected = log_loss(classes, p, sample_weight=weights, labels=[0, 1, 2])
    assert balanced_nll(logits, classes) == pytest.approx(expected, abs=1e-6)


def test_class_balanced_logits_take_the_prior_out_once() -> None:
    prior, z = (0.5, 0.4, 0.1), np.array([[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(class_balanced(z, prior, 1.0), z)
    # A posterior itself (tau1_train = 0): p / π, up to a constant.
    np.testing.assert_allclose(class_balanced(np.log([[0.5, 0.4, 0.1]]), prior, 0.0), 0.0, atol=1e-12)


def test_settings_with_no_augmentation_feed_the_crops_as_they_are() -> None:
    settings, cases = toy_settings(augmentation=NO_AUGMENTATION), toy_set(4, 0)
    plan = assembly.sampling.plan_epoch("natural", cases.classes, 0, 0)
    fed = assembly.training_input(settings, cases, plan, np.arange(4), 0, "cpu").numpy()
    np.testing.assert_allclose(fed, cases.crops[plan.indices].astype(np.float32) / 255, atol=1e-7)


def test_a_run_can_start_from_another_runs_weights(tmp_path: Path) -> None:
    first = train_run(toy_settings(epochs=1), toy_set(24, 1), toy_set(24, 2), tmp_path / "first", device="cpu")
    start = str(tmp_path / "first" / run_folder.BEST)
    settings = toy_settings(epochs=1, learning_rate=1e-9, pretrained=start)
    second = train_run(settings, toy_set(24, 1), toy_set(24, 2), tmp_path / "second", device="cpu")
    # With next to no learning the body stays; the last layer is fresh by design.
    np.testing.assert_allclose(second.state["conv1.weight"], first.state["conv1.weight"], atol=1e-6)
