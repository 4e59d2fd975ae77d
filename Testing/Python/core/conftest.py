"""Fixtures of the core's tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from core.phantom import Phantom, phantom

from medconv.config import Architecture, ModelCard, Preprocessing
from medconv.types import Adjustment, TScoreClass

PRIOR = {TScoreClass.NORMAL: 0.5, TScoreClass.OSTEOPENIA: 0.4, TScoreClass.OSTEOPOROSIS: 0.1}


@pytest.fixture(scope="session")
def vertebra() -> Phantom:
    """The 1 mm phantom; treat as read-only."""
    return phantom()


def untrained_card(**changes) -> ModelCard:
    fields = {
        "name": "untrained",
        "file": "untrained.npz",
        "sha256": "",
        "architecture": Architecture(width=4),
        "preprocessing": Preprocessing(size_xyz=(32, 32, 32), spacing_mm=3.0),
        "class_prior": PRIOR,
        "minority_classes": (TScoreClass.OSTEOPOROSIS,),
        "tau1_train": 1.0,
        "default_adjustment": Adjustment("log_prior", 1.0, 0.5),
        "trained_on": "nothing: random weights for a test",
        "intended_use": "test",
        "licence": "Apache-2.0",
    }
    return ModelCard(**(fields | changes))


@pytest.fixture(scope="session")
def untrained_weights(tmp_path_factory) -> Path:
    """A folder with a manifest and one file of random weights, for what doesn't depend on their values."""
    import torch

    from medconv.network import build_network
    from medconv.weights import save_weights

    folder = tmp_path_factory.mktemp("weights")
    card = untrained_card()
    torch.manual_seed(0)
    state = {name: tensor.numpy() for name, tensor in build_network(card.architecture).state_dict().items()}
    card = save_weights(folder / card.file, state, card)
    (folder / "manifest.json").write_text(json.dumps({"models": [card.to_json()]}))
    return folder


@pytest.fixture
def only_untrained(untrained_weights: Path, monkeypatch, tmp_path) -> Path:
    """Look weights up in that folder first, and in no one's home."""
    monkeypatch.setenv("MEDCONV_WEIGHTS_DIR", str(untrained_weights))
    monkeypatch.setenv("MEDCONV_DATA", str(tmp_path / "user"))
    return untrained_weights
