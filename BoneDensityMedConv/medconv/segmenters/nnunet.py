"""Any nnU-Net v2 model folder as a segmenter: cut to the lumbar region, canonical axes, the network's spacing, back.

Source of the labels' numbers: the folder's own dataset.json, or a label map that a person names (`vertebrae`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medconv.segmenter import Progress, SegmenterRequest
from medconv.segmenters import lumbar_labels, structures_kept
from medconv.segmenters.nnunet_runtime import NNUNetModel
from medconv.segmenters.region import locate_lumbar_region
from medconv.segmenters.resampling import ResampledBlock, canonical_block, labels_to_ct
from medconv.types import CTVolume, InputRefused, QualityNote, SpineSegmentation
from medconv.vertebrae import label_map_from, read_label_map


class NNUNetSegmenter:
    """Finds vertebrae with a model folder; weights stay loaded for the next case."""

    def __init__(self, request: SegmenterRequest) -> None:
        self._model = NNUNetModel(request.folder, request.device)
        names = (
            read_label_map(request.label_map) if request.label_map else label_map_from(self._model.folder.label_names)
        )
        self._names = structures_kept(names)

    def segment(self, ct: CTVolume, progress: Progress) -> SpineSegmentation:
        """See `medconv.segmenter.Segmenter`."""
        began = time.perf_counter()
        region = locate_lumbar_region(ct)
        start, size = region or ((0, 0, 0), ct.geometry.size_xyz)
        block = canonical_block(ct, start, size, self._model.folder.spacing_mm_xyz)
        labels, notes = self._model.predict(block, progress)
        found, start_xyz = labels_to_ct(labels, block.geometry, ct.geometry, self._names)
        return SpineSegmentation(
            found, start_xyz, ct.geometry, self._names, "nnunet",
            identity=f"{self._model.folder.dataset_name} {self._model.checkpoint_sha256[:12]}",
            notes=tuple(notes), timing_s={"total": time.perf_counter() - began},
        )  # fmt: skip
