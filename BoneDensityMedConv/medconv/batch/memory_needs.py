"""How much memory a case will want, from its files' sizes alone, and how many processes a computer carries."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from medconv.batch import measuring
from medconv.batch.jobs import BatchJob

WORKER_MB, SEGMENTING_WORKER_MB = 1500.0, 6000.0  # with a large CT in hand; see docs/batch.md for what was measured
MOST_ON_A_GPU = 4
CASE_MB = 150.0  # network, crop and report
TIMES_VOXELS = 1.2  # the CT as stored, and what reading takes beside it; the mask comes on top
TIMES_VOXELS_SEGMENTED = 4.0
COMPRESSED_TO = 0.4  # of a file whose size in memory can't be told


def default_workers(segmenting: bool, device: str) -> int:
    """One for each core, as far as memory and graphics card carry them."""
    fit = int(measuring.free_mb() // (SEGMENTING_WORKER_MB if segmenting else WORKER_MB)) if _is_known() else 1 << 30
    return max(1, min(measuring.cores(), fit, MOST_ON_A_GPU if device.startswith("cuda") else 1 << 30))


def needs_mb(job: BatchJob) -> float:
    """Megabytes beside those of a resting worker."""
    ct_mb = voxels_mb(job.files or (job.ct,))
    if not job.mask:
        return CASE_MB + TIMES_VOXELS_SEGMENTED * ct_mb
    return CASE_MB + TIMES_VOXELS * ct_mb + voxels_mb((job.mask,))


def voxels_mb(files: Sequence[str]) -> float:
    """Megabytes of an image's voxels; 0 where nothing can be told."""
    with contextlib.suppress(OSError, UnicodeEncodeError):
        file = Path(files[0])
        if not file.is_file():
            return 0.0
        size = file.stat().st_size * len(files)
        if file.name.lower().endswith(".gz") and size > 4:
            with file.open("rb") as stream:
                stream.seek(-4, 2)
                size = max(size, int.from_bytes(stream.read(4), "little"))  # RFC 1952: size modulo 2^32
            return size / 1e6
        if file.name.lower().endswith(".nii"):
            return size / 1e6
        return size / COMPRESSED_TO / 1e6
    return 0.0


def _is_known() -> bool:
    return measuring.free_mb() != float("inf")
