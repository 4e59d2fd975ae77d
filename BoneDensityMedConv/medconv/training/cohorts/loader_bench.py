"""Feeding an epoch the authors' way and from the cached crops, for `medconv bench`: the same float batches either way.

No network runs. The first sample of either way is compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader

from medconv.config import Preprocessing
from medconv.training.cohorts.authors_loader import BATCH_SIZE as BATCH_SIZE
from medconv.training.cohorts.authors_loader import ReadEachTime
from medconv.training.cohorts.cases import Cohort, LabelledCase
from medconv.training.cohorts.crops import LEVELS, CropSet

Epoch = Callable[[], int]


def ways_to_feed(cohort: Cohort, crops: CropSet, preprocessing: Preprocessing) -> tuple[Epoch, Epoch]:
    """An epoch of the cases that are in `crops`, the authors' way and ours; each returns how many it fed."""
    by_id = {case.case_id: case for case in cohort.cases}
    cases = [by_id[case_id] for case_id in crops.case_ids]
    _check_same(cases, crops, preprocessing)
    loader = DataLoader(
        ReadEachTime(cases, preprocessing), BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    return lambda: _authors_epoch(loader), lambda: _cached_epoch(crops)


def _check_same(cases: list[LabelledCase], crops: CropSet, preprocessing: Preprocessing) -> None:
    """The first sample of either way must be the same input, up to the rounding to 8 bits."""
    fresh, t_class = ReadEachTime(cases, preprocessing)[0]
    apart = float(np.abs(fresh.numpy() - crops.crops[0] / LEVELS).max())
    assert apart <= 0.51 / LEVELS, f"the two ways differ by {apart}"
    assert t_class == crops.classes[0]


def _authors_epoch(loader: DataLoader) -> int:
    return sum(len(classes) for _, classes in loader)


def _cached_epoch(crops: CropSet) -> int:
    order = np.random.default_rng(0).permutation(len(crops))
    seen = 0
    for first in range(0, len(order), BATCH_SIZE):
        chosen = order[first : first + BATCH_SIZE]
        batch = torch.from_numpy(np.stack([crops.crops[i] for i in chosen])).float().div_(LEVELS)
        classes = torch.from_numpy(crops.classes[chosen])
        assert len(batch) == len(classes)
        seen += len(classes)
    return seen
