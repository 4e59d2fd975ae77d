"""L1 from a label map: choose it, bring it onto the CT's grid, and refuse what can't be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import index3, to_image
from medconv.types import (
    BoolArray,
    ImageGeometry,
    Index3,
    InputRefused,
    L1Mask,
    MedConvError,
    QualityNote,
    Severity,
    UsageError,
)
from medconv.vertebrae import LABEL_MAPS
from medconv.vertebral_body import MINOR_PIECE_FRACTION, VOLUME_RANGE_ML

LabelSlices = Callable[[], Iterable[NDArray[Any]]]
_TOTALSEGMENTATOR, _VERSE = LABEL_MAPS["totalsegmentator"]["L1"], LABEL_MAPS["verse"]["L1"]
USUAL_NUMBERS = f"{_TOTALSEGMENTATOR} in TotalSegmentator's maps, {_VERSE} in VerSe/CTSpine1K's"


def from_labels(
    labels_zyx: NDArray[Any],
    geometry: ImageGeometry,
    label: int | None,
    ct_geometry: ImageGeometry,
    source: str = "",
) -> tuple[L1Mask, list[QualityNote]]:
    """L1 out of a label map on any grid, as a mask on the CT's grid.

    labels_zyx: integer labels on `geometry`. label: L1's number; None is allowed if the map holds a single label.
    Returns the mask and a note if it had to be resampled.
    Raises InputRefused (label absent, mask elsewhere in space) and UsageError (no label given, several present).
    """
    return from_slices(lambda: labels_zyx, geometry, label, ct_geometry, source)


def from_slices(
    read: LabelSlices, geometry: ImageGeometry, label: int | None, ct_geometry: ImageGeometry, source: str = ""
) -> tuple[L1Mask, list[QualityNote]]:
    """As `from_labels`, from slices that come one after the other: of the map no more than L1 is kept.

    read: gives all slices, shape (y, x), in order; it is called again only for a message.
    """
    if label is not None and label < 1:
        raise UsageError("label_not_positive", f"Label {label} can't be L1: 0 is the background.", "Give 1 or more.")
    block, start = _cut_label(read, label)
    if geometry.same_grid_as(ct_geometry):
        return L1Mask(block, start, ct_geometry, source), []
    x, y, z = (int(n) for n in block.shape[::-1])
    mask = _onto_ct_grid(block, geometry.cut(start, (x, y, z)), ct_geometry, source)
    note = QualityNote(
        "mask_resampled",
        Severity.INFO,
        "The mask has another voxel grid than the CT and was resampled onto it (nearest neighbour).",
    )
    return mask, [note]


def from_array(mask_zyx: NDArray[Any], geometry: ImageGeometry, ct_geometry: ImageGeometry, source: str = "") -> L1Mask:
    """A mask (non-zero is L1) on any grid, as a mask on the CT's grid. Raises as `from_labels`."""
    mask, _ = from_labels(np.asarray(mask_zyx) != 0, geometry, 1, ct_geometry, source)
    return mask


def check(mask: L1Mask, vertebra: str = "L1") -> tuple[L1Mask, list[QualityNote]]:
    """Judge L1: whole, in one piece, of plausible size. Returns the largest piece and notes; raises InputRefused.

    vertebra: what messages call it, where another one stands in for L1.
    """
    if touches_border(mask):
        raise InputRefused(
            "l1_touches_border",
            f"{vertebra} touches the border of the CT: part of the vertebra is missing.",
            f"Use a CT that shows all of {vertebra}.",
        )
    mask, notes = _largest_piece(mask, vertebra)
    volume = volume_ml(mask)
    low, high = VOLUME_RANGE_ML
    if not low <= volume <= high:
        raise InputRefused(
            "l1_volume_implausible",
            f"The {vertebra} mask has {volume:.1f} ml; a whole vertebra has {low:.0f} to {high:.0f} ml.",
            "Check the segmentation (a fragment, or several vertebrae under one label?) and the voxel spacing in the "
            f"header ({' x '.join(f'{mm:.3g}' for mm in mask.ct_geometry.spacing_mm_xyz)}): is it in mm, and right?",
        )
    return mask, notes


def touches_border(mask: L1Mask) -> bool:
    """True if a mask voxel lies in the outermost layer of the CT's grid."""
    for axis_xyz in range(3):
        axis = 2 - axis_xyz
        start, size = mask.start_xyz[axis_xyz], mask.block_zyx.shape[axis]
        last = mask.ct_geometry.size_xyz[axis_xyz] - 1
        if start <= 0 and mask.block_zyx.take(0 - start, axis).any():
            return True
        if start + size - 1 >= last and mask.block_zyx.take(last - start, axis).any():
            return True
    return False


def volume_ml(mask: L1Mask) -> float:
    """Volume of the mask in millilitres."""
    return float(np.count_nonzero(mask.block_zyx)) * mask.ct_geometry.voxel_volume_ml


def center_lps_mm(mask: L1Mask) -> tuple[float, float, float]:
    """Centroid of the mask's voxels."""
    z, y, x = (float(np.mean(i)) for i in np.nonzero(mask.block_zyx))
    center = mask.geometry.index_to_lps((x, y, z))
    return float(center[0]), float(center[1]), float(center[2])


def _cut_label(read: LabelSlices, label: int | None) -> tuple[BoolArray, Index3]:
    """The bounding box of one label, or of the only one, and its first voxel in the map."""
    pieces: list[tuple[int, int, int, BoolArray]] = []  # z, y, x of a slice's own box, and the box
    wanted, others = label, False
    for z, values in enumerate(read()):
        if wanted is None:
            if not values.any():
                continue
            wanted = int(values.max())
        inside = values == wanted
        others = others or (label is None and np.count_nonzero(inside) != np.count_nonzero(values))
        if inside.any():
            ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            y, x = int(ys[0]), int(xs[0])
            pieces.append((z, y, x, inside[y : ys[-1] + 1, x : xs[-1] + 1].copy()))
    if not pieces or others:
        raise _not_found(label, _labels_present(read()))
    z0, y0, x0 = pieces[0][0], min(y for _, y, _, _ in pieces), min(x for _, _, x, _ in pieces)
    rows = max(y + len(inside) for _, y, _, inside in pieces) - y0
    columns = max(x + inside.shape[1] for _, _, x, inside in pieces) - x0
    block = np.zeros((pieces[-1][0] + 1 - z0, rows, columns), bool)
    for z, y, x, inside in pieces:
        block[z - z0, y - y0 : y - y0 + inside.shape[0], x - x0 : x - x0 + inside.shape[1]] = inside
    return block, (x0, y0, z0)


def _not_found(label: int | None, present: list[int]) -> MedConvError:
    """Why there is no mask: the label is absent, the map is empty, or it holds several and none was named."""
    found = ", ".join(map(str, present[:12]))
    if label is not None:
        return InputRefused(
            "label_absent",
            f"Label {label} (L1) is not in the mask; it holds {found or 'nothing'}.",
            f"Check the label number ({USUAL_NUMBERS}) or that the CT shows L1.",
        )
    if not present:
        return InputRefused("mask_empty", "The mask is empty.", "Choose a mask that holds L1.")
    return UsageError(
        "label_needed",
        f"The mask holds {len(present)} labels ({found}), so L1 must be named.",
        f"Give its number with --label ({USUAL_NUMBERS}).",
    )


def _labels_present(slices: Iterable[NDArray[Any]]) -> list[int]:
    present: set[int] = set()
    for values in slices:
        if values.any():
            present.update(np.unique(values).tolist())
    return sorted(int(value) for value in present if value != 0)


def _onto_ct_grid(block: BoolArray, geometry: ImageGeometry, ct_geometry: ImageGeometry, source: str) -> L1Mask:
    """Nearest-neighbour resampling of a mask block, only where it lies in the CT."""
    voxels_xyz = np.argwhere(block)[:, ::-1]
    index = ct_geometry.lps_to_index(geometry.index_to_lps(voxels_xyz))
    size = np.asarray(ct_geometry.size_xyz)
    inside = np.all((index >= -0.5) & (index <= size - 0.5), axis=1)
    if not inside.any():
        raise InputRefused(
            "mask_elsewhere",
            "The mask's L1 lies outside the CT: the two do not overlap in space.",
            "Use the mask that was made from this CT.",
        )
    # One voxel of the coarser grid on every side, so that nearest neighbours at the rim are kept.
    margin = 1 + np.ceil(max(geometry.spacing_mm_xyz) / np.asarray(ct_geometry.spacing_mm_xyz))
    low = np.maximum(np.floor(index.min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(index.max(axis=0) + margin) + 1, size).astype(int)
    start, extent = index3(low), index3(high - low)
    target = ct_geometry.cut(start, extent)
    resampled = sitk.Resample(
        to_image(block.astype(np.uint8), geometry), to_image(np.zeros(target.shape_zyx, np.uint8), target),
        sitk.Transform(), sitk.sitkNearestNeighbor, 0,
    )  # fmt: skip
    return L1Mask(sitk.GetArrayFromImage(resampled).astype(bool), start, ct_geometry, source)


def _largest_piece(mask: L1Mask, vertebra: str) -> tuple[L1Mask, list[QualityNote]]:
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.block_zyx.astype(np.uint8)), True)
    pieces = sitk.GetArrayFromImage(sitk.RelabelComponent(components, sortByObjectSize=True))
    sizes = np.bincount(pieces.ravel())[1:]
    if len(sizes) == 0:
        raise InputRefused("mask_empty", f"The {vertebra} mask is empty.", f"Choose a segment that holds {vertebra}.")
    if len(sizes) == 1:
        return mask, []
    rest = float(sizes[1:].sum()) / float(sizes.sum())
    if rest > MINOR_PIECE_FRACTION:
        raise InputRefused(
            "l1_in_pieces",
            f"The {vertebra} mask is in {len(sizes)} pieces; {rest:.0%} of it lies apart from the largest.",
            f"Mend the segmentation so that {vertebra} is one connected piece.",
        )
    note = QualityNote(
        "stray_voxels_removed",
        Severity.INFO,
        f"{len(sizes) - 1} stray piece(s) of the mask ({rest:.1%} of it) were left out.",
    )
    return L1Mask(pieces == 1, mask.start_xyz, mask.ct_geometry, mask.source), [note]
