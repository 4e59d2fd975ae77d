"""The panel in Slicer: fills the widgets of the .ui file from `view_model()` and calls the presenter's actions.

It computes nothing. It is written in the part of Qt that PythonQt, Qt 5.15 and Qt 6 have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qt

from BoneDensityMedConvLib.presenter import Presenter
from BoneDensityMedConvLib.qt_binding import connect, quiet, shows_errors
from BoneDensityMedConvLib.qt_comparison_section import ComparisonSection
from BoneDensityMedConvLib.qt_drawing import SEVERITY_WORDS, entry_of, fill, note_lines, show_text
from BoneDensityMedConvLib.qt_explanation_section import ExplanationSection
from BoneDensityMedConvLib.qt_installation import everything_installed
from BoneDensityMedConvLib.qt_level_card import LevelCard
from BoneDensityMedConvLib.qt_source_section import SourceSection

POLL_INTERVAL_MS = 100


class QtPanel:
    """`ui` is what `slicer.util.childWidgetVariables` returns for Resources/UI/BoneDensityMedConv.ui."""

    def __init__(self, ui: Any, presenter: Presenter) -> None:
        self._ui = ui
        self._presenter = presenter
        self._timer = qt.QTimer()
        self._timer.interval = POLL_INTERVAL_MS
        self._source = SourceSection(ui, presenter, self._follow_present_work)
        self._level = LevelCard(ui, presenter, self._follow_present_work)
        self._comparison = ComparisonSection(ui, presenter, self._follow_present_work)
        self._explanation = ExplanationSection(ui, presenter, self._follow_present_work)
        self._connect()
        presenter.observe(self.draw)
        self.draw()

    def _connect(self) -> None:
        for name, signal, slot in (
            ("ctSelector", "currentNodeChanged(vtkMRMLNode*)", self._choose_ct),
            ("segmentSelector", "currentNodeChanged(vtkMRMLNode*)", self._choose_segmentation),
            ("segmentSelector", "currentSegmentChanged(QString)", self._choose_segment),
            ("analyseButton", "clicked()", self._analyse),
            ("cancelButton", "clicked()", self._cancel),
            ("centreButton", "clicked()", self._centre),
            ("methodSelector", "currentIndexChanged(int)", self._choose_method),
            ("tau1Slider", "valueChanged(double)", self._set_tau1),
            ("tau2Slider", "valueChanged(double)", self._set_tau2),
            ("resetButton", "clicked()", self._reset),
        ):
            connect(getattr(self._ui, name), name, signal, slot)
        connect(self._timer, "timer", "timeout()", self._poll)

    def close(self) -> None:
        """Stop polling; for the end of the module's widget."""
        self._timer.stop()

    @shows_errors("Choosing the CT")
    def _choose_ct(self) -> None:
        self._presenter.set_ct(self._ui.ctSelector.currentNode())

    @shows_errors("Choosing the segmentation")
    def _choose_segmentation(self) -> None:
        self._presenter.set_segmentation(self._ui.segmentSelector.currentNode())

    @shows_errors("Choosing the segment")
    def _choose_segment(self) -> None:
        node = self._ui.segmentSelector.currentNode()
        # When the segmentation changes, the selector first offers that one's first segment, whatever it is.
        if _node_id(node) == _node_id(self._presenter.parameters.segmentation):
            self._presenter.set_segmentation(node, self._ui.segmentSelector.currentSegmentID())

    @shows_errors("The analysis")
    def _analyse(self) -> None:
        if everything_installed(self._presenter.view_model()["segmenter"]):
            self._presenter.analyse()

    @shows_errors("Cancelling")
    def _cancel(self) -> None:
        self._presenter.cancel()

    @shows_errors("Centring the views")
    def _centre(self) -> None:
        self._presenter.center_on_l1()

    @shows_errors("Changing the method")
    def _choose_method(self) -> None:
        self._presenter.set_method(self._ui.methodSelector.currentData)

    @shows_errors("Changing tau1")
    def _set_tau1(self) -> None:
        self._presenter.set_tau1(self._ui.tau1Slider.value)

    @shows_errors("Changing tau2")
    def _set_tau2(self) -> None:
        self._presenter.set_tau2(self._ui.tau2Slider.value)

    @shows_errors("Resetting the adjustment")
    def _reset(self) -> None:
        self._presenter.reset_adjustment()

    @shows_errors("The analysis")
    def _poll(self) -> None:
        # Off while it works: a dialog inside would otherwise let the next tick in.
        self._timer.stop()
        self._presenter.poll()
        self._follow_present_work()

    def _follow_present_work(self) -> None:
        self._follow_work(self._presenter.view_model()["busy"])

    def draw(self) -> None:
        """Show the presenter's present state."""
        model = self._presenter.view_model()
        self._draw_choices(model)
        self._source.draw(model)
        self._draw_work(model)
        self._level.draw(model["levels"], model["busy"])
        self._comparison.draw(model)
        self._draw_result(model["result"], model["busy"])
        self._explanation.draw(model)
        self._draw_adjustment(model["adjustment"], model["result"])
        show_text(self._ui.demonstrationLabel, model["demonstration"])
        show_text(self._ui.simulatedLabel, model["simulated_ct"])
        show_text(self._ui.researchUseLabel, model["research_use"])
        self._follow_work(model["busy"])

    def _draw_choices(self, model: Mapping[str, Any]) -> None:
        ui, parameters = self._ui, self._presenter.parameters
        with quiet(ui.ctSelector, ui.segmentSelector):
            if _node_id(ui.ctSelector.currentNode()) != _node_id(parameters.ct):
                ui.ctSelector.setCurrentNodeID(_node_id(parameters.ct))
            if _node_id(ui.segmentSelector.currentNode()) != _node_id(parameters.segmentation):
                ui.segmentSelector.setCurrentNodeID(_node_id(parameters.segmentation))
            if ui.segmentSelector.currentSegmentID() != parameters.segmentId:
                ui.segmentSelector.setCurrentSegmentID(parameters.segmentId)
        for widget in (ui.ctSelector, ui.segmentSelector):
            widget.enabled = not model["busy"]

    def _draw_work(self, model: Mapping[str, Any]) -> None:
        ui, message = self._ui, model["message"]
        ui.analyseButton.enabled = bool(model["can_analyse"] and not model["busy"])
        ui.cancelButton.enabled = model["busy"]
        show_text(ui.hintLabel, "" if model["busy"] or model["can_analyse"] else model["hint"])
        ui.progressBar.visible = model["busy"]
        ui.progressBar.value = round(100 * model["fraction"])
        show_text(ui.stageLabel, model["stage"] if model["busy"] else "")
        text = f"{SEVERITY_WORDS[message['severity']]}: {message['text']}\n{message['remedy']}" if message else ""
        show_text(ui.messageLabel, text.strip())

    def _draw_result(self, result: Mapping[str, Any] | None, busy: bool) -> None:
        ui = self._ui
        ui.noResultLabel.visible = result is None
        ui.resultCard.visible = result is not None
        ui.centreButton.enabled = result is not None and not busy
        if result is None:
            return
        ui.classLabel.text = result["class_label"]
        show_text(ui.qualifierLabel, note_lines(result["qualifiers"]))
        for entry in result["probabilities"]:
            getattr(ui, entry["id"] + "Name").text = entry["label"]
            getattr(ui, entry["id"] + "Bar").value = round(1000 * entry["value"])
            getattr(ui, entry["id"] + "Value").text = f"{100 * entry['value']:.1f} %"
        show_text(ui.huLabel, result["hu_line"])
        show_text(ui.l1Label, result["l1_line"])
        show_text(ui.qualityLabel, note_lines(result["quality"]))
        show_text(ui.modelLabel, result["model_line"])

    def _draw_adjustment(self, adjustment: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
        ui = self._ui
        with quiet(ui.methodSelector, ui.tau1Slider, ui.tau2Slider):
            fill(ui.methodSelector, adjustment["methods"], adjustment["method"])
            for name, slider in (("tau1", ui.tau1Slider), ("tau2", ui.tau2Slider)):
                slider.minimum = float(adjustment["tau_minimum"])
                slider.maximum = float(adjustment["tau_maximum"])
                slider.singleStep = float(adjustment["tau_step"])
                slider.value = float(adjustment[name])
                slider.enabled = adjustment[name + "_enabled"]
        chosen = entry_of(adjustment["methods"], adjustment["method"])
        show_text(ui.methodHelp, chosen["help"] if chosen else "")
        show_text(ui.tau1Note, adjustment["tau1_note"])
        show_text(ui.nowLabel, result["now_line"] if result else "")
        show_text(ui.adjustmentNote, result["adjustment_line"] if result else "")
        ui.resetButton.enabled = not adjustment["is_default"]

    def _follow_work(self, busy: bool) -> None:
        if busy and not self._timer.active:
            self._timer.start()
        elif not busy and self._timer.active:
            self._timer.stop()


def _node_id(node: Any) -> str:
    return node.GetID() if node else ""
