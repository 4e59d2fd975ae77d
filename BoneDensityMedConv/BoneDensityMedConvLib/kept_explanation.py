"""What moved the answer, as the parameter node keeps it beside the result: whose it is, and when it must go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from BoneDensityMedConvLib import explanation_view
from medconv.explanation import Explanation
from medconv.explanation_report import LIMITS, effect_words, explanation_document

NOTHING: Mapping[str, Any] = {"explanationJson": "", "explanation": None}


def fields(chosen: Any, explanation: Explanation, node: Any) -> dict[str, Any]:
    """The parameter fields that keep an explanation of the present result; it is shown at once."""
    document = explanation_document(explanation)
    kept = {"document": document, "fingerprint": chosen.resultFingerprint, "logits": _logits(chosen)}
    return {"explanationJson": json.dumps(kept), "explanation": node, "explanationVisible": True}


def is_stale(chosen: Any, without_result: bool = False) -> bool:
    """True if something is kept that is not of the present result, or has lost its map.

    without_result: the present result is about to go.
    """
    if not chosen.explanationJson and chosen.explanation is None:
        return False
    kept = _read(chosen)
    return (
        without_result
        or kept is None
        or not explanation_view.is_map(chosen.explanation)
        or kept["fingerprint"] != chosen.resultFingerprint
        or kept["logits"] != _logits(chosen)
    )


def remove(node: Any) -> None:
    """Take a map out of the slice views and out of the scene; nothing else that a person put in its place."""
    if explanation_view.is_map(node) and node.GetScene() is not None:
        explanation_view.hide(node)
        node.GetScene().RemoveNode(node)


def view(chosen: Any) -> dict[str, Any] | None:
    """What a panel shows of it; None if there is nothing, or it can't be read (a scene edited by hand)."""
    kept = _read(chosen)
    if kept is None or chosen.explanation is None:
        return None
    try:
        document = kept["document"]
        return {
            "headline": str(document["headline"]),
            "rows": [
                {
                    "name": str(part["name"]).capitalize(),
                    "effect": effect_words(float(part["effect"])),
                    "map_share": float(part["mass_share"]),
                    "volume_share": float(part["volume_share"]),
                }
                for part in document["parts"]
            ],
            "notes": [{"severity": str(n["severity"]), "message": str(n["message"])} for n in document["quality"]],
            "limits": LIMITS,
            "legend": [dict(entry) for entry in explanation_view.LEGEND],
            "visible": bool(chosen.explanationVisible),
            "opacity": float(chosen.explanationOpacity),
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _read(chosen: Any) -> dict[str, Any] | None:
    try:
        kept = json.loads(chosen.explanationJson)
        return kept if {"document", "fingerprint", "logits"} <= set(kept) else None
    except (TypeError, ValueError):
        return None


def _logits(chosen: Any) -> Any:
    """The network's own answer: the same for the same image, mask and weights, whatever the sliders do."""
    try:
        document = json.loads(chosen.resultJson)
        return [document["logits"], document["model"]]
    except (KeyError, TypeError, ValueError):
        return None
