"""Losses and cached crops of simulated cases against independent oracles: hand-worked figures, scikit-learn."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from medconv.config import Preprocessing
from medconv.simulate import CohortModel
from medconv.training.cohorts import crops
from medconv.training.cohorts.crops import CropRequest, CropSet, cached_crops, simulate_crop
from medconv.training.parts.loss import BalancedCrossEntropy, logit_adjusted_cross_entropy

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
