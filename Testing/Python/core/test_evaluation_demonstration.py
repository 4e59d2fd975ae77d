"""The demonstration's command as a whole, on toy crops: weights that load, a card that tells all, a counted test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medconv import weights
from medconv.config import Preprocessing
from medconv.training import demonstration
from medconv.training.cohorts.crops import CropSet
from medconv.training.figures import choice, metrics, test_readings
from medconv.training.runs.readout import network_logits
from medconv.training.runs.run_settings import RunSettings

SMALL = Preprocessing(size_xyz=(24, 24, 20), spacing_mm=4.0)


def toy_set(count: int, seed: int) -> CropSet:
    """Crops whose brightness tells the class; HU tells it less well, and the signal is known."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, count, p=(0.5, 0.3, 0.2))
    level = np.array([200.0, 120.0, 50.0])[classes]
    values = np.clip(level[:, None, None, None, None] + rng.normal(0.0, 10.0, (count, 1, 20, 24, 24)), 0, 255)
    signals = np.array([1.0, -0.5, -2.0])[classes] + rng.normal(0, 0.5, count)
    t_scores = np.array([0.5, -1.8, -3.0])[classes]
    hu = level + rng.normal(0, 60, count)
    hu[0] = np.nan
    return CropSet(values.astype(np.uint8), classes, t_scores, signals, hu, np.full(count, 120.0))


def test_demonstration_writes_weights_that_load_and_a_card_that_tells_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    sets = {"train": toy_set(64, 0), "validation": toy_set(48, 1), "test": toy_set(48, 2)}
    monkeypatch.setattr(demonstration, "cached_crops", lambda folder, request, count: sets[request.split])
    sheet = [
        {"hu_mean": str(100.0 + i), "hu_sd": "30", "mask_volume_ml": "45", "scan_kvp": "120.0" if i % 4 else "80.0",
         "scan_slice_thickness_mm": "1.25", "scan_phase": "native" if i % 2 else "portal"}
        for i in range(64)
    ]  # fmt: skip
    monkeypatch.setattr(demonstration, "truth_sheets", lambda folder, split, count: sheet[:count])
    train = RunSettings(width=4, epochs=1, batch_size=8, warm_up=2, patience=0)
    wanted = demonstration.DemonstrationSettings(
        cases=64, validation_cases=48, test_cases=48, threads=1, resamples=50, train=train, preprocessing=SMALL
    )
    run, out = tmp_path / "run", tmp_path / "out"
    card = demonstration.run_demonstration(wanted, run, tmp_path / "crops", out)
    (entry,) = json.loads((out / "manifest.json").read_text())["models"]
    assert entry["sha256"] == weights.sha256_of(out / card.file)
    chosen = choice.RunChoice.load(run)
    assert entry["conformal"] == chosen.conformal
    network = weights.load_network(card, out / card.file)
    reading = choice.LogitReading(card.class_prior, card.minority_classes, card.tau1_train)
    answers = reading.probabilities(network_logits(network, sets["test"]), card.default_adjustment)
    found = json.loads((run / "evaluation.json").read_text())
    told = found["test"]["metrics"]["balanced_accuracy"]["value"]
    assert told == pytest.approx(metrics.balanced_accuracy(sets["test"].classes, answers))
    ideal = found["test"]["ideal"]["ideal_reader"]["metrics"]["balanced_accuracy"]["value"]
    known = weights.read_manifest(out / "manifest.json")[0].population
    assert known is not None
    assert known.patients == 64
    assert known.quantities["hu_mean"].at(0.5) == pytest.approx(131.5)
    assert known.acquisition["kvp"] == {"80": 16, "120": 48}
    assert known.acquisition["slice_thickness_mm"] == {"1.25": 64}
    assert known.acquisition["contrast_agent"] == {"named": 32, "not named": 32}
    of_validation = reading.probabilities(network_logits(network, sets["validation"]), card.default_adjustment)
    counts = np.bincount(of_validation.argmax(axis=1), minlength=3).tolist()
    assert list(known.predicted.values()) == counts
    assert known.quantities["p_osteoporosis"].at(0.5) == pytest.approx(np.median(of_validation[:, 2]), rel=1e-3)
    text = (out / "MODEL_CARD.md").read_text()
    assert text.count("## Training population") == 1
    assert "| HU of L1's trabecular core, mean | 103 | 132 | 160 |" in text
    for part in (
        "Trained on simulated CT: demonstration only", f"{told:.3f}", card.sha256, found["test"]["hu"]["verdict"],
        f"an ideal reader, who knows each patient's hidden signal, scores {ideal:.3f}", "Kappa (quadratic weights)",
        "Brier score", "Conformal sets", "1 without a measurable HU", "read once by this run", "(the strongest",
    ):  # fmt: skip
        assert part in text, part
    assert len(test_readings.readings_of(run)) == 1
    demonstration.run_demonstration(wanted, run, tmp_path / "crops", out)
    assert "read twice by this run" in (out / "MODEL_CARD.md").read_text()
