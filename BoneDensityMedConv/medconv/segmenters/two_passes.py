"""One segmentation out of two passes: the coarse one says which vertebra it is, the fine one where it ends.

The coarse pass sees ribs, sacrum and the whole lumbar spine; the fine one sees the part around L1 alone and can name
that well only from its neighbours. So names are the coarse pass's, and a disagreement on L1 is told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.types import BoolArray, Index3

# Starting values, of no study. Two passes of one package that mean the same vertebra overlap with a Dice near 0.9; half
# a vertebra taken for its neighbour gives 0.5.
SAME_VERTEBRA_DICE = 0.7
ONE_NAME_SHARE = 0.75

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Combined:
    """`labels_zyx` on the fine grid: the vertebrae that have the fine boundaries (`refined`), nothing else.

    `l1_agreed`: whether both passes mean the same vertebra by L1; `l1_dice`: how well the two overlap, None if one of
    them has no L1.
    """

    labels_zyx: Labels
    refined: tuple[int, ...]
    l1_agreed: bool
    l1_dice: float | None


def combine(
    coarse_zyx: Labels, fine_zyx: Labels, vertebrae: Collection[int], refine: Collection[int], l1: int
) -> Combined:
    """Give the vertebrae `refine` of the coarse pass the boundaries of the fine one; both on the fine grid.

    Both use the same label numbers; `vertebrae` are those of vertebrae. A fine vertebra takes the name of the coarse
    one in which it mostly lies; one that is spread over two is divided as the coarse pass divides it. Pieces that do
    not touch the coarse vertebra are dropped. Where the fine pass lost a vertebra or a part of it, the coarse stays.
    """
    bones = np.isin(np.arange(256), list(vertebrae))
    drawn = np.where(bones[fine_zyx], fine_zyx, 0).astype(np.uint8)
    named = _renamed(drawn, coarse_zyx, bones)
    out = np.zeros_like(named)
    refined = []
    for label in refine:
        before = coarse_zyx == label
        after = _pieces_that_touch(named == label, before)
        if _dice(after, before) >= SAME_VERTEBRA_DICE:
            out[after] = label
            refined.append(label)
    return Combined(out, tuple(refined), *_l1_agreement(drawn, coarse_zyx, bones, l1))


def overlay(coarse: Labels, start_xyz: Index3, fine: Labels, fine_start_xyz: Index3) -> tuple[Labels, Index3]:
    """The coarse block on the CT's grid with the vertebrae of the fine block in place of its own, and its start."""
    present = np.flatnonzero(np.bincount(fine.ravel(), minlength=256)[1:]) + 1
    kept = np.arange(256, dtype=np.uint8)
    kept[present] = 0
    starts = [np.array(start_xyz)[::-1], np.array(fine_start_xyz)[::-1]]
    stops = [starts[0] + coarse.shape, starts[1] + fine.shape]
    start, stop = np.minimum(*starts), np.maximum(*stops)
    out = np.zeros(tuple(stop - start), np.uint8)
    at = [
        tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        for low, high in zip(starts, stops, strict=True)
    ]
    out[at[0]] = kept[coarse]
    np.copyto(out[at[1]], fine, where=fine > 0)
    z, y, x = (int(v) for v in start)
    return out, (x, y, z)


def largest_piece(mask: BoolArray) -> BoolArray:
    """The largest connected piece of a mask."""
    pieces, count = _pieces(mask)
    return pieces == 1 if count else mask


def _renamed(drawn: Labels, coarse: Labels, bones: BoolArray) -> Labels:
    """The fine labels under the coarse pass's names."""
    pairs = np.bincount(drawn.ravel().astype(np.intp) * 256 + coarse.ravel(), minlength=256 * 256).reshape(256, 256)
    pairs[:, ~bones] = 0
    names = np.arange(256, dtype=np.uint8)
    divided = np.zeros(256, bool)
    for label in np.flatnonzero(pairs.any(axis=1)):
        if label:
            names[label] = pairs[label].argmax()
            divided[label] = pairs[label].max() < ONE_NAME_SHARE * pairs[label].sum()
    return np.where(divided[drawn] & bones[coarse], coarse, names[drawn])


def _l1_agreement(drawn: Labels, coarse: Labels, bones: BoolArray, l1: int) -> tuple[bool, float | None]:
    fine, before = drawn == l1, coarse == l1
    if fine.any() and before.any():
        dice = _dice(_pieces_that_touch(fine, bones[coarse]), before)
        return dice >= SAME_VERTEBRA_DICE, dice
    # One pass alone has an L1: it is another vertebra to the other one, unless that sees no bone there at all.
    return not (before.any() or np.count_nonzero(bones[coarse] & fine) > fine.sum() / 2 > 0), None


def _pieces_that_touch(mask: BoolArray, other: BoolArray) -> BoolArray:
    pieces, _ = _pieces(mask)
    touching = np.unique(pieces[other])
    return np.isin(pieces, touching[touching > 0])


def _pieces(mask: BoolArray) -> tuple[NDArray[np.integer], int]:
    """The connected pieces (26 neighbours), numbered from the largest."""
    image = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    pieces = sitk.GetArrayFromImage(sitk.RelabelComponent(image))
    return pieces, int(pieces.max(initial=0))


def _dice(a: BoolArray, b: BoolArray) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 0.0
