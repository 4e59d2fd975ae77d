"""Training against independent oracles: hand-worked losses, scikit-learn, and a run that is killed and goes on."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from medconv import weights
from medconv.config import Architecture, Preprocessing
from medconv.simulate import CohortModel
from medconv.training import choice, crops, loop, metrics
from medconv.training.crops import CropRequest, CropSet, cached_crops, simulate_crop
from medconv.training.loss import BalancedCrossEntropy, logit_adjusted_cross_entropy

SMALL = Preprocessing(size_xyz=(24, 24, 20), spacing_mm=4.0)
PRIOR = (0.5, 0.4, 0.1)


def toy_set(count: int, seed: int, preprocessing: Preprocessing = SMALL) -> CropSet:
    """Crops whose brightness tells the class, without simulation: enough to see whether a loop learns."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, count, p=PRIOR)
    x, y, z = preprocessing.size_xyz
    level = np.array([200.0, 120.0, 50.0])[classes]
    noise = rng.normal(0.0, 10.0, (count, 1, z, y, x))
    values = np.clip(level[:, None, None, None, None] + noise, 0, 255)
    values[:, :, :4] = 0  # an edge, so that shifts show
    numbers = np.zeros(count)
    return CropSet(
        values.astype(np.uint8), classes, numbers, numbers, level + rng.normal(0, 30, count), numbers + 120.0
    )


def settings(epochs: int = 2) -> loop.TrainSettings:
    """A run of seconds."""
    return loop.TrainSettings(Architecture(width=4), epochs=epochs, batch_size=8, warm_up_steps=2)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_bal_ce_by_hand() -> None:
    # z = (1, 0, 0), π = (0.5, 0.4, 0.1): e·0.5/(e·0.5 + 0.4 + 0.1) = 0.731059, −ln = 0.313262.
    z, prior = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor(PRIOR)
    value = logit_adjusted_cross_entropy(z, torch.tensor([0]), prior.log(), tau1=1.0)
    assert float(value) == pytest.approx(-math.log(math.e * 0.5 / (math.e * 0.5 + 0.5)), abs=1e-6)


def test_tau_zero_is_plain_cross_entropy_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    z, targets = rng.standard_normal((20, 3)), rng.integers(0, 3, 20)
    probabilities = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    value = BalancedCrossEntropy(PRIOR, tau1=0.0)(torch.tensor(z), torch.tensor(targets))
    assert float(value) == pytest.approx(log_loss(targets, probabilities, labels=[0, 1, 2]), abs=1e-6)


def test_bal_ce_is_least_for_class_balanced_logits() -> None:
    # Two image kinds A and B; P(A | class) = (0.8, 0.5, 0.1). Balanced logits are log P(image | class).
    likelihood = torch.tensor([[0.8, 0.5, 0.1], [0.2, 0.5, 0.9]])
    prior = torch.tensor(PRIOR)
    joint = (likelihood * prior).flatten()
    logits = torch.zeros(2, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        per_case = torch.stack(
            [
                logit_adjusted_cross_entropy(logits[i : i + 1], torch.tensor([c]), prior.log())
                for i in range(2)
                for c in range(3)
            ]
        )
        value = (joint * per_case).sum()
        value.backward()
        return value

    optimizer.step(step)
    found = logits.detach() - logits.detach().mean(dim=1, keepdim=True)
    expected = likelihood.log() - likelihood.log().mean(dim=1, keepdim=True)
    assert torch.allclose(found, expected, atol=1e-3)


def test_a_class_without_patients_is_refused() -> None:
    with pytest.raises(ValueError, match="frequency above 0"):
        BalancedCrossEntropy((0.5, 0.5, 0.0))


# --- cached crops ---------------------------------------------------------------------------------------------------


def test_crops_are_cached_once_and_only_for_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "SHARD_SIZE", 2)
    request = CropRequest("validation", 9, SMALL, CohortModel())
    for shard in range(2):  # as the worker processes do
        crops._make_shard((tmp_path / f"validation_{shard:04d}.npz", request, shard))
    crops._claim(tmp_path, request)
    cases = cached_crops(tmp_path, request, 3)
    assert cases.crops.shape == (3, 1, 20, 24, 24)
    again, truth = simulate_crop(request, 2)
    np.testing.assert_array_equal(cases.crops[2], again)
    assert cases.t_scores[2] == truth["t_score"]
    sheet = (tmp_path / "validation_0001.csv").read_text().splitlines()
    assert "density_mg_ha" in sheet[0]
    assert len(sheet) == 3
    other = dataclasses.replace(request, seed=10)
    with pytest.raises(ValueError, match="other settings"):
        cached_crops(tmp_path, other, 3)


def test_splits_share_no_patient() -> None:
    t_scores = [simulate_crop(CropRequest(split, 9, SMALL, CohortModel()), 0)[1]["t_score"] for split in crops.SPLITS]
    assert len(set(t_scores)) == 3


# --- the loop -------------------------------------------------------------------------------------------------------


def test_network_learns_what_is_plain_to_see(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    training, validation = toy_set(240, 0), toy_set(60, 1)
    trained = loop.train(settings(epochs=5), training, validation, tmp_path)
    network = loop.build_network(Architecture(width=4))
    network.load_state_dict(trained.state)
    logits = loop.network_logits(network, validation)
    assert metrics.balanced_accuracy(validation.classes, logits) > 0.75  # chance is 0.333
    assert trained.class_prior == pytest.approx([np.mean(training.classes == c) for c in range(3)])
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0].split(",") == list(loop.LOG_FIELDS)
    assert len(rows) == 6


def test_killed_run_goes_on_to_the_identical_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    training, validation = toy_set(48, 0), toy_set(24, 1)
    whole = loop.train(settings(), training, validation, tmp_path / "whole")

    one_epoch = loop._one_epoch

    def killed(*arguments: object) -> float:
        if arguments[5] == 1:
            raise KeyboardInterrupt
        return one_epoch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(settings(), training, validation, tmp_path / "killed")
    monkeypatch.setattr(loop, "_one_epoch", one_epoch)
    resumed = loop.train(settings(), training, validation, tmp_path / "killed")
    last = [torch.load(tmp_path / name / "last.pt", weights_only=True)["network"] for name in ("whole", "killed")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert resumed.epoch == whole.epoch
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)


def test_run_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    loop._claim(tmp_path, settings(), 10)
    with pytest.raises(ValueError, match="other settings"):
        loop._claim(tmp_path, settings(epochs=5), 10)


def test_learning_rate_rises_then_falls_as_half_a_cosine() -> None:
    assert loop.learning_rate_factor(0, 110, 10) == pytest.approx(0.1)
    assert loop.learning_rate_factor(10, 110, 10) == pytest.approx(1.0)
    assert loop.learning_rate_factor(60, 110, 10) == pytest.approx(0.5)
    assert loop.learning_rate_factor(110, 110, 10) == pytest.approx(0.0, abs=1e-12)


def test_augmentation_moves_and_mirrors_but_changes_no_value() -> None:
    crop = np.zeros((1, 8, 9, 10), np.uint8)
    crop[0, 4, 4, 3] = 200
    seen = set()
    for seed in range(80):
        moved = loop.augment(crop, np.random.default_rng(seed), 1)
        assert moved.shape == crop.shape
        assert moved.sum() == 200
        seen.add(tuple(int(i[0]) for i in np.nonzero(moved)[1:]))
    z, y, x = (set(values) for values in zip(*seen, strict=True))
    assert z == {3, 4, 5}
    assert y == {3, 4, 5}
    assert x == {2, 3, 4, 5, 6, 7}  # 3 or, mirrored, 6; each with its neighbours


def test_balanced_likelihood_weighs_every_class_alike() -> None:
    logits = np.array([[0.0, 0.0, 0.0]] * 9 + [[0.0, 0.0, 2.0]])
    classes = np.array([0] * 9 + [2])
    expected = (math.log(3.0) + math.log(2.0 + math.e**2) - 2.0) / 2.0
    assert loop.balanced_nll(logits, classes) == pytest.approx(expected)
