"""Any nnU-Net v2 model folder as a segmenter: cut to the lumbar region, canonical axes, the network's spacing, back.

The labels' names are the folder's own (dataset.json), or those of a label map that a person names (`vertebrae`).
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medconv.segmenter import NNUNET, Progress, SegmenterRequest
from medconv.segmenters import structures_kept
from medconv.segmenters.nnunet_folder import ModelFolder
from medconv.segmenters.nnunet_runtime import NNUNetModel
from medconv.segmenters.region import locate_lumbar_region, misses_l1
from medconv.segmenters.resampling import ResampledBlock, canonical_block, labels_to_ct
from medconv.segmenters.strays import without_strays
from medconv.types import CTVolume, ImageGeometry, Index3, InputRefused, QualityNote, Severity, SpineSegmentation
from medconv.vertebrae import LABEL_MAPS, is_vertebra, label_map_from, plain_name, read_label_map

LEAST_VERTEBRAE_ML = 5.0  # less is no vertebra: a network leaves specks where there is none
LOCATED, PART_DONE, FOUND = 0.03, 0.6, 0.95


class NNUNetSegmenter:
    """Finds vertebrae with a model folder; its weights stay loaded for the next case."""

    def __init__(self, request: SegmenterRequest) -> None:
        """Check and load the folder. Raises MissingRequirement, InputRefused or UsageError for its label map."""
        self._model = NNUNetModel(request.folder, request.device)
        self._names = structure_names(self._model.folder, request.label_map)

    def segment(self, ct: CTVolume, progress: Progress) -> SpineSegmentation:
        """See `medconv.segmenter.Segmenter`."""
        began = time.perf_counter()
        progress("Locating the lumbar spine", 0.0)
        whole: tuple[Index3, Index3] = ((0, 0, 0), ct.geometry.size_xyz)
        region = locate_lumbar_region(ct)
        located = time.perf_counter()
        first_end = FOUND if region is None else PART_DONE
        found = self._pass(ct, region or whole, progress, "Finding vertebrae", (LOCATED, first_end))
        l1 = found.labels_zyx == found.label_of("L1")
        if misses_l1(l1, found.start_xyz, region, ct.geometry):
            found = self._pass(ct, whole, progress, "Finding vertebrae in the whole CT", (PART_DONE, FOUND))
        if _vertebrae_ml(found.labels_zyx, self._names, ct.geometry) < LEAST_VERTEBRAE_ML:
            raise InputRefused(
                "nothing_found",
                f"The network '{self._model.folder.dataset_name}' found no vertebra in this CT.",
                "Check that the CT shows the lumbar spine and that the label map fits the network, or choose another "
                "segmenter or your own mask.",
            )
        progress("Finding vertebrae", 1.0)
        ended = time.perf_counter()
        return replace(
            found, timing_s={"locate": located - began, "vertebrae": ended - located, "total": ended - began}
        )

    def _pass(
        self,
        ct: CTVolume,
        region: tuple[Index3, Index3],
        progress: Progress,
        stage: str,
        part: tuple[float, float],
    ) -> SpineSegmentation:
        """One run of the network on a region of the CT, the result on the CT's grid."""
        start, end = part

        def tell(stage: str, fraction: float) -> None:
            progress(stage, start + (end - start) * fraction)

        folder = self._model.folder
        block = canonical_block(ct, *region, folder.spacing_mm_xyz)
        labels, notes = self._predict(block, tell, stage)
        labels = without_strays(labels, block.geometry, self._names)
        placed, start_xyz = labels_to_ct(labels, block.geometry, ct.geometry, self._names)
        identity = f"{folder.dataset_name} {self._model.checkpoint_sha256[:12]}"
        return SpineSegmentation(placed, start_xyz, ct.geometry, self._names, NNUNET, identity, notes=tuple(notes))

    def _predict(
        self, block: ResampledBlock, progress: Progress, stage: str
    ) -> tuple[NDArray[np.uint8], list[QualityNote]]:
        """Labels of the block, in the orientation that the network's reader implies.

        Networks whose reader turns images to RAS, and TotalSegmentator's, get RAS. The other readers take an image as
        it is stored, and the plans do not say how the training images were stored: RAS is tried first, then LPS.
        """
        labels, notes = self._model.predict(block, progress, stage)
        if self._model.folder.reorients:
            return labels, notes
        orientation = "RAS"
        if _vertebrae_ml(labels, self._names, block.geometry) < LEAST_VERTEBRAE_ML:
            turned = replace(block, array_zyx=np.ascontiguousarray(block.array_zyx[:, ::-1, ::-1]))
            turned_labels, turned_notes = self._model.predict(turned, progress, f"{stage}, stored the other way round")
            if _vertebrae_ml(turned_labels, self._names, block.geometry) >= LEAST_VERTEBRAE_ML:
                labels, notes, orientation = turned_labels[:, ::-1, ::-1], turned_notes, "LPS"
        told = QualityNote(
            "nnunet_orientation",
            Severity.INFO,
            "The network's files do not say how its training images were oriented; the CT was handed over as "
            f"{orientation}.",
        )
        return labels, [*notes, told]


def structure_names(folder: ModelFolder, label_map: str = "") -> dict[int, str]:
    """Label → structure for a network, of those that are kept; `label_map` as in SegmenterRequest.

    Raises InputRefused if the map and the network do not fit: labels that the network does not have, other names than
    the network's own for the same label, no L1. UsageError for an unknown map.
    """
    own = folder.label_names
    if not label_map:
        return structures_kept(label_map_from(own))
    wanted = read_label_map(label_map)
    known = {int(label): plain_name(name) for name, label in own.items() if not isinstance(label, (list, tuple))}
    absent = sorted(set(wanted) - set(known))
    if label_map in LABEL_MAPS:  # these number all vertebrae there are; a network may know some of them
        wanted = {label: name for label, name in wanted.items() if label in known}
    elif absent:
        raise _unfit(folder, f"label {absent[0]} ({wanted[absent[0]]}) is none of the network's")
    for label, name in wanted.items():
        if is_vertebra(known[label]) and known[label] != name:
            raise _unfit(folder, f"label {label} is {known[label]} in the network and {name} in the map")
    if "L1" not in wanted.values():
        raise _unfit(folder, "the network has no label for L1 in this numbering")
    return structures_kept(wanted)


def _unfit(folder: ModelFolder, what: str) -> InputRefused:
    return InputRefused(
        "label_map_unfit",
        f"The label map does not fit the network '{folder.dataset_name}': {what}.",
        "Leave the label map empty to take the network's own names, or choose the map it was trained with.",
    )


def _vertebrae_ml(labels_zyx: NDArray[np.uint8], names: dict[int, str], grid: ImageGeometry) -> float:
    """Volume of all vertebrae in a label array."""
    count = np.bincount(labels_zyx.ravel(), minlength=256)
    return float(sum(count[label] for label, name in names.items() if is_vertebra(name)) * grid.voxel_volume_ml)
