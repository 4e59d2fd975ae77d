"""The panel in Slicer: fills the widgets of the .ui file from `view_model()` and calls the presenter's actions.

It computes nothing. It is written in the part of Qt that PythonQt, Qt 5.15 and Qt 6 have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qt
import slicer

from BoneDensityMedConvLib import dependencies
from BoneDensityMedConvLib.presenter import Presenter
from BoneDensityMedConvLib.qt_binding import connect, quiet, shows_errors

POLL_INTERVAL_MS = 100
SEVERITY_WORDS = {"info": "Note", "warning": "Warning", "error": "Error"}


class QtPanel:
    """`ui` is what `slicer.util.childWidgetVariables` returns for Resources/UI/BoneDensityMedConv.ui."""

    def __init__(self, ui: Any, presenter: Presenter) -> None:
        self._ui = ui
        self._presenter = presenter
        self._timer = qt.QTimer()
        self._timer.interval = POLL_INTERVAL_MS
        self._connect()
        presenter.observe(self.draw)
        self.draw()

    def _connect(self) -> None:
        for name, signal, slot in (
            ("ctSelector", "currentNodeChanged(vtkMRMLNode*)", self._choose_ct),
            ("segmenterSelector", "currentIndexChanged(int)", self._choose_segmenter),
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

    @shows_errors("Choosing the source of the mask")
    def _choose_segmenter(self) -> None:
        self._presenter.set_segmenter(self._ui.segmenterSelector.currentData)

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
        if all(_is_installed_now(problem) for problem in dependencies.missing()):
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
        self._follow_work(self._presenter.view_model()["busy"])

    def draw(self) -> None:
        """Show the presenter's present state."""
        model = self._presenter.view_model()
        self._draw_choices(model)
        self._draw_work(model)
        self._draw_result(model["result"], model["busy"])
        self._draw_adjustment(model["adjustment"], model["result"])
        _show_text(self._ui.demonstrationLabel, model["demonstration"])
        _show_text(self._ui.simulatedLabel, model["simulated_ct"])
        _show_text(self._ui.researchUseLabel, model["research_use"])
        self._follow_work(model["busy"])

    def _draw_choices(self, model: Mapping[str, Any]) -> None:
        ui, parameters = self._ui, self._presenter.parameters
        with quiet(ui.ctSelector, ui.segmentSelector, ui.segmenterSelector):
            if _node_id(ui.ctSelector.currentNode()) != _node_id(parameters.ct):
                ui.ctSelector.setCurrentNodeID(_node_id(parameters.ct))
            if _node_id(ui.segmentSelector.currentNode()) != _node_id(parameters.segmentation):
                ui.segmentSelector.setCurrentNodeID(_node_id(parameters.segmentation))
            if ui.segmentSelector.currentSegmentID() != parameters.segmentId:
                ui.segmentSelector.setCurrentSegmentID(parameters.segmentId)
            _fill(ui.segmenterSelector, model["segmenters"], model["segmenter"])
        chosen = [segmenter for segmenter in model["segmenters"] if segmenter["id"] == model["segmenter"]]
        _show_text(ui.segmenterNote, chosen[0]["reason"] if chosen and not chosen[0]["available"] else "")
        for widget in (ui.ctSelector, ui.segmentSelector, ui.segmenterSelector):
            widget.enabled = not model["busy"]

    def _draw_work(self, model: Mapping[str, Any]) -> None:
        ui, message = self._ui, model["message"]
        ui.analyseButton.enabled = bool(model["can_analyse"] and not model["busy"])
        ui.cancelButton.enabled = model["busy"]
        _show_text(ui.hintLabel, "" if model["busy"] or model["can_analyse"] else model["hint"])
        ui.progressBar.visible = model["busy"]
        ui.progressBar.value = round(100 * model["fraction"])
        _show_text(ui.stageLabel, model["stage"] if model["busy"] else "")
        text = f"{SEVERITY_WORDS[message['severity']]}: {message['text']}\n{message['remedy']}" if message else ""
        _show_text(ui.messageLabel, text.strip())

    def _draw_result(self, result: Mapping[str, Any] | None, busy: bool) -> None:
        ui = self._ui
        ui.noResultLabel.visible = result is None
        ui.resultCard.visible = result is not None
        ui.centreButton.enabled = result is not None and not busy
        if result is None:
            return
        ui.classLabel.text = result["class_label"]
        for entry in result["probabilities"]:
            getattr(ui, entry["id"] + "Name").text = entry["label"]
            getattr(ui, entry["id"] + "Bar").value = round(1000 * entry["value"])
            getattr(ui, entry["id"] + "Value").text = f"{100 * entry['value']:.1f} %"
        _show_text(ui.huLabel, result["hu_line"])
        _show_text(ui.l1Label, result["l1_line"])
        notes = [f"{SEVERITY_WORDS[note['severity']]}: {note['message']}" for note in result["quality"]]
        _show_text(ui.qualityLabel, "\n".join(notes))
        _show_text(ui.modelLabel, result["model_line"])

    def _draw_adjustment(self, adjustment: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
        ui = self._ui
        with quiet(ui.methodSelector, ui.tau1Slider, ui.tau2Slider):
            _fill(ui.methodSelector, adjustment["methods"], adjustment["method"])
            for name, slider in (("tau1", ui.tau1Slider), ("tau2", ui.tau2Slider)):
                slider.minimum = float(adjustment["tau_minimum"])
                slider.maximum = float(adjustment["tau_maximum"])
                slider.singleStep = float(adjustment["tau_step"])
                slider.value = float(adjustment[name])
                slider.enabled = adjustment[name + "_enabled"]
        chosen = [method for method in adjustment["methods"] if method["id"] == adjustment["method"]]
        _show_text(ui.methodHelp, chosen[0]["help"] if chosen else "")
        _show_text(ui.tau1Note, adjustment["tau1_note"])
        _show_text(ui.adjustmentNote, result["adjustment_line"] if result else "")
        ui.resetButton.enabled = not adjustment["is_default"]

    def _follow_work(self, busy: bool) -> None:
        if busy and not self._timer.active:
            self._timer.start()
        elif not busy and self._timer.active:
            self._timer.stop()


def _is_installed_now(problem: dependencies.Missing) -> bool:
    """Ask, then install. False if the person declines. Raises MissingRequirement if it can't or did not work."""
    if problem.installable:
        question = f"{problem.message} The analysis needs it.\n\nDownload and install it now? This takes some minutes."
        if not slicer.util.confirmOkCancelDisplay(question):
            return False
    dependencies.install(problem.kind)
    return True


def _node_id(node: Any) -> str:
    return node.GetID() if node else ""


def _show_text(label: Any, text: str) -> None:
    """An empty label takes no room."""
    label.text = text
    label.visible = bool(text)


def _fill(selector: Any, entries: Sequence[Mapping[str, Any]], chosen: str) -> None:
    """Items with the entries' labels and ids; only refilled when they differ, so that an open list stays open."""
    if [selector.itemData(index) for index in range(selector.count)] != [entry["id"] for entry in entries]:
        selector.clear()
        for entry in entries:
            selector.addItem(entry["label"], entry["id"])
    selector.currentIndex = selector.findData(chosen)
