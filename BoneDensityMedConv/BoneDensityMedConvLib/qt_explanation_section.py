"""The part of the Qt panel that shows what moved the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from BoneDensityMedConvLib.dependencies import EXPLANATION
from BoneDensityMedConvLib.presenter import Presenter
from BoneDensityMedConvLib.qt_binding import connect, quiet, shows_errors
from BoneDensityMedConvLib.qt_drawing import note_lines, show_text
from BoneDensityMedConvLib.qt_installation import everything_installed


class ExplanationSection:
    """Draws `explanation` and `can_explain`. follow_work: called when the map has been asked for."""

    def __init__(self, ui: Any, presenter: Presenter, follow_work: Callable[[], None]) -> None:
        self._ui = ui
        self._presenter = presenter
        self._follow_work = follow_work
        connect(ui.explainButton, "explainButton", "clicked()", self._explain)
        connect(ui.explanationCheckBox, "explanationCheckBox", "toggled(bool)", self._show)
        connect(ui.explanationSlider, "explanationSlider", "valueChanged(double)", self._set_opacity)

    @shows_errors("Showing what moved the answer")
    def _explain(self) -> None:
        if everything_installed(EXPLANATION):
            self._presenter.explain()
            self._follow_work()

    @shows_errors("Showing the map")
    def _show(self) -> None:
        self._presenter.set_explanation_visible(self._ui.explanationCheckBox.checked)

    @shows_errors("Changing the map's opacity")
    def _set_opacity(self) -> None:
        self._presenter.set_explanation_opacity(self._ui.explanationSlider.value)

    def draw(self, model: Mapping[str, Any]) -> None:
        """Show the parts of the vertebra with what each moved, the colours in words, and what the map is not."""
        ui, explanation = self._ui, model["explanation"]
        ui.explainButton.enabled = bool(model["can_explain"])
        ui.explanationCard.visible = explanation is not None
        if explanation is None:
            return
        show_text(ui.explanationHeadline, explanation["headline"])
        show_text(ui.explanationLegend, _legend(explanation))
        show_text(ui.explanationRows, "\n".join(map(_row, explanation["rows"])))
        show_text(ui.explanationLimits, f"{note_lines(explanation['notes'])}\n{explanation['limits']}".strip())
        with quiet(ui.explanationCheckBox, ui.explanationSlider):
            ui.explanationCheckBox.checked = explanation["visible"]
            ui.explanationSlider.value = explanation["opacity"]
        ui.explanationSlider.enabled = explanation["visible"]


def _legend(explanation: Mapping[str, Any]) -> str:
    """The two colours with what they mean (rich text)."""
    entries = [f'<font color="{escape(e["color"])}">■</font> {escape(e["label"])}' for e in explanation["legend"]]
    return "&nbsp;&nbsp; ".join(entries)


def _row(row: Mapping[str, Any]) -> str:
    return (
        f"{row['name']}: {row['effect']} ({row['map_share']:.0%} of the map, {row['volume_share']:.0%} of the volume)"
    )
