"""The presenter's actions for the map of what moved the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from BoneDensityMedConvLib import kept_explanation
from BoneDensityMedConvLib.explanation_run import ExplanationRun
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.work import Work


class ExplanationActions:
    """Mixed into `Presenter`, which has a state, work, and an `ExplanationRun`."""

    _state: PanelState
    _work: Work
    _explanation: ExplanationRun
    _begin: Callable[..., None]
    parameters: Any

    def explain(self) -> None:
        """Show what moved the answer, over the CT; the first time the worker is asked, `poll()` brings it forward."""
        self._begin(self._explanation.start, needs=lambda: "" if self.parameters.resultJson else "Analyse first.")

    def set_explanation_visible(self, visible: bool) -> None:
        """Show or hide the map."""
        self._explanation.set_visible(bool(visible))

    def set_explanation_opacity(self, opacity: float) -> None:
        """How strongly the map covers the CT, 0 to 1."""
        self._explanation.set_opacity(float(opacity))

    def _explanation_view(self) -> dict[str, Any]:
        """Its part of `view_model()`."""
        return {
            "explanation": kept_explanation.view(self.parameters),
            "can_explain": not self._work.busy and bool(self.parameters.resultJson),
        }
