"""What tells one case's pixels from another's: cases that agree in it have the same answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from medconv.types import CTVolume, L1Mask, LevelChoice, QualityNote, SpineSegmentation


def pixels_digest(
    ct: CTVolume,
    labels: SpineSegmentation | None,
    mask: L1Mask | None,
    choice: LevelChoice | None,
    notes: Sequence[QualityNote] = (),
) -> str:
    """SHA-256 of all that an answer is made from: voxels, grid, acquisition, the mask or the named labels, and the
    notes of reading them, which the answer repeats."""
    facts: list[Any] = [asdict(ct.geometry), asdict(ct.whole_geometry), asdict(ct.acquisition), ct.is_simulated]
    facts += [str(ct.array_zyx.dtype), [asdict(note) for note in notes]]
    if labels is not None:
        facts += [labels.start_xyz, labels.labels_zyx.shape, sorted(labels.names.items())]
        facts += [labels.segmenter, labels.identity, labels.is_demonstration]
    if mask is not None:
        facts += [mask.start_xyz, mask.block_zyx.shape, asdict(choice) if choice else None]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii"))
    sample = [ct.slab_of.sample_zyx] if ct.slab_of else []  # the scale of the HU is judged on it
    arrays = [ct.array_zyx, *sample, *([labels.labels_zyx] if labels else []), *([mask.block_zyx] if mask else [])]
    for array in arrays:
        for part in array:  # slice by slice: no copy of the whole
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
