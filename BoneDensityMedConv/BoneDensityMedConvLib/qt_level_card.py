"""The part of the Qt panel that says which vertebra is measured, and asks when that is in doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from BoneDensityMedConvLib.presenter import Presenter
from BoneDensityMedConvLib.qt_binding import connect, quiet, shows_errors
from BoneDensityMedConvLib.qt_drawing import entry_of, note_lines, show, show_text

STAND_INS = {"T12": "useT12Button", "L2": "useL2Button"}


class LevelCard:
    """Draws `levels`. follow_work: called after an answer that may have started the analysis."""

    def __init__(self, ui: Any, presenter: Presenter, follow_work: Callable[[], None]) -> None:
        self._ui = ui
        self._presenter = presenter
        self._follow_work = follow_work
        self._statement = ""
        connect(ui.changeLevelButton, "changeLevelButton", "toggled(bool)", self._show_choices)
        for name, slot in (
            ("confirmLevelButton", self._confirm),
            ("shiftUpButton", self._shift_up),
            ("shiftDownButton", self._shift_down),
            ("useT12Button", self._use_t12),
            ("useL2Button", self._use_l2),
        ):
            connect(getattr(ui, name), name, "clicked()", slot)

    @shows_errors("Showing the other answers")
    def _show_choices(self) -> None:
        self._ui.levelChoices.visible = self._ui.changeLevelButton.checked

    @shows_errors("Confirming the level")
    def _confirm(self) -> None:
        self._presenter.confirm_level()
        self._follow_work()

    @shows_errors("Changing the level")
    def _shift_up(self) -> None:
        self._presenter.shift_level(1)
        self._follow_work()

    @shows_errors("Changing the level")
    def _shift_down(self) -> None:
        self._presenter.shift_level(-1)
        self._follow_work()

    @shows_errors("Choosing T12")
    def _use_t12(self) -> None:
        self._presenter.use_instead("T12")
        self._follow_work()

    @shows_errors("Choosing L2")
    def _use_l2(self) -> None:
        self._presenter.use_instead("L2")
        self._follow_work()

    def draw(self, levels: Mapping[str, Any] | None, busy: bool) -> None:
        """Show the level's statement always; a button that can't do anything now says why when pointed at.

        Where nothing is asked, the other answers wait behind one button, and again after each change.
        """
        ui = self._ui
        ui.levelCard.visible = levels is not None
        if levels is None:
            return
        show_text(ui.levelStatement, levels["statement"])
        if levels["statement"] != self._statement:
            self._statement = levels["statement"]
            with quiet(ui.changeLevelButton):
                ui.changeLevelButton.checked = False
        ui.changeLevelButton.text = levels["change_label"]
        show(not levels["undecided"], ui.changeLevelButton)
        show(levels["undecided"] or ui.changeLevelButton.checked, ui.levelChoices)
        show_text(ui.levelsLine, levels["line"])
        show_text(ui.levelDoubts, note_lines(levels["doubts"]))
        show_text(ui.levelQuestion, levels["question"])
        ui.shiftUpButton.text = levels["shift_up_label"]
        ui.shiftDownButton.text = levels["shift_down_label"]
        show(levels["can_confirm"], ui.confirmLevelButton)
        ui.confirmLevelButton.enabled = not busy
        ui.shiftUpButton.enabled = bool(levels["can_shift_up"] and not busy)
        ui.shiftDownButton.enabled = bool(levels["can_shift_down"] and not busy)
        ui.shiftUpButton.toolTip = levels["shift_up_note"]
        ui.shiftDownButton.toolTip = levels["shift_down_note"]
        for vertebra, name in STAND_INS.items():
            button, offer = getattr(ui, name), entry_of(levels["alternatives"], vertebra)
            button.visible = offer is not None
            button.enabled = not busy
            if offer is not None:
                button.text = offer["label"]
