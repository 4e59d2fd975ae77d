"""The authors' way of feeding a network, as a baseline: every sample is read from its NIfTI and resampled, every epoch.

Their dataset class is not published; what is known is a folder of one .nii.gz a case, labels in labels.xlsx, batches of
8 and no cache. This is that way at its leanest: nothing is judged, and only the network's own grid is resampled. It
yields what the cache yields, before rounding to 8 bits, so that the two differ in nothing but time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medconv import l1_mask, pipeline, volume_io
from medconv.config import CLASS_ORDER, Preprocessing
from medconv.crop import standardised_crop
from medconv.training.cohorts.case_reading import l1_alone, with_kvp
from medconv.training.cohorts.cases import LabelledCase
from medconv.types import L1Case

BATCH_SIZE = 8


class ReadEachTime(Dataset):
    """Input (C, z, y, x) float32 in 0..1 and class index of each case, read from its files whenever it is asked for."""

    def __init__(self, cases: Sequence[LabelledCase], preprocessing: Preprocessing) -> None:
        self.cases = tuple(cases)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        case = self.cases[index]
        crop = standardised_crop(_read(case), self.preprocessing)
        return torch.from_numpy(np.ascontiguousarray(crop)), CLASS_ORDER.index(case.t_class)


def _read(case: LabelledCase) -> L1Case:
    """CT and mask from their files, cut to L1's neighbourhood before anything is resampled."""
    ct = with_kvp(volume_io.read_ct(case.ct), case.kvp)
    if case.mask is None:
        return pipeline.cut_out(*l1_alone(ct))
    labels, geometry, _owner = volume_io.read_labels(case.mask)
    return pipeline.cut_out(ct, l1_mask.from_labels(labels, geometry, case.label, ct.geometry)[0])
