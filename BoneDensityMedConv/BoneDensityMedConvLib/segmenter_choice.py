"""Where the vertebrae come from: the four sources, their options, and what each still needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from BoneDensityMedConvLib import dependencies, segmenter_weights
from medconv.segmenter import (
    DEMONSTRATION,
    EXISTING,
    NNUNET,
    TOTALSEGMENTATOR,
    SegmenterRequest,
)

LABELS: Mapping[str, str] = {
    TOTALSEGMENTATOR: "Automatic (TotalSegmentator)",
    EXISTING: "An existing segment",
    NNUNET: "Automatic (an nnU-Net v2 model of your own)",
    DEMONSTRATION: "Demonstration (simulated CT only)",
}
QUALITIES: tuple[Mapping[str, str], ...] = (
    {
        "id": "full",
        "label": "Full",
        "help": "Vertebrae at 1.5 mm after a 3 mm pass that finds the level: for measuring.",
    },
    {
        "id": "fast",
        "label": "Fast",
        "help": "One 3 mm pass only: quicker, with coarser outlines.",
    },
)
LABEL_MAPS: tuple[Mapping[str, str], ...] = (
    {"id": "", "label": "The model's own names (dataset.json)"},
    {"id": "verse", "label": "VerSe / CTSpine1K (L1 = 20)"},
    {"id": "totalsegmentator", "label": "TotalSegmentator (L1 = 31)"},
)
INSIST_LABEL = "Run it on a real CT all the same"
DEMONSTRATION_NOTE = (
    "Demonstration: trained on simulated CTs only. It shows how the program works and is no use on a patient's CT."
)


def is_automatic(chosen: Any) -> bool:
    """True if a network is to find the vertebrae."""
    return bool(chosen.segmenter != EXISTING)


def request(chosen: Any, kind: str = "") -> SegmenterRequest:
    """What the worker is asked for, by default of the chosen source. Raises UsageError if a choice is missing."""
    kind = kind or chosen.segmenter
    return SegmenterRequest(
        kind,
        quality=chosen.quality if kind == TOTALSEGMENTATOR else "full",
        folder=chosen.nnunetFolder if kind == NNUNET else "",
        label_map=chosen.nnunetLabelMap if kind == NNUNET else "",
        device=chosen.device,
        insist=chosen.insist and kind == DEMONSTRATION,
    )


def what_is_missing(chosen: Any, kind: str = "") -> str:
    """What a source (by default the chosen one) still needs from the person, as a sentence; "" if nothing."""
    kind = kind or chosen.segmenter
    if reason := _why_not_available(kind):
        return reason
    if kind == NNUNET and not chosen.nnunetFolder:
        return "Choose the folder of the nnU-Net v2 model."
    if kind == NNUNET and not Path(chosen.nnunetFolder).is_dir():
        return "The folder of the nnU-Net v2 model is not there; choose it again."
    if kind == TOTALSEGMENTATOR:
        return segmenter_weights.what_is_missing(chosen.quality)
    return ""


def list_view() -> list[dict[str, Any]]:
    """The sources as the panel lists them; what a press of Analyse can install after asking counts as available."""
    listed = []
    for kind, label in LABELS.items():
        reason = _why_not_available(kind)
        listed.append({"id": kind, "label": label, "available": not reason, "reason": reason})
    return listed


def options_view(chosen: Any, second: str = "") -> dict[str, Any]:
    """The options of the sources, and which of them act now. second: the source that the first is compared with."""
    own_map = chosen.nnunetLabelMap
    maps = [dict(entry) for entry in LABEL_MAPS]
    if own_map not in {entry["id"] for entry in maps}:
        maps.append({"id": own_map, "label": Path(own_map).name})
    demonstration = chosen.segmenter == DEMONSTRATION
    return {
        "quality": chosen.quality,
        "qualities": [dict(entry) for entry in QUALITIES],
        "quality_enabled": chosen.segmenter == TOTALSEGMENTATOR,
        "nnunet_folder": chosen.nnunetFolder,
        "nnunet_label_map": own_map,
        "nnunet_label_maps": maps,
        "nnunet_enabled": chosen.segmenter == NNUNET,
        "insist": chosen.insist,
        "insist_enabled": demonstration,
        "second_insist_enabled": second == DEMONSTRATION,
        "insist_label": INSIST_LABEL,
        "demonstration_note": DEMONSTRATION_NOTE if demonstration else "",
    }


def _why_not_available(kind: str) -> str:
    """What a source lacks on this computer that the panel can't install, and what to do; "" if nothing."""
    if kind == EXISTING:
        return ""
    lacking = [problem for problem in dependencies.missing(kind) if not problem.installable]
    return f"{lacking[0].message} {lacking[0].remedy}" if lacking else ""
