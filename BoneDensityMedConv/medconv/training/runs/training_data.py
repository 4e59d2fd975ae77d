"""The two sets of a run, checked: what a network is trained on, and what its epochs are chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medconv.config import CLASS_ORDER
from medconv.training.cohorts.crops import CropSet
from medconv.training.runs import run_folder
from medconv.training.runs.run_settings import RunSettings
from medconv.types import FloatArray, InputRefused, UsageError
from medconv.weights import sha256_of


@dataclass(frozen=True)
class TrainingData:
    """Training and validation cases. soft: class probabilities (n, 3) of the training cases.

    class_counts, class_prior: of the training cases; how often each class is there, and its share π.
    """

    training: CropSet
    validation: CropSet
    soft: FloatArray | None
    class_counts: tuple[int, ...]
    class_prior: tuple[float, ...]

    def identity(self, settings: RunSettings) -> dict[str, Any]:
        """What a run's settings.json holds: the settings, and which data and starting weights they were used on."""
        start = sha256_of(Path(settings.pretrained)) if settings.pretrained else None
        return {
            "settings": settings.to_json(),
            "class_counts": list(self.class_counts),
            "cases": {"train": len(self.training), "validation": len(self.validation)},
            "data_sha256": run_folder.fingerprint(self.training, self.validation, soft=self.soft),
            "pretrained_sha256": start,
        }


def training_data(
    settings: RunSettings, training: CropSet, validation: CropSet, soft: FloatArray | None
) -> TrainingData:
    """Check that the sets can be trained on. Raises UsageError or InputRefused saying what is missing."""
    if settings.pretrained and not Path(settings.pretrained).is_file():
        raise InputRefused(
            "pretraining_missing",
            f"There is no file {settings.pretrained}.",
            "Give a file of weights; none is fetched.",
        )
    x, y, z = settings.preprocessing.size_xyz
    for name, cases in (("training", training), ("validation", validation)):
        counts = np.bincount(cases.classes, minlength=len(CLASS_ORDER))
        if missing := [str(c) for c, n in zip(CLASS_ORDER, counts.tolist(), strict=True) if n == 0]:
            raise InputRefused(
                "class_missing",
                f"The {name} set of {len(cases)} patients has none with {', '.join(missing)}.",
                "Every class needs patients in training and validation; add some, or split the cohort anew.",
            )
        if cases.crops.shape[2:] != (z, y, x) or cases.crops.shape[1] not in (1, settings.preprocessing.channels):
            raise UsageError(
                "crops_of_other_settings",
                f"The {name} crops have the shape {cases.crops.shape[1:]}, the settings ask for "
                f"{(settings.preprocessing.channels, z, y, x)}.",
                "Make the crops with the settings' own preprocessing.",
            )
    if len(training) < settings.batch_size:
        raise UsageError(
            "batch_too_large",
            f"The training set has {len(training)} patients, fewer than a batch of {settings.batch_size}.",
            "Choose a smaller --batch-size.",
        )
    wanted = _soft(settings, training, soft)
    counts = np.bincount(training.classes, minlength=len(CLASS_ORDER))
    prior = counts / len(training)
    return TrainingData(training, validation, wanted, tuple(counts.tolist()), tuple(prior.tolist()))


def _soft(settings: RunSettings, training: CropSet, soft: FloatArray | None) -> FloatArray | None:
    if settings.targets == "class":
        return None
    if soft is None or soft.shape != (len(training), len(CLASS_ORDER)) or not np.isfinite(soft).all():
        raise UsageError(
            "no_soft_targets",
            "Targets 'truth-posterior' need the class probabilities of every training case.",
            "They are known for simulated cohorts only; use --targets class.",
        )
    return soft
