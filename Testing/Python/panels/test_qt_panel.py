"""The panel in Slicer draws what the presenter says and asks for what the person does; here with a scripted one."""

from __future__ import annotations

from typing import Any

import pytest
from panels.scripted_presenter import COMPARISON, EXPLANATION, LEVELS, RESULT, WEIGHTS, ScriptedPresenter
from panels.slicer_host import proxy
from panels.slicer_host.host import SlicerHost

from medconv.types import InputRefused


class OpenPanel:
    """The real .ui file and the real panel code, in the strict host."""

    def __init__(self, host: SlicerHost) -> None:
        import slicer
        import slicer.util

        from BoneDensityMedConvLib.qt_panel import QtPanel
        from BoneDensityMedConvLib.resources import resource_path

        self.host, self.scene = host, slicer.mrmlScene
        self.presenter = ScriptedPresenter()
        self.top = slicer.util.loadUI(str(resource_path("UI/BoneDensityMedConv.ui")))
        self.top.setMRMLScene(slicer.mrmlScene)
        self.top.show()
        self.ui = slicer.util.childWidgetVariables(self.top)
        self.panel = QtPanel(self.ui, self.presenter)

    def ct(self, name: str = "CT") -> Any:
        return self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)

    def segmentation(self, *names: str) -> Any:
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
        for name in names:
            node.GetSegmentation().AddEmptySegment(name, name)
        return node

    def wait(self, ticks: int) -> None:
        """Let the panel's timer tick."""
        from PySide6 import QtTest

        QtTest.QTest.qWait(110 * ticks)
        self.host.application.processEvents()


@pytest.fixture
def opened(slicer_host: SlicerHost) -> Any:
    panel = OpenPanel(slicer_host)
    yield panel
    panel.presenter.fails.clear()
    panel.panel.close()
    panel.top.setMRMLScene(None)


def test_it_says_why_analyse_is_not_possible(opened: OpenPanel) -> None:
    assert not opened.ui.analyseButton.enabled
    assert opened.ui.hintLabel.visible
    assert opened.ui.hintLabel.text == "Choose a CT."


def test_the_hint_goes_when_analyse_is_possible(opened: OpenPanel) -> None:
    opened.presenter.show(can_analyse=True, hint="")
    assert opened.ui.analyseButton.enabled
    assert not opened.ui.hintLabel.visible


def test_nothing_is_chosen_by_itself(opened: OpenPanel) -> None:
    opened.ct()
    opened.segmentation("spleen", "L1")
    assert opened.presenter.asked == []
    assert opened.ui.ctSelector.currentNode() is None


def test_choosing_a_ct_asks_for_it_once(opened: OpenPanel) -> None:
    ct = opened.ct()
    opened.ui.ctSelector.setCurrentNode(ct)
    assert opened.presenter.asked == [("set_ct", ct)]


def test_a_label_map_is_no_ct(opened: OpenPanel) -> None:
    opened.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert opened.ui.ctSelector.nodeCount() == 0


def test_choosing_a_segmentation_leaves_the_choice_of_the_segment_to_the_presenter(opened: OpenPanel) -> None:
    node = opened.segmentation("spleen", "L1")
    opened.ui.segmentSelector.setCurrentNode(node)
    assert opened.presenter.asked == [("set_segmentation", node, None)]
    assert opened.ui.segmentSelector.currentSegmentID() == "L1"


def test_changing_the_segmentation_never_analyses_its_first_segment(opened: OpenPanel) -> None:
    first, second = opened.segmentation("vertebra L1"), opened.segmentation("spleen", "vertebra")
    opened.ui.segmentSelector.setCurrentNode(first)
    opened.ui.segmentSelector.setCurrentSegmentID("vertebra L1")
    opened.presenter.asked.clear()
    opened.ui.segmentSelector.setCurrentNode(second)
    assert opened.presenter.asked == [("set_segmentation", second, None)]
    assert opened.ui.segmentSelector.currentSegmentID() == ""


def test_choosing_another_segment_asks_for_it(opened: OpenPanel) -> None:
    node = opened.segmentation("spleen", "L1")
    opened.ui.segmentSelector.setCurrentNode(node)
    opened.ui.segmentSelector.setCurrentSegmentID("spleen")
    assert opened.presenter.asked[-1] == ("set_segmentation", node, "spleen")


def test_an_unavailable_source_of_the_mask_says_what_is_missing(opened: OpenPanel) -> None:
    opened.ui.segmenterSelector.currentIndex = 1
    assert opened.presenter.asked == [("set_segmenter", "totalsegmentator")]
    opened.presenter.show(segmenter="totalsegmentator")
    assert opened.ui.segmenterNote.visible
    assert opened.ui.segmenterNote.text == "Not installed."


def test_only_what_the_source_needs_is_shown(opened: OpenPanel) -> None:
    ui, options = opened.ui, opened.presenter.model["segmenter_options"]
    assert ui.segmentSelector.visible
    hidden = (ui.segmentationQualityLabel, ui.qualitySelector, ui.weightsLabel, ui.fetchWeightsButton, ui.folderLabel)
    assert not any(widget.visible for widget in (*hidden, ui.folderButton, ui.insistCheckBox))
    opened.presenter.show(
        segmenter="totalsegmentator", segmenter_options={**options, "quality_enabled": True}, segmenter_weights=WEIGHTS
    )
    assert not ui.segmentSelector.visible
    assert (ui.qualityHelp.text, ui.weightsText.text) == ("Finer outline.", "135 MB are missing.")
    assert [b.enabled for b in (ui.fetchWeightsButton, ui.importWeightsButton, ui.removeWeightsButton)] == [
        True, True, False,
    ]  # fmt: skip


def _automatic(opened: OpenPanel, **options: Any) -> None:
    changed = {**opened.presenter.model["segmenter_options"], **options}
    opened.presenter.show(segmenter="totalsegmentator", segmenter_options=changed, segmenter_weights=WEIGHTS)
    opened.presenter.asked.clear()


def test_quality_folder_numbering_and_insisting_are_asked_for(opened: OpenPanel) -> None:
    _automatic(opened, quality_enabled=True, nnunet_enabled=True, insist_enabled=True)
    ui = opened.ui
    ui.qualitySelector.currentIndex = 1
    ui.folderButton._object.choose("/models/Dataset900 Rücken")
    ui.labelMapSelector.currentIndex = 1
    ui.insistCheckBox.click()
    assert opened.presenter.asked == [
        ("set_quality", "fast"), ("set_nnunet_folder", "/models/Dataset900 Rücken"),
        ("set_nnunet_label_map", "verse"), ("set_insist", True),
    ]  # fmt: skip


@pytest.mark.parametrize("consent", [True, False])
def test_weights_are_fetched_and_removed_only_after_consent(opened: OpenPanel, consent: bool) -> None:
    _automatic(opened)
    opened.presenter.show(segmenter_weights={**WEIGHTS, "can_remove": True})
    for button in (opened.ui.fetchWeightsButton, opened.ui.removeWeightsButton):
        opened.host.expect_dialog("confirmOkCancelDisplay", answer=consent)
        button.click()
    assert [question for _, question in opened.host.dialogs] == ["Download 135 MB?", "Delete 400 MB?"]
    assert opened.presenter.asked == ([("fetch_weights",), ("remove_weights",)] if consent else [])


@pytest.mark.parametrize(("chosen", "asked"), [("/tmp/a b/w.zip", [("import_weights", "/tmp/a b/w.zip")]), ("", [])])
def test_weights_are_imported_from_the_file_that_was_chosen(opened: OpenPanel, chosen: str, asked: Any) -> None:
    _automatic(opened)
    opened.host.expect_dialog("QFileDialog.getOpenFileName", answer=chosen)
    opened.ui.importWeightsButton.click()
    assert opened.presenter.asked == asked


def test_a_level_in_doubt_is_asked_about(opened: OpenPanel) -> None:
    ui = opened.ui
    assert not ui.levelCard.visible
    opened.presenter.show(levels=LEVELS)
    assert (ui.levelStatement.text, ui.levelsLine.text) == ("L1 is in doubt.", "Found: T12, L1, L2, L3")
    assert ui.levelDoubts.text == "Warning: Neither rib 12 nor the sacrum is in view."
    assert ui.shiftUpButton.text == "L1 is one higher (called T12)"
    assert ui.shiftUpButton.enabled
    assert ui.shiftDownButton.visible
    assert not ui.shiftDownButton.enabled
    assert ui.shiftDownButton.toolTip == "L2 can't be measured: it is cut by the border of the CT."
    assert not ui.useT12Button.visible
    ui.confirmLevelButton.click()
    ui.shiftUpButton.click()
    assert opened.presenter.asked == [("confirm_level",), ("shift_level", 1)]


def test_where_nothing_is_in_doubt_the_other_answers_wait_behind_one_button(opened: OpenPanel) -> None:
    ui, sure = opened.ui, {**LEVELS, "undecided": False, "can_confirm": False, "statement": "L1, counted from S1."}
    opened.presenter.show(levels=LEVELS)
    assert (ui.changeLevelButton.visible, ui.shiftUpButton.visible) == (False, True)
    opened.presenter.show(levels=sure)
    assert (ui.changeLevelButton.text, ui.shiftUpButton.visible) == ("Not L1?", False)
    ui.changeLevelButton.click()
    assert ui.shiftUpButton.visible
    opened.presenter.show(busy=False)  # drawn again: still open
    assert ui.shiftUpButton.visible
    ui.shiftUpButton.click()
    assert opened.presenter.asked == [("shift_level", 1)]
    changed = {**sure, "statement": "Corrected by the reader.", "change_label": "Change the level"}
    opened.presenter.show(levels=changed)
    assert (ui.changeLevelButton.text, ui.shiftUpButton.visible) == ("Change the level", False)


def test_another_vertebra_is_offered_by_name(opened: OpenPanel) -> None:
    offers = [{"id": "L2", "label": "Use L2 instead"}]
    opened.presenter.show(levels={**LEVELS, "can_confirm": False, "can_shift_up": False, "alternatives": offers})
    assert opened.ui.useL2Button.visible
    assert not any(w.visible for w in (opened.ui.useT12Button, opened.ui.confirmLevelButton))
    assert not opened.ui.shiftUpButton.enabled
    opened.ui.useL2Button.click()
    assert opened.presenter.asked == [("use_instead", "L2")]


def test_while_it_works_no_level_can_be_changed(opened: OpenPanel) -> None:
    opened.presenter.show(levels=LEVELS, busy=True)
    assert not any(w.enabled for w in (opened.ui.confirmLevelButton, opened.ui.shiftUpButton))
    opened.presenter.show(busy=False)


def test_a_second_source_is_compared(opened: OpenPanel) -> None:
    ui = opened.ui
    ui.comparisonSection.collapsed = False
    assert not ui.compareButton.enabled
    opened.presenter.show(can_compare=True)
    ui.compareButton.click()
    assert opened.presenter.asked == [("compare_with", "demonstration")]
    ui.compareSelector.currentIndex = 1
    assert opened.presenter.asked[1:] == [("set_second_source", "nnunet")]
    opened.presenter.show(second_source="nnunet")
    assert ui.compareSelector.currentIndex == 1
    assert not ui.compareButton.enabled
    assert ui.compareNote.text == "Choose its folder first."


def test_the_demonstration_network_can_be_insisted_on_as_second_source(opened: OpenPanel) -> None:
    ui, options = opened.ui, opened.presenter.model["segmenter_options"]
    ui.comparisonSection.collapsed = False
    assert not ui.compareInsistCheckBox.visible
    opened.presenter.show(segmenter_options={**options, "second_insist_enabled": True})
    assert ui.compareInsistCheckBox.visible
    assert not ui.insistCheckBox.visible
    assert ui.compareInsistCheckBox.text == "Use it all the same"
    ui.compareInsistCheckBox.checked = True
    assert opened.presenter.asked == [("set_insist", True)]
    opened.presenter.show(segmenter_options={**options, "second_insist_enabled": True, "insist": True}, busy=True)
    assert ui.compareInsistCheckBox.checked
    assert not ui.compareInsistCheckBox.enabled
    opened.presenter.show(busy=False)


def test_the_comparison_is_shown_for_every_level_and_can_be_cleared(opened: OpenPanel) -> None:
    ui = opened.ui
    ui.comparisonSection.collapsed = False
    opened.presenter.show(comparison=COMPARISON)
    assert ui.comparisonLine.text == "L1: Dice 0.912"
    assert ui.comparisonLegend.text == (
        '<font color="#ffb000">■</font> TotalSegmentator&nbsp;&nbsp; <font color="#5aaaff">■</font> demonstration'
    )
    assert ui.comparisonRows.text == (
        "L1: Dice 0.912, surfaces 0.6 mm apart on average, 95 % within 2.0 mm\nT12: only one of the two found it"
    )
    ui.clearComparisonButton.click()
    assert opened.presenter.asked == [("clear_comparison",)]


@pytest.mark.parametrize(
    ("button", "action"),
    [("analyseButton", "analyse"), ("cancelButton", "cancel"), ("centreButton", "center_on_l1"),
     ("resetButton", "reset_adjustment")],
)  # fmt: skip
def test_each_button_asks_for_its_action(opened: OpenPanel, button: str, action: str) -> None:
    widget = getattr(opened.ui, button)
    widget.enabled = True
    widget.click()
    assert opened.presenter.asked == [(action,)]


def test_the_card_shows_class_numbers_and_notes(opened: OpenPanel) -> None:
    opened.presenter.show(result=RESULT)
    ui = opened.ui
    assert ui.resultCard.visible
    assert not ui.noResultLabel.visible
    assert ui.classLabel.text == "Osteopenia (T-score between −2.5 and −1)"
    assert [getattr(ui, f"{c}Value").text for c in ("normal", "osteopenia", "osteoporosis")] == [
        "20.0 %", "65.4 %", "14.6 %",
    ]  # fmt: skip
    assert [getattr(ui, f"{c}Bar").value for c in ("normal", "osteopenia", "osteoporosis")] == [200, 654, 146]
    assert ui.huLabel.text == RESULT["hu_line"]
    assert ui.qualityLabel.text == (
        "Warning: kVp unknown: no correction for tube voltage.\nNote: L1 as given; its level was not checked."
    )


def test_what_qualifies_the_class_stands_under_it_and_the_sliders_section_says_the_class_too(opened: OpenPanel) -> None:
    ui = opened.ui
    opened.presenter.show(result=RESULT)
    assert not ui.qualifierLabel.visible
    assert ui.nowLabel.text == "Now: Osteopenia. Normal 20.0 %, osteopenia 65.4 %, osteoporosis 14.6 %"
    notes = [{"severity": "warning", "message": "Age 34: read the attenuation, not the class."}]
    opened.presenter.show(result={**RESULT, "qualifiers": notes})
    assert ui.qualifierLabel.text == "Warning: Age 34: read the attenuation, not the class."
    top = [
        label._object.mapTo(opened.top._object, label._object.rect().topLeft()).y()
        for label in (ui.classLabel, ui.qualifierLabel, ui.normalName)
    ]
    assert top == sorted(top)
    opened.presenter.show(result=None)
    assert not ui.nowLabel.visible


def test_without_a_result_there_is_no_card(opened: OpenPanel) -> None:
    opened.presenter.show(result=RESULT)
    opened.presenter.show(result=None)
    assert not opened.ui.resultCard.visible
    assert opened.ui.noResultLabel.visible
    assert not opened.ui.centreButton.enabled


def test_a_demonstration_and_a_simulated_ct_are_labelled(opened: OpenPanel) -> None:
    assert not opened.ui.demonstrationLabel.visible
    opened.presenter.show(demonstration="trained on simulated CT: demonstration only", simulated_ct="Simulated CT.")
    assert opened.ui.demonstrationLabel.visible
    assert opened.ui.demonstrationLabel.text == "trained on simulated CT: demonstration only"
    assert opened.ui.simulatedLabel.text == "Simulated CT."


def test_the_research_sentence_always_stands_there(opened: OpenPanel) -> None:
    assert opened.ui.researchUseLabel.visible
    assert opened.ui.researchUseLabel.text == opened.presenter.model["research_use"]


def test_a_message_shows_severity_cause_and_remedy(opened: OpenPanel) -> None:
    opened.presenter.show(message={"severity": "error", "text": "L1 is cut off.", "remedy": "Use a longer scan."})
    assert opened.ui.messageLabel.visible
    assert opened.ui.messageLabel.text == "Error: L1 is cut off.\nUse a longer scan."


def test_a_fixed_tau_is_shown_and_says_why(opened: OpenPanel) -> None:
    assert not opened.ui.tau1Slider.enabled
    assert opened.ui.tau1Slider.value == 1.0
    assert opened.ui.tau1Note.text == "tau1 belongs to the weights."


def test_moving_a_slider_asks_for_exactly_that_tau(opened: OpenPanel) -> None:
    opened.ui.tau2Slider.value = 0.35
    assert opened.presenter.asked == [("set_tau2", 0.35)]
    opened.presenter.adjust(method="temperature", tau1_enabled=True, tau1_note="", tau1=0.8)
    opened.presenter.asked.clear()
    opened.ui.tau1Slider.value = 0.6
    assert opened.presenter.asked == [("set_tau1", 0.6)]


def test_new_limits_and_values_do_not_look_like_the_person_moved_a_slider(opened: OpenPanel) -> None:
    opened.presenter.adjust(tau_minimum=0.5, tau_maximum=1.5, tau1=0.9, tau2=0.6, method="temperature")
    assert opened.presenter.asked == []
    assert (opened.ui.tau2Slider.minimum, opened.ui.tau2Slider.value) == (0.5, 0.6)
    assert opened.ui.methodSelector.currentData == "temperature"
    assert opened.ui.methodHelp.text == "Sharpens a class."


def test_choosing_a_method_asks_for_it(opened: OpenPanel) -> None:
    opened.ui.methodSelector.currentIndex = 1
    assert opened.presenter.asked == [("set_method", "temperature")]


def test_reset_is_offered_only_away_from_the_weights_own_setting(opened: OpenPanel) -> None:
    assert not opened.ui.resetButton.enabled
    opened.presenter.adjust(is_default=False)
    assert opened.ui.resetButton.enabled


def test_it_polls_only_while_there_is_work(opened: OpenPanel) -> None:
    opened.wait(2)
    assert opened.presenter.asked == []
    opened.presenter.show(busy=True, stage="Running the network", fraction=0.4)
    assert (opened.ui.progressBar.visible, opened.ui.progressBar.value) == (True, 40)
    assert opened.ui.stageLabel.text == "Running the network"
    assert opened.ui.cancelButton.enabled
    assert not opened.ui.ctSelector.enabled
    opened.wait(3)
    assert opened.presenter.asked.count(("poll",)) >= 2
    opened.presenter.show(busy=False)
    opened.presenter.asked.clear()
    opened.wait(2)
    assert opened.presenter.asked == []
    assert not opened.ui.progressBar.visible
    assert opened.ui.ctSelector.enabled


def test_what_goes_wrong_while_polling_is_said_once(opened: OpenPanel) -> None:
    opened.presenter.fails["poll"] = OSError("disk full")
    opened.host.expect_dialog("errorDisplay")
    opened.presenter.show(busy=True)
    opened.wait(4)
    assert len(opened.host.dialogs) == 1
    assert "disk full" in opened.host.dialogs[0][1]


def test_a_refusal_is_shown_with_its_remedy(opened: OpenPanel) -> None:
    opened.presenter.fails["set_ct"] = InputRefused("not_hu", "This is not in HU.", "Load the original CT.")
    opened.host.expect_dialog("errorDisplay")
    opened.ui.ctSelector.setCurrentNode(opened.ct())
    text = opened.host.dialogs[0][1]
    assert "This is not in HU." in text
    assert "Load the original CT." in text


def test_a_fault_is_shown_with_a_next_step(opened: OpenPanel) -> None:
    opened.presenter.fails["reset_adjustment"] = KeyError("tau")
    opened.host.expect_dialog("errorDisplay")
    opened.presenter.adjust(is_default=False)
    opened.ui.resetButton.click()
    assert opened.host.dialogs[0][1].startswith("Resetting the adjustment failed: 'tau'")
    assert "try again" in opened.host.dialogs[0][1]


def test_a_signal_that_does_not_exist_is_an_error_and_not_a_dead_button(
    opened: OpenPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from BoneDensityMedConvLib.qt_binding import connect

    monkeypatch.setattr(proxy, "permissive_connect", True)
    with pytest.raises(RuntimeError, match=r"resetButton has no signal pressed\(bool\)"):
        connect(opened.ui.resetButton, "resetButton", "pressed(bool)", lambda: None)


def _pretend_missing(monkeypatch: pytest.MonkeyPatch, installable: bool) -> list[str]:
    """Say that PyTorch is missing until it is installed; returns the list that installing adds to."""
    from BoneDensityMedConvLib import dependencies

    installed: list[str] = []
    problem = dependencies.Missing("torch", "PyTorch is not installed.", "Install the extension PyTorch.", installable)
    monkeypatch.setattr(dependencies, "missing", lambda segmenter="existing": [] if installed else [problem])
    monkeypatch.setattr(dependencies, "_describe", lambda kind: problem)
    monkeypatch.setattr(dependencies, "_install_torch", lambda: installed.append("torch"))
    return installed


def test_missing_torch_is_asked_about_and_installed(opened: OpenPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = _pretend_missing(monkeypatch, installable=True)
    opened.host.expect_dialog("confirmOkCancelDisplay", answer=True)
    opened.presenter.show(can_analyse=True)
    opened.ui.analyseButton.click()
    assert installed == ["torch"]
    assert opened.presenter.asked == [("analyse",)]


def test_nothing_is_installed_without_consent(opened: OpenPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = _pretend_missing(monkeypatch, installable=True)
    opened.host.expect_dialog("confirmOkCancelDisplay", answer=False)
    opened.presenter.show(can_analyse=True)
    opened.ui.analyseButton.click()
    assert installed == []
    assert opened.presenter.asked == []


def test_where_torch_cannot_be_installed_the_next_step_is_said(
    opened: OpenPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_missing(monkeypatch, installable=False)
    opened.host.expect_dialog("errorDisplay")
    opened.presenter.show(can_analyse=True)
    opened.ui.analyseButton.click()
    assert "Install the extension PyTorch." in opened.host.dialogs[0][1]
    assert opened.presenter.asked == []


def test_every_control_explains_itself(opened: OpenPanel) -> None:
    controls = "ctSelector segmenterSelector segmentSelector analyseButton cancelButton centreButton methodSelector"
    automatic = "qualitySelector fetchWeightsButton importWeightsButton removeWeightsButton folderButton insistCheckBox"
    level = (
        "labelMapSelector confirmLevelButton changeLevelButton shiftUpButton shiftDownButton useT12Button useL2Button"
    )
    comparison = "compareSelector compareInsistCheckBox compareButton clearComparisonButton"
    for name in f"{controls} {automatic} {level} {comparison} tau1Slider tau2Slider resetButton".split():
        assert len(getattr(opened.ui, name).toolTip) > 15, name


def test_the_keyboard_goes_through_the_panel_in_the_order_of_the_work(repository: Any) -> None:
    import xml.etree.ElementTree as ElementTree

    tree = ElementTree.parse(repository / "Resources/UI/BoneDensityMedConv.ui")
    assert [stop.text for stop in tree.iterfind("tabstops/tabstop")] == [
        "ctSelector", "segmenterSelector", "segmentSelector", "qualitySelector", "fetchWeightsButton",
        "importWeightsButton", "removeWeightsButton", "folderButton", "labelMapSelector", "insistCheckBox",
        "analyseButton", "cancelButton", "confirmLevelButton", "changeLevelButton", "shiftUpButton", "shiftDownButton",
        "useT12Button", "useL2Button", "centreButton", "methodSelector", "tau1Slider", "tau2Slider", "resetButton",
        "compareSelector", "compareInsistCheckBox", "compareButton", "clearComparisonButton",
    ]  # fmt: skip


def test_every_widget_has_a_name_of_its_own(repository: Any) -> None:
    import xml.etree.ElementTree as ElementTree

    tree = ElementTree.parse(repository / "Resources/UI/BoneDensityMedConv.ui")
    names = [widget.get("name") for widget in tree.iter("widget")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_the_ui_file_brings_no_styling_of_its_own(repository: Any) -> None:
    text = (repository / "Resources/UI/BoneDensityMedConv.ui").read_text(encoding="utf-8")
    assert "styleSheet" not in text
    assert "<palette>" not in text


def test_what_moved_the_answer_is_asked_for_and_shown(opened: OpenPanel) -> None:
    ui = opened.ui
    assert not ui.explainButton.enabled
    assert not ui.explanationCard.visible
    opened.presenter.show(result=RESULT, can_explain=True)
    ui.explainButton.click()
    assert opened.presenter.asked == [("explain",)]
    opened.presenter.show(explanation=EXPLANATION)
    assert ui.explanationCard.visible
    assert ui.explanationHeadline.text == EXPLANATION["headline"]
    assert ui.explanationLegend.text == (
        '<font color="#ff4030">■</font> towards osteoporosis&nbsp;&nbsp; <font color="#4088ff">■</font> towards normal'
    )
    assert ui.explanationRows.text == (
        "Trabecular core: towards osteoporosis, odds × 2.1 (60% of the map, 25% of the volume)\n"
        "Posterior elements: hardly (40% of the map, 75% of the volume)"
    )
    assert ui.explanationLimits.text == "The map shows what the network used."
    assert (ui.explanationCheckBox.checked, ui.explanationSlider.value) == (True, 0.6)
    opened.presenter.show(result=None, explanation=None, can_explain=False)
    assert not ui.explanationCard.visible


def test_the_map_is_hidden_and_made_fainter_by_its_own_controls(opened: OpenPanel) -> None:
    ui = opened.ui
    opened.presenter.show(result=RESULT, explanation=EXPLANATION)
    assert opened.presenter.asked == [], "drawing asks for nothing"
    ui.explanationSlider.value = 0.25
    ui.explanationCheckBox.click()
    assert opened.presenter.asked == [("set_explanation_opacity", 0.25), ("set_explanation_visible", False)]
    opened.presenter.show(explanation={**EXPLANATION, "visible": False})
    assert not ui.explanationSlider.enabled
