"""The demonstration segmenter: a small network that ships with the product, trained on its simulated CTs alone.

It shows the whole chain on a fresh machine without any download. It has never seen a patient: a CT that does not look
simulated is refused unless the person insists, and everything it gives says what it is.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from medconv.segmenter import DEMONSTRATION, Progress, SegmenterRequest
from medconv.segmenters.nnunet import NNUNetSegmenter
from medconv.types import CTVolume, InputRefused, MissingRequirement, QualityNote, Severity, SpineSegmentation

FOLDER, DOMAIN_FILE = "medconv-sim-vertebrae", "domain.json"
NOTE = QualityNote(
    "demonstration_segmenter",
    Severity.INFO,
    "The vertebrae were found by the demonstration network, which was trained on simulated CTs alone: it shows how the "
    "software works and is not meant for patients.",
)


class DemonstrationSegmenter:
    """Finds vertebrae in simulated CTs."""

    def __init__(self, request: SegmenterRequest) -> None:
        """Raises MissingRequirement if the network is not installed with the product."""
        folder = find_demonstration_folder()
        self._insist = request.insist
        self._domain = _read_domain(folder / DOMAIN_FILE)
        self._segmenter = NNUNetSegmenter(replace(request, folder=str(folder), label_map=""))

    def segment(self, ct: CTVolume, progress: Progress) -> SpineSegmentation:
        """See `medconv.segmenter.Segmenter`. Raises InputRefused "demonstration_on_real_ct" unless insisted upon."""
        from medconv.segmenters.domain import check_domain

        progress("Checking that the CT is a simulated one", 0.0)
        notes = [NOTE]
        if doubt := check_domain(ct, self._domain):
            if not self._insist:
                raise InputRefused(
                    "demonstration_on_real_ct",
                    f"The demonstration network knows simulated CTs only, and this does not look like one. {doubt}",
                    "Choose TotalSegmentator, an nnU-Net model or your own mask. To try it all the same, insist on it; "
                    "its result then means nothing.",
                )
            notes.append(_warning(doubt))
        found = self._segmenter.segment(ct, progress)
        return replace(found, segmenter=DEMONSTRATION, is_demonstration=True, notes=(*notes, *found.notes))


def find_demonstration_folder() -> Path:
    """The shipped model folder: MEDCONV_WEIGHTS_DIR, then where the package, Slicer or a checkout has its weights.

    Raises MissingRequirement if it is in none of them.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "model_weights", package.parent / "model_weights", package.parents[1] / "model_weights"]
    if chosen := os.environ.get("MEDCONV_WEIGHTS_DIR"):
        places.insert(0, Path(chosen))
    for place in places:
        if (place / FOLDER).is_dir():
            return place / FOLDER
    raise MissingRequirement(
        "demonstration_missing",
        f"The demonstration network ({FOLDER}) is not installed.",
        "Restore the folder model_weights from the release, or choose another segmenter.",
    )


def _read_domain(path: Path) -> dict[str, Any]:
    """What a simulated CT looks like, as `domain.check_domain` takes it. Raises MissingRequirement."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MissingRequirement(
            "demonstration_incomplete",
            f"The demonstration network's {path.name} can't be read ({error}): without it no CT can be told from a "
            "simulated one.",
            "Restore the folder model_weights from the release.",
        ) from error


def _warning(doubt: str) -> QualityNote:
    return QualityNote(
        "demonstration_on_real_ct",
        Severity.WARNING,
        "The demonstration network was made to segment a CT that does not look simulated: which vertebra it calls L1, "
        f"and its outline, mean nothing for this patient ({doubt.rstrip('.')}).",
    )
