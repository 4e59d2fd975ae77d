"""Where a segmentation in the scene comes from: which request made it, from which CT, and what it was when it was new.

Kept in attributes of the segmentation node, which are saved with the scene; a person's own has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from BoneDensityMedConvLib import fingerprint, scene
from medconv import vertebrae
from medconv.segmenter import EXISTING, SPOKEN_NAMES
from medconv.types import InputRefused, L1Mask, QualityNote, Severity, SpineSegmentation

REQUEST_ATTRIBUTE = "BoneDensityMedConv.SegmenterRequest"
SCAN_ATTRIBUTE = "BoneDensityMedConv.SegmentedScan"
ORIGIN_ATTRIBUTE = "BoneDensityMedConv.SegmentationOrigin"
EDITED = "The segment of {name} was edited after {segmenter} made it."


@dataclass(frozen=True)
class Origin:
    """What made a segmentation, the names of all structures that it can find, and a checksum of each that it found."""

    segmenter: str = EXISTING
    identity: str = ""
    is_demonstration: bool = False
    notes: tuple[QualityNote, ...] = ()
    known: tuple[str, ...] = ()
    checksums: Mapping[str, int] | None = None


def keep(node: Any, ct_node: Any, found: SpineSegmentation, request: str, masks: Mapping[str, L1Mask]) -> None:
    """Write into a new segmentation node what made it from which CT."""
    checksums = {name: fingerprint.of_mask(mask) for name, mask in masks.items()}
    known = tuple(found.names.values())
    origin = Origin(found.segmenter, found.identity, found.is_demonstration, found.notes, known, checksums)
    node.SetAttribute(REQUEST_ATTRIBUTE, request)
    node.SetAttribute(SCAN_ATTRIBUTE, _scan(node, ct_node))
    node.SetAttribute(ORIGIN_ATTRIBUTE, json.dumps(asdict(origin)))


def origin_of(node: Any) -> Origin:
    """What made a segmentation; for a person's own, that it is given."""
    try:
        facts = json.loads(node.GetAttribute(ORIGIN_ATTRIBUTE) or "")
        notes = tuple(QualityNote(n["code"], Severity(n["severity"]), n["message"]) for n in facts["notes"])
        return Origin(**facts | {"notes": notes, "known": tuple(facts["known"])})
    except (ValueError, KeyError, TypeError):  # none, or a scene edited by hand
        return Origin()


def request_of(node: Any) -> str:
    """The request that made a segmentation, "" for a person's own."""
    return node.GetAttribute(REQUEST_ATTRIBUTE) or ""


def is_made_here(node: Any) -> bool:
    """True for a segmentation that an automatic source made."""
    return node is not None and bool(request_of(node))


def is_demonstration(node: Any) -> bool:
    """True for a segmentation that the demonstration network made."""
    return is_made_here(node) and origin_of(node).is_demonstration


def is_of(node: Any, ct_node: Any) -> bool:
    """True if an automatic segmentation was made from what this CT holds now, and still lies on it."""
    try:
        return fingerprint.same(_scan(node, ct_node), node.GetAttribute(SCAN_ATTRIBUTE) or "")
    except InputRefused:
        return False


def edited(origin: Origin, masks: Mapping[str, L1Mask]) -> list[QualityNote]:
    """A note for every vertebra that is not as its segmenter left it. masks: what the segmentation holds now."""
    if not origin.checksums:
        return []
    by = SPOKEN_NAMES.get(origin.segmenter, origin.segmenter)
    return [
        QualityNote("segment_edited", Severity.INFO, EDITED.format(name=name, segmenter=by))
        for name, mask in masks.items()
        if vertebrae.is_vertebra(name) and fingerprint.of_mask(mask) != origin.checksums.get(name)
    ]


def segmenter_name(kind: str) -> str:
    """A source's name as it stands in a title."""
    return SPOKEN_NAMES.get(kind, kind).removeprefix("the ")


def _scan(node: Any, ct_node: Any) -> str:
    """Fingerprint of the CT as it lies in the segmentation's own frame: moving both together changes nothing."""
    ct = scene.ct_volume(ct_node)
    return fingerprint.of_scan(ct.array_zyx, scene.geometry_in(node, ct_node))
