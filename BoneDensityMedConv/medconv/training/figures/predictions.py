"""What a trained network said of a set of cases: the one thing that evaluation reads.

`logits` z are such that z + tau1_train·log π is the log posterior of the training population (π its class
frequencies), up to a constant: every head and loss is brought to this form, so that tau means the same for all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import CLASS_ORDER
from medconv.types import FloatArray, InputRefused

ARRAYS = ("classes", "t_scores", "logits", "median_hu", "kvp", "signals", "predicted_t_scores")


@dataclass(frozen=True)
class Predictions:
    """One row a case, classes in CLASS_ORDER.

    classes: (n,) int64 truth. t_scores, median_hu, kvp, signals, predicted_t_scores: (n,), NaN where unknown.
    logits: (n, 3). class_prior: π of the training set (3,). split: "train", "validation" or "test".
    tau1_train: 0 where the network models the training population's posterior itself.
    """

    split: str
    case_ids: tuple[str, ...]
    classes: NDArray[np.int64]
    t_scores: FloatArray
    logits: FloatArray
    median_hu: FloatArray
    kvp: FloatArray
    signals: FloatArray
    predicted_t_scores: FloatArray
    class_prior: tuple[float, ...]
    tau1_train: float

    def __post_init__(self) -> None:
        n = len(self.case_ids)
        if self.logits.shape != (n, len(CLASS_ORDER)) or any(len(getattr(self, name)) != n for name in ARRAYS):
            raise ValueError(f"every array needs one row for each of the {n} cases")

    def __len__(self) -> int:
        return len(self.case_ids)

    def save(self, path: Path) -> None:
        """As one .npz without pickled objects; the file appears whole or not at all."""
        head = {"split": self.split, "class_prior": self.class_prior, "tau1_train": self.tau1_train}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, case_ids=np.array(self.case_ids, dtype=np.str_), head=np.array(json.dumps(head)), **arrays)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Predictions:
        """Raises InputRefused if the file is missing or not one of ours."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                head = json.loads(str(archive["head"]))
                arrays = {name: archive[name] for name in ARRAYS}
                case_ids = tuple(str(name) for name in archive["case_ids"])
            prior = tuple(float(p) for p in head["class_prior"])
            return Predictions(head["split"], case_ids, class_prior=prior, tau1_train=head["tau1_train"], **arrays)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputRefused(
                "predictions_unreadable",
                f"{path} holds no predictions ({error or type(error).__name__}).",
                "Expected a predictions_*.npz that 'medconv train' or 'medconv evaluate' wrote.",
            ) from error
