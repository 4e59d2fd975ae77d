"""Crops and settings of trainings that take a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from medconv.config import Preprocessing
from medconv.training.cohorts.crops import CropSet
from medconv.training.runs.run_settings import RunSettings

TINY = Preprocessing(size_xyz=(16, 16, 16), spacing_mm=5.0)
PRIOR = (0.5, 0.3, 0.2)


def toy_set(count: int, seed: int, preprocessing: Preprocessing = TINY) -> CropSet:
    """Crops whose brightness tells the class, without simulation: enough to see whether a loop learns."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, count, p=PRIOR)
    classes[:3] = (0, 1, 2)
    x, y, z = preprocessing.size_xyz
    level = np.array([200.0, 120.0, 50.0])[classes]
    values = np.clip(level[:, None, None, None, None] + rng.normal(0.0, 20.0, (count, 1, z, y, x)), 1, 255)
    values[:, :, :3] = 0  # an edge, so that shifts show
    t_scores = np.array([0.5, -1.7, -3.0])[classes] + rng.uniform(-0.4, 0.4, count)
    numbers = np.zeros(count)
    ids = tuple(f"toy{seed}_{i}" for i in range(count))
    return CropSet(values.astype(np.uint8), classes, t_scores, numbers, level, numbers + 120.0, ids)


def toy_settings(**changes: Any) -> RunSettings:
    """Two epochs of a ResNet-18 of width 2."""
    fields: dict[str, Any] = {
        "backbone": "resnet18", "width": 2, "epochs": 2, "batch_size": 8, "warm_up": 2, "patience": 0, "amp": "off",
        "preprocessing": TINY,
    }  # fmt: skip
    return RunSettings(**(fields | changes))
