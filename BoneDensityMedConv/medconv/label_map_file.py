"""A segmentation as a label map file with names: read from any numbering, written in TotalSegmentator's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv import volume_io
from medconv.segmenter import EXISTING, SPOKEN_NAMES
from medconv.segmenters import structures_kept
from medconv.segmenters.resampling import labels_to_ct
from medconv.types import ImageGeometry, Index3, InputRefused, QualityNote, Severity, SpineSegmentation
from medconv.vertebrae import TOTALSEGMENTATOR, read_label_map

LABELS, NAMES = "labels.nii.gz", "labels.json"
NUMBERING = "TotalSegmentator v2, task 'total'; from 118 on: structures that it does not number"
# Beyond TotalSegmentator's 117 structures; 118 to 120 as in the simulated CTs.
BEYOND_TOTALSEGMENTATOR: Mapping[str, int] = {"L6": 118, "rib_left_13": 119, "rib_right_13": 120, "T13": 121}
FIRST_FREE = 122


def read_segmentation(
    path: Path, label_map: str | Path, ct_geometry: ImageGeometry
) -> tuple[SpineSegmentation, list[QualityNote]]:
    """Vertebrae and landmarks of a label map file on the CT's grid, and a note if it had to be resampled.

    label_map: what `vertebrae.read_label_map` takes. With a `labels.json` of `write_segmentation` the segmentation
    stays the segmenter's: its doubts must be decided on, and a demonstration stays one.
    Raises InputRefused (unreadable, none of the named labels in it, elsewhere in space), UsageError (no such map).
    """
    names = structures_kept(read_label_map(label_map))
    labels, geometry, _owner = volume_io.read_labels(path)
    labels, names = _in_one_byte(labels, names)
    if not labels.any():
        raise InputRefused(
            "label_absent",
            "The mask holds none of the labels that the label map names.",
            "Choose the label map that belongs to the mask (TotalSegmentator: L1 = 31, VerSe/CTSpine1K: L1 = 20).",
        )
    notes = []
    if geometry.same_grid_as(ct_geometry):
        block, start = _cut(labels)
    else:
        block, start = labels_to_ct(labels, geometry, ct_geometry, names)
        notes.append(
            QualityNote(
                "mask_resampled",
                Severity.INFO,
                "The mask has another voxel grid than the CT and was resampled onto it (linearly, label by label).",
            )
        )
    if not block.any():
        raise InputRefused(
            "mask_elsewhere",
            "The mask lies outside the CT: the two do not overlap in space.",
            "Use the mask that was made from this CT.",
        )
    return SpineSegmentation(block, start, ct_geometry, names, **_origin(label_map)), notes


def write_segmentation(folder: Path, segmentation: SpineSegmentation) -> None:
    """`labels.nii.gz` on the CT's whole grid, and `labels.json` with the numbers and names that it uses.

    `labels.json` is a label map that --label-map takes.
    """
    numbers = written_numbers(segmentation.names)
    lookup = np.zeros(256, np.uint8)
    for label, name in segmentation.names.items():
        lookup[label] = numbers[name]
    whole = np.zeros(segmentation.ct_geometry.shape_zyx, np.uint8)
    x, y, z = segmentation.start_xyz
    depth, height, width = segmentation.labels_zyx.shape
    whole[z : z + depth, y : y + height, x : x + width] = lookup[segmentation.labels_zyx]
    volume_io.write_image(folder / LABELS, whole, segmentation.ct_geometry)
    document = {
        "numbering": NUMBERING,
        "labels": numbers,
        "segmented_by": {
            "segmenter": segmentation.segmenter,
            "identity": segmentation.identity,
            "demonstration": segmentation.is_demonstration,
            "notes": [{"code": n.code, "severity": str(n.severity), "message": n.message} for n in segmentation.notes],
        },
    }
    (folder / NAMES).write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def written_numbers(names: Mapping[int, str]) -> dict[str, int]:
    """Structure → number in the written label map: TotalSegmentator's where it has one, else from 118 on."""
    known = {**TOTALSEGMENTATOR, **BEYOND_TOTALSEGMENTATOR}
    unknown = sorted(name for name in names.values() if name not in known)
    extra = {name: FIRST_FREE + place for place, name in enumerate(unknown)}
    return {name: known.get(name) or extra[name] for name in names.values()}


def _origin(label_map: str | Path) -> dict[str, Any]:
    """Segmenter, identity and notes as `labels.json` keeps them; a person's own mask for any other label map."""
    path = Path(label_map)
    kept = json.loads(path.read_text("utf-8")).get("segmented_by") if path.is_file() else None
    if not isinstance(kept, dict) or kept.get("segmenter") not in SPOKEN_NAMES:
        return {"segmenter": EXISTING}
    notes = [QualityNote(n["code"], Severity(n["severity"]), n["message"]) for n in kept.get("notes", [])]
    return {
        "segmenter": kept["segmenter"],
        "identity": str(kept.get("identity", "")),
        "is_demonstration": kept.get("demonstration") is True,
        "notes": tuple(notes),
    }


def _in_one_byte(labels: NDArray[Any], names: Mapping[int, str]) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Only the named labels, as uint8; numbers above 255 make all of them be renumbered."""
    renumber = max(names) > np.iinfo(np.uint8).max
    new = {label: place if renumber else label for place, label in enumerate(names, start=1)}
    kept = np.zeros(labels.shape, np.uint8)
    lookup = np.zeros(max(names) + 2, np.uint8)
    for label, number in new.items():
        lookup[label] = number
    for source, target in zip(labels, kept, strict=True):  # slice by slice: no copy of the whole map as int64
        np.take(lookup, np.minimum(source, len(lookup) - 1), out=target)
    return kept, {new[label]: name for label, name in names.items()}


def _cut(labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Index3]:
    """The block that holds all labels, and its first voxel."""
    ends = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    (z, zz), (y, yy), (x, xx) = ((int(e[0]), int(e[-1]) + 1) for e in ends)
    return labels[z:zz, y:yy, x:xx].copy(), (x, y, z)
