"""Does a CT look like those of the simulator? The demonstration segmenter has seen no others.

In the simulator fat and water-like tissue meet at sharp borders; in people they mix (mesentery, bowel contents, fatty
muscle, vessels in fat). So even patches with the attenuation of a mixture are what tells them apart: few where
nothing but a border or chance makes them, many in every real CT. Cropping, spacing, noise and contrast agent matter
little: voxels are first averaged to about 3 mm, and the figure is a share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import CTVolume

Array = NDArray[np.float32]

CELL_MM = 3.0
SOFT_HU, MIXED_HU = (-150.0, 150.0), (-75.0, -5.0)  # fat is near -100, water-like tissue above 0
EVEN_SD_HU = 30.0  # patches of 3 x 3 cells in a slice with a smaller SD than this are even
QUIETEST = 0.2  # where noise alone exceeds that: the SD of the quietest fifth of the soft patches
FEWEST_PATCHES = 300
SLAB_CELLS = 40  # worked on at a time: a whole trunk is never copied


def mixed_share(ct: CTVolume) -> float:
    """Share of the even soft-tissue patches that attenuate like a mixture of fat and water, percent.

    NaN where the CT shows too little soft tissue to say.
    """
    voxels, spacing_mm = _slices_first(ct)
    factors = [max(round(CELL_MM / spacing), 1) for spacing in spacing_mm]
    means, spreads = [], []
    for first in range(0, voxels.shape[0], SLAB_CELLS * factors[0]):
        cells = _cells(voxels[first : first + SLAB_CELLS * factors[0]], factors)
        if min(cells.shape[1:], default=0) < 3 or not cells.shape[0]:
            continue
        mean = _patch_mean(cells)
        spread = np.sqrt(np.maximum(_patch_mean(cells * cells) - mean * mean, 0.0))
        soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1])
        means.append(mean[soft])
        spreads.append(spread[soft])
    mean, spread = (np.concatenate(parts) if parts else np.empty(0, np.float32) for parts in (means, spreads))
    if len(mean) < FEWEST_PATCHES:
        return math.nan
    even = mean[spread < max(EVEN_SD_HU, float(np.quantile(spread, QUIETEST)))]
    return 100.0 * float(((even > MIXED_HU[0]) & (even < MIXED_HU[1])).mean())


def check_domain(ct: CTVolume, domain: Mapping[str, Any]) -> str:
    """ "" if the CT looks like the simulated ones, else a sentence on what differs.

    domain: domain.json of the demonstration segmenter; "mixed_share_percent": {"range": [low, high], "limit": …}.
    """
    found = mixed_share(ct)
    if math.isnan(found):
        return "It shows too little soft tissue to compare it with simulated CTs."
    known = domain["mixed_share_percent"]
    if found <= float(known["limit"]):
        return ""
    low, high = known["range"]
    return (
        f"{found:.1f} % of its even soft tissue attenuates like a mixture of fat and water; "
        f"in simulated CTs {low:.1f} to {high:.1f} % do."
    )


def _slices_first(ct: CTVolume) -> tuple[NDArray[Any], list[float]]:
    """The voxels with the axis that runs along the body in front, whichever way they are stored, and their spacing."""
    upwards = np.abs(np.reshape(ct.geometry.direction, (3, 3))[2])  # of the voxel axes x, y, z
    along = 2 - int(np.argmax(upwards))
    spacing = list(reversed(ct.geometry.spacing_mm_xyz))
    return np.moveaxis(ct.array_zyx, along, 0), [spacing.pop(along), *spacing]


def _cells(array_zyx: NDArray[Any], factors: list[int]) -> Array:
    """Block averages, HU clipped so that metal and air do not reach far."""
    z, y, x = (n // f for n, f in zip(array_zyx.shape, factors, strict=True))
    a, b, c = factors
    blocks = np.asarray(array_zyx[: z * a, : y * b, : x * c], np.float32).reshape(z, a, y, b, x, c)
    return np.asarray(np.clip(blocks.mean(axis=(1, 3, 5)), -400.0, 400.0), np.float32)


def _patch_mean(cells: Array) -> Array:
    """Mean over 3 x 3 cells of a slice, shape (z, y - 2, x - 2)."""
    rows = cells[:, :-2] + cells[:, 1:-1] + cells[:, 2:]
    return np.asarray((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / np.float32(9.0))
