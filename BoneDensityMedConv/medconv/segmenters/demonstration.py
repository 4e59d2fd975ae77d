"""The demonstration segmenter: a small network that ships with the product, trained on its simulated CTs alone."""

from __future__ import annotations

from dataclasses import replace

from medconv.segmenter import DEMONSTRATION, Progress, SegmenterRequest
from medconv.segmenters.nnunet import NNUNetSegmenter
from medconv.types import CTVolume, SpineSegmentation

FOLDER = "medconv-sim-vertebrae"


class DemonstrationSegmenter:
    """Shows the whole chain on simulated CTs; refuses others unless the person insists."""

    def __init__(self, request: SegmenterRequest) -> None:
        self._request = request
        self._segmenter = NNUNetSegmenter(request)

    def segment(self, ct: CTVolume, progress: Progress) -> SpineSegmentation:
        """See `medconv.segmenter.Segmenter`."""
        return replace(self._segmenter.segment(ct, progress), segmenter=DEMONSTRATION, is_demonstration=True)
