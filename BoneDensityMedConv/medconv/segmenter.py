"""What a segmenter is, and which there are: a CT goes in, the vertebrae and their landmarks come out.

The segmenters' own runtime (nnU-Net, TotalSegmentator) needs torch and much memory: panels and the command line run
them in the worker process (`worker_client`), never in their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from medconv.types import CTVolume, SpineSegmentation, UsageError

QUALITIES = ("full", "fast")
EXISTING, TOTALSEGMENTATOR, NNUNET, DEMONSTRATION = "existing", "totalsegmentator", "nnunet", "demonstration"
# What they are called in a sentence.
SPOKEN_NAMES: Mapping[str, str] = {
    EXISTING: "the given mask",
    TOTALSEGMENTATOR: "TotalSegmentator",
    NNUNET: "the nnU-Net model",
    DEMONSTRATION: "the demonstration network",
}

Progress = Callable[[str, float], None]


class Segmenter(Protocol):
    """Finds vertebrae in a CT."""

    def segment(self, ct: CTVolume, progress: Progress) -> SpineSegmentation:
        """The vertebrae and landmarks of a CT, on its own grid.

        progress: called with the stage in words and the fraction done, 0 to 1; it may raise Cancelled.
        Raises InputRefused (nothing found, a CT this network was not made for), MissingRequirement (package, weights,
        memory).
        """
        ...


@dataclass(frozen=True)
class SegmenterRequest:
    """Which segmenter, and how. Plain values: it travels to the worker process as JSON.

    kind: "totalsegmentator", "nnunet" or "demonstration". quality: "full" or "fast" (TotalSegmentator only).
    folder: the nnU-Net v2 model folder. label_map: "" for the folder's own names, or what `read_label_map` takes.
    weights_folder: "" for the usual place of TotalSegmentator's weights. device: "auto", "cpu", "cuda", "mps".
    insist: run the demonstration network on a CT that does not look simulated.
    """

    kind: str
    quality: str = "full"
    folder: str = ""
    label_map: str = ""
    weights_folder: str = ""
    device: str = "auto"
    insist: bool = False

    def __post_init__(self) -> None:
        if self.kind not in (TOTALSEGMENTATOR, NNUNET, DEMONSTRATION):
            raise UsageError(
                "segmenter_unknown",
                f"There is no segmenter '{self.kind}'.",
                "Choose totalsegmentator, nnunet:FOLDER, demonstration or existing.",
            )
        if self.quality not in QUALITIES:
            raise UsageError("quality_unknown", f"There is no quality '{self.quality}'.", "Choose full or fast.")
        if self.kind == NNUNET and not self.folder:
            raise UsageError("nnunet_folder_missing", "nnunet needs its model folder.", "Write nnunet:FOLDER.")

    @staticmethod
    def parse(text: str, **options: object) -> SegmenterRequest:
        """From the command line's "totalsegmentator", "demonstration" or "nnunet:FOLDER". Raises UsageError."""
        kind, colon, folder = text.partition(":")
        if colon and kind != NNUNET:
            raise UsageError("segmenter_unknown", f"'{kind}' takes no folder.", "Only nnunet:FOLDER does.")
        return SegmenterRequest(kind, folder=folder, **options)  # type: ignore[arg-type]


def make_segmenter(request: SegmenterRequest) -> Segmenter:
    """The segmenter of a request, ready to be used again for the next case. Raises MissingRequirement, UsageError."""
    if request.kind == TOTALSEGMENTATOR:
        from medconv.segmenters.totalsegmentator import TotalSegmentatorSegmenter

        return TotalSegmentatorSegmenter(request)
    if request.kind == DEMONSTRATION:
        from medconv.segmenters.demonstration import DemonstrationSegmenter

        return DemonstrationSegmenter(request)
    from medconv.segmenters.nnunet import NNUNetSegmenter

    return NNUNetSegmenter(request)
