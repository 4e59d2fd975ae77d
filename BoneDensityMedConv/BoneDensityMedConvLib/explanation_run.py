"""What moved the answer, from the button to the map over the CT: asked in the worker, kept as long as the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from BoneDensityMedConvLib import dependencies, explanation_view, inputs, kept_explanation
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.work import Work
from medconv import pipeline
from medconv.types import InputRefused, L1Case, LevelChoice
from medconv.worker_client import Explained

CHANGED_MEANWHILE = "The result changed while its explanation was made."
OTHER_WEIGHTS = "The installed weights are not those that gave the result."


class ExplanationRun:
    """Makes the map, shows and hides it; `poll` of `work` brings it forward."""

    def __init__(self, state: PanelState, work: Work, slice_logics: Callable[[], list[Any]]) -> None:
        self._state = state
        self._work = work
        self._slice_logics = slice_logics

    def start(self) -> None:
        """Ask the worker, or show the map that is there. Raises MedConvError with what is in the way."""
        chosen = self._state.parameters
        if kept_explanation.view(chosen) is not None:
            self.set_visible(True)
            return
        dependencies.require(dependencies.EXPLANATION)
        case, asked_for = _case(chosen), chosen.resultJson
        self._work.start(
            lambda worker: worker.explain(case, chosen.weights or None, chosen.device),
            lambda outcome: self._take(outcome, asked_for),
            "Starting the explanation",
        )

    def set_visible(self, visible: bool) -> None:
        """Show the map over the CT, or take it off."""
        chosen = self._state.parameters
        if chosen.explanation is not None:
            self._state.write(look=False, explanationVisible=visible)
            self._draw()

    def set_opacity(self, opacity: float) -> None:
        """How strongly the map covers the CT, 0 to 1."""
        if self._state.parameters.explanation is not None:
            self._state.write(look=False, explanationOpacity=min(max(opacity, 0.0), 1.0))
            self._draw()

    def draw(self) -> None:
        """Lay a kept map over the CT again, for instance in views that were arranged anew."""
        if self._state.parameters.explanation is not None:
            self._draw()

    def _take(self, outcome: Explained, asked_for: str) -> None:
        """Keep the map, unless the result that it is of is no longer there."""
        chosen, explanation = self._state.parameters, outcome.explanation
        if chosen.resultJson != asked_for or not inputs.still_same(chosen, chosen.resultFingerprint):
            self._state.say("warning", CHANGED_MEANWHILE, "Analyse again, then ask once more.")
            return
        if explanation.model.sha256 != json.loads(asked_for)["model"]["sha256"]:
            raise InputRefused("weights_changed", OTHER_WEIGHTS, "Analyse again, then ask once more.")
        kept_explanation.remove(chosen.explanation)
        node = explanation_view.add(explanation, chosen.ct, chosen.segmentation)
        self._state.write(**kept_explanation.fields(chosen, explanation, node))
        self._draw()

    def _draw(self) -> None:
        chosen, logics = self._state.parameters, self._slice_logics()
        if chosen.explanationVisible:
            explanation_view.show(chosen.explanation, logics, chosen.explanationOpacity)
        else:
            explanation_view.hide(chosen.explanation)


def _case(chosen: Any) -> L1Case:
    """The case that gave the result, its vertebra called as there."""
    if not chosen.resultJson:
        raise InputRefused("no_result", "There is no result to explain.", "Analyse first.")
    level = json.loads(chosen.resultJson).get("level") or {}
    case = pipeline.prepare(*inputs.read(chosen))
    if level.get("used_as"):
        found, used, by, source = (
            str(level.get(name) or "") for name in ("found_as", "used_as", "decided_by", "segmenter")
        )
        case = replace(case, level=LevelChoice(found, used, by, source))
    return case
