"""The part of the Qt panel that compares the masks of two sources on the same CT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from BoneDensityMedConvLib.presenter import Presenter
from BoneDensityMedConvLib.qt_binding import connect, quiet, shows_errors
from BoneDensityMedConvLib.qt_drawing import entry_of, fill, show_text
from BoneDensityMedConvLib.qt_installation import everything_installed


class ComparisonSection:
    """Draws `comparison` and `compare_choices`. follow_work: called when the second source has been started."""

    def __init__(self, ui: Any, presenter: Presenter, follow_work: Callable[[], None]) -> None:
        self._ui = ui
        self._presenter = presenter
        self._follow_work = follow_work
        connect(ui.compareSelector, "compareSelector", "currentIndexChanged(int)", self._choose)
        # Unfolding shows all that the section holds, whatever was hidden while it was folded.
        connect(ui.comparisonSection, "comparisonSection", "contentsCollapsed(bool)", self._draw_again)
        connect(ui.compareInsistCheckBox, "compareInsistCheckBox", "toggled(bool)", self._insist)
        connect(ui.compareButton, "compareButton", "clicked()", self._compare)
        connect(ui.clearComparisonButton, "clearComparisonButton", "clicked()", self._clear)

    @shows_errors("Choosing the second source")
    def _choose(self) -> None:
        self._presenter.set_second_source(self._ui.compareSelector.currentData)

    @shows_errors("Showing the comparison")
    def _draw_again(self) -> None:
        if not self._ui.comparisonSection.collapsed:
            self.draw(self._presenter.view_model())

    @shows_errors("Allowing the demonstration network")
    def _insist(self) -> None:
        self._presenter.set_insist(self._ui.compareInsistCheckBox.checked)

    @shows_errors("The comparison")
    def _compare(self) -> None:
        second = self._ui.compareSelector.currentData
        if everything_installed(second):
            self._presenter.compare_with(second)
            self._follow_work()

    @shows_errors("Clearing the comparison")
    def _clear(self) -> None:
        self._presenter.clear_comparison()

    def draw(self, model: Mapping[str, Any]) -> None:
        """Show the two sources' agreement, first for the vertebra measured, then for each level."""
        ui, comparison, options = self._ui, model["comparison"], model["segmenter_options"]
        with quiet(ui.compareSelector, ui.compareInsistCheckBox):
            fill(ui.compareSelector, model["compare_choices"], model["second_source"])
            ui.compareInsistCheckBox.checked = options["insist"]
        entry = entry_of(model["compare_choices"], model["second_source"])
        show_text(ui.compareNote, entry["reason"] if entry else "")
        ui.compareSelector.enabled = not model["busy"]
        ui.compareInsistCheckBox.visible = options["second_insist_enabled"]
        ui.compareInsistCheckBox.text = options["insist_label"]
        ui.compareInsistCheckBox.enabled = not model["busy"]
        ui.compareButton.enabled = bool(model["can_compare"] and entry and entry["available"] and not model["busy"])
        ui.clearComparisonButton.enabled = comparison is not None and not model["busy"]
        show_text(ui.comparisonLine, comparison["line"] if comparison else "")
        show_text(ui.comparisonLegend, _legend(comparison) if comparison else "")
        show_text(ui.comparisonRows, "\n".join(map(_row, comparison["rows"])) if comparison else "")


def _legend(comparison: Mapping[str, Any]) -> str:
    """The two sources, each with a square in the colour of its outline (rich text)."""
    entries = [f'<font color="{escape(e["color"])}">■</font> {escape(e["label"])}' for e in comparison["legend"]]
    return "&nbsp;&nbsp; ".join(entries)


def _row(row: Mapping[str, Any]) -> str:
    if row["dice"] is None:
        return f"{row['name']}: only one of the two found it"
    return (
        f"{row['name']}: Dice {row['dice']:.3f}, surfaces {row['mean_surface_mm']:.1f} mm apart on average, "
        f"95 % within {row['hausdorff95_mm']:.1f} mm"
    )
