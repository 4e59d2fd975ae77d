"""How many crops go through the network at once, and how a full memory is told from other faults."""

from __future__ import annotations

import math

from medconv.config import Architecture
from medconv.runtimes.runtime import Shape4

# What the crops of one pass may take beside the weights; a batch that needs more is split.
BATCH_BYTES = 512 * 2**20
AT_MOST = 32
_FULL = (
    "not enough memory", "out of memory", "can't allocate memory", "bad allocation", "std::bad_alloc",
    "status_alloc_failed", "allocation_failed",  # cuBLAS and cuDNN, whose own memory torch does not manage
)  # fmt: skip


def bytes_of_crop(architecture: Architecture, input_shape: Shape4) -> int:
    """What one crop takes on its way through plain torch, an upper estimate.

    The largest moment is one of two, in floats: the stem's output before and after its normalisation and pooling
    (width channels on 1/8 of the voxels, twice), or the first stage, where torch's convolution unrolls 27 neighbours
    of `width` channels on 1/64 of the voxels beside three maps of 4·width channels. Both are counted, as one begins
    before the other's memory is returned.
    """
    voxels = math.prod(input_shape[1:])
    stem = 2 * architecture.width * voxels / 8
    first_stage = (27 + 3 * 4) * architecture.width * voxels / 64
    return math.ceil(4 * (stem + first_stage + input_shape[0] * voxels))


def crops_at_once(architecture: Architecture, input_shape: Shape4) -> int:
    """Crops of a pass, so that BATCH_BYTES hold them: at least 1."""
    return max(1, min(AT_MOST, BATCH_BYTES // bytes_of_crop(architecture, input_shape)))


def is_full(error: BaseException) -> bool:
    """True for an error that says that memory was not there, on a GPU or in the computer, or that one such led to."""
    import torch

    if error.__cause__ is not None and is_full(error.__cause__):
        return True
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _FULL)
