"""The last result as the parameter node keeps it: which fields it takes, whose it is, and when it must go."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from BoneDensityMedConvLib import inputs, view_model
from medconv.config import ModelCard
from medconv.types import Adjustment

NOTHING: Mapping[str, Any] = {
    "resultJson": "",
    "resultModel": "",
    "resultCt": None,
    "resultSegmentation": None,
    "resultSegmentId": "",
    "resultFingerprint": "",
}


def fields(chosen: Any, document: Mapping[str, Any], card: ModelCard, fingerprint: str) -> dict[str, Any]:
    """The parameter fields that keep a result of the present inputs. The model's card goes with it, so that the
    sliders work in a saved scene even where those weights are not installed."""
    return {
        "resultJson": json.dumps(document),
        "resultModel": json.dumps(card.to_json()),
        "resultCt": chosen.ct,
        "resultSegmentation": chosen.segmentation,
        "resultSegmentId": chosen.segmentId,
        "resultFingerprint": fingerprint,
    }


def is_stale(chosen: Any) -> bool:
    """True if there is a result that is not of the present CT and segment, or not of what they hold now."""
    if not chosen.resultJson:
        return False
    same_choice = (
        chosen.resultCt is chosen.ct
        and chosen.resultSegmentation is chosen.segmentation
        and chosen.resultSegmentId == chosen.segmentId
    )
    return not (same_choice and inputs.still_same(chosen, chosen.resultFingerprint))


def card(chosen: Any) -> ModelCard | None:
    """The card of the weights that gave the result; None without a result, or if it can't be read."""
    return _card(chosen.resultModel) if chosen.resultJson and chosen.resultModel else None


def view(chosen: Any, adjustment: Adjustment | None, told: Collection[str] = ()) -> dict[str, Any] | None:
    """The result card under an adjustment, without the messages that are told elsewhere.

    None without a result, or if it can't be read (a scene edited by hand).
    """
    its_card = card(chosen)
    if its_card is None or adjustment is None:
        return None
    try:
        return view_model.result_view(json.loads(chosen.resultJson), its_card, adjustment, told)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


@lru_cache(maxsize=4)
def _card(text: str) -> ModelCard | None:
    try:
        return ModelCard.from_json(json.loads(text))
    except (KeyError, TypeError, ValueError):
        return None
