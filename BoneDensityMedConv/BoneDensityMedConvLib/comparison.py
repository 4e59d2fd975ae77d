"""Two segmentations of one CT, one beside the other: what is kept of the comparison, whose it is, what there is to
compare with. The figures come from `medconv.segmentation_comparison`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from BoneDensityMedConvLib import segmentation_origin, segmentation_run, segmenter_choice, spine_segments
from medconv.segmentation_comparison import StructureComparison
from medconv.segmenter import EXISTING
from medconv.types import InputRefused

NOTHING: Mapping[str, Any] = {
    "comparisonJson": "",
    "comparisonCt": None,
    "comparisonFirst": None,
    "comparisonSecond": None,
}
# Amber as everywhere for what is measured, and blue: told apart by people who see no red or green.
FIRST_COLOR = (1.0, 0.69, 0.0)
SECOND_COLOR = (0.25, 0.65, 1.0)
IN_SCENE = "scene:"  # an id of a choice: this, then the id of a segmentation node
KEYS = frozenset({"title", "line", "rows", "legend"})


def choices(chosen: Any) -> list[dict[str, Any]]:
    """What the chosen segmentation can be compared with: the automatic sources, and what else the scene holds."""
    listed, made = [], set()
    for kind, label in segmenter_choice.LABELS.items():
        if kind in (EXISTING, chosen.segmenter):
            continue
        missing = segmenter_choice.what_is_missing(chosen, kind)
        listed.append({"id": kind, "label": label, "available": not missing, "reason": missing})
        if not missing:
            made.add(segmentation_run.key(segmenter_choice.request(chosen, kind)))
    for node in spine_segments.others_on(chosen.ct, chosen.segmentation):
        if segmentation_origin.request_of(node) not in made:
            entry = {"id": IN_SCENE + node.GetID(), "label": f"In the scene: {node.GetName()}"}
            listed.append(entry | {"available": True, "reason": ""})
    return listed


def second_source(chosen: Any, listed: list[dict[str, Any]]) -> str:
    """The id of the second source: the person's choice while it is on the list, else the first that can be used."""
    ids = [entry["id"] for entry in listed]
    if chosen.secondSource in ids:
        return str(chosen.secondSource)
    return next((str(entry["id"]) for entry in listed if entry["available"]), ids[0] if ids else "")


def what_is_missing(chosen: Any) -> str:
    """What must be there before anything can be compared, as a sentence; "" if nothing."""
    if chosen.ct is None:
        return "Choose a CT."
    if chosen.segmentation is None or not chosen.segmentId:
        return "Press Analyse first, or choose a segment: there is nothing to compare yet."
    return ""


def document(first: str, second: str, rows: list[StructureComparison], measured: str) -> dict[str, Any]:
    """The `comparison` of the view model, from the two segmentations' titles and the structures in common names.

    measured: the vertebra that is measured; it comes first.
    """
    ordered = sorted(rows, key=lambda row: row.name != measured)
    return {
        "title": f"{first} and {second}",
        "line": _line(next((row for row in rows if row.name == measured), None), measured, first, second),
        "rows": [_row(row) for row in ordered],
        "legend": [
            {"label": first, "color": hex_color(FIRST_COLOR)},
            {"label": second, "color": hex_color(SECOND_COLOR)},
        ],
    }


def fields(chosen: Any, first: Any, second: Any, view: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter fields that keep a comparison of two segmentation nodes of the chosen CT."""
    checksums = [spine_segments.content_checksum(node, chosen.ct) for node in (first, second)]
    return {
        "comparisonJson": json.dumps({"view": view, "checksums": checksums}),
        "comparisonCt": chosen.ct,
        "comparisonFirst": first,
        "comparisonSecond": second,
    }


def view(chosen: Any) -> dict[str, Any] | None:
    """The comparison that is kept; None if there is none, or it can't be read (a scene edited by hand)."""
    try:
        kept = json.loads(chosen.comparisonJson)["view"]
        return dict(kept) if set(kept) == KEYS else None
    except (ValueError, KeyError, TypeError):
        return None


def is_stale(chosen: Any) -> bool:
    """True if a comparison is kept that is not of this CT, or of segmentations that are gone or changed."""
    if not chosen.comparisonJson:
        return False
    first, second = chosen.comparisonFirst, chosen.comparisonSecond
    if chosen.comparisonCt is not chosen.ct or first is None or second is None:
        return True
    try:
        then = json.loads(chosen.comparisonJson)["checksums"]
        return bool(then != [spine_segments.content_checksum(node, chosen.ct) for node in (first, second)])
    except (ValueError, KeyError, TypeError, InputRefused):  # edited by hand, or bent by a transform
        return True


def hex_color(rgb: tuple[float, float, float]) -> str:
    """A colour as panels write it: "#ffb000"."""
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)


def _row(row: StructureComparison) -> dict[str, Any]:
    found = row.comparison
    return {
        "name": row.name,
        "dice": found.dice if found else None,
        "mean_surface_mm": found.mean_surface_mm if found else None,
        "hausdorff95_mm": found.hausdorff95_mm if found else None,
    }


def _line(row: StructureComparison | None, measured: str, first: str, second: str) -> str:
    if row is None:
        return f"Neither of the two found {measured}."
    if row.comparison is None:
        return f"Only {first if row.only_in == 'a' else second} found {measured}." + _miscount(row, second)
    c = row.comparison
    return (
        f"{measured}: Dice {c.dice:.3f}, mean surface distance {c.mean_surface_mm:.1f} mm, 95 % Hausdorff distance "
        f"{c.hausdorff95_mm:.1f} mm; {c.volume_a_ml:.1f} and {c.volume_b_ml:.1f} ml." + _miscount(row, second)
    )


def _miscount(row: StructureComparison, second: str) -> str:
    """A sentence if the other segmentation calls the same bone by another name."""
    if row.a_in_b in ("", row.name):
        return ""
    return f" {second} calls this vertebra {row.a_in_b}: the two count differently."
