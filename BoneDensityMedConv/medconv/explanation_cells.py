"""A vertebra cut into small pieces, none of which crosses the border of two of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import Index3

# The offsets of a face-centred lattice, in halves of a piece: four cuts so that no border is in the same place twice.
HALF_OFFSETS = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))
SMALLEST = 0.35  # of the usual piece of its part; splinters at a border join their neighbours


def cuts(labels_zyx: NDArray[np.uint8], edge_voxels: int) -> Iterator[NDArray[np.int64]]:
    """Four ways to cut what is labelled into pieces about `edge_voxels` wide, shape (z, y, x): 0 outside, 1, 2, 3, …

    Every piece lies within one label. The same labels give the same pieces.
    """
    for offset in HALF_OFFSETS:
        shift = [edge_voxels // 2 * step for step in offset]
        pieces = np.zeros(labels_zyx.shape, np.int64)
        for label in np.unique(labels_zyx[labels_zyx > 0]):
            voxels = np.argwhere(labels_zyx == label)
            pieces[tuple(voxels.T)] = pieces.max() + 1 + _pieces(voxels, edge_voxels, (shift[0], shift[1], shift[2]))
        yield pieces


def _pieces(voxels_zyx: NDArray[np.int64], edge: int, shift_zyx: Index3) -> NDArray[np.int64]:
    """Which piece each voxel, shape (n, 3), belongs to: that with the nearest centre; numbered from 0."""
    blocks = (voxels_zyx + shift_zyx) // edge
    _, block, count = np.unique(blocks, axis=0, return_inverse=True, return_counts=True)
    block = block.ravel()
    sums = np.stack([np.bincount(block, voxels_zyx[:, axis]) for axis in range(3)], axis=1)
    centres = sums / count[:, np.newaxis]
    whole = count >= SMALLEST * np.median(count)
    alone = _squared(centres, centres[whole]).min(axis=1) > edge**2  # the tip of a process has no neighbour
    nearest = _squared(voxels_zyx, centres[whole | alone]).argmin(axis=1)
    return np.unique(nearest, return_inverse=True)[1].ravel()


def _squared(points: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Squared distances of points, shape (n, 3), from others, shape (m, 3): shape (n, m)."""
    return np.asarray(((points[:, np.newaxis] - others[np.newaxis]) ** 2).sum(axis=-1))
