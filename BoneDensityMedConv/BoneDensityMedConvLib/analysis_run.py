"""One analysis from the chosen nodes to the document of result.json: prepared here, computed in the worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from BoneDensityMedConvLib import adjustment_choice, dependencies, inputs, stored_result
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.work import Span, Work
from medconv import pipeline, weights
from medconv.config import ModelCard
from medconv.types import L1Mask, LevelChoice, QualityNote
from medconv.worker_client import Result

CHANGED_MEANWHILE = "The CT or the segment changed while the analysis ran."


def start(
    state: PanelState, work: Work, level: LevelChoice | None, notes: Iterable[QualityNote], span: Span = (0.0, 1.0)
) -> L1Mask:
    """Judge CT and mask, and hand them to the worker; returns the mask. Raises MedConvError with what is wrong.

    level: which vertebra the chosen segment is, and who says so. notes: what is known of CT and segment besides.
    """
    dependencies.require()
    chosen = state.parameters
    card = weights.find_model(chosen.weights or None)[0]
    ct, mask = inputs.read(chosen)
    case = pipeline.prepare(ct, mask, notes=notes, level=level)
    adjustment = adjustment_choice.current(chosen, card)
    changed = adjustment if adjustment != card.default_adjustment else None
    fingerprint = inputs.fingerprint(ct, mask)
    work.start(
        lambda worker: worker.analyse(case, chosen.weights or None, chosen.device, changed),
        lambda result: _take(state, result, fingerprint, card),
        "Starting the analysis",
        span,
    )
    return mask


def _take(state: PanelState, result: Result, fingerprint: str, card: ModelCard) -> None:
    """Keep the result, unless it is a refusal, or of something that has changed since."""
    chosen, refusal = state.parameters, result.document.get("refusal")
    if refusal:
        state.say("error", refusal["message"], refusal["remedy"])
    elif not inputs.still_same(chosen, fingerprint):
        state.say("warning", CHANGED_MEANWHILE, "Analyse again.")
    else:
        kept: dict[str, Any] = stored_result.fields(chosen, result.document, card, fingerprint)
        if chosen.adjustmentIsDefault:
            kept |= adjustment_choice.fields(card.default_adjustment, card)
        state.write(**kept)
