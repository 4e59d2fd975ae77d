"""The self-test that runs inside Slicer (Reload & Test, ctest): from a CT to the card, through the panel's widgets.

It fails, and does not skip, where PyTorch or the weights are missing: then the extension does not do its job.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import slicer

from BoneDensityMedConvLib.waiting import wait_for_result

SEED = 7
TIMEOUT_S = 300.0


class Scenario:
    """Mixed into the module's `ScriptedLoadableModuleTest`; `makeLogic` gives the module's logic."""

    makeLogic: Any = None
    assertTrue: Any
    assertEqual: Any
    assertAlmostEqual: Any
    assertIsNone: Any
    assertIsNotNone: Any

    def setUp(self) -> None:
        """An empty scene. Raises MissingRequirement where PyTorch or the weights are not there."""
        from BoneDensityMedConvLib import dependencies
        from medconv import weights

        slicer.mrmlScene.Clear()
        dependencies.require()
        weights.default_model()

    def test_1_a_ct_is_analysed_and_tau_moves_the_probabilities(self) -> None:
        """CT and label map in, class out; a slider in the panel shifts the log odds by what the method states."""
        from medconv import weights

        ct, segmentation, segment_id = _scene_with_l1()
        widget = _module_widget()
        ui, presenter = widget.ui, widget.logic.presenter
        ui.ctSelector.setCurrentNode(ct)
        ui.segmentSelector.setCurrentNode(segmentation)
        self.assertEqual(ui.segmentSelector.currentSegmentID(), segment_id)
        self.assertTrue(ui.analyseButton.enabled, ui.hintLabel.text)
        ui.analyseButton.click()
        result = wait_for_result(presenter, TIMEOUT_S)
        self._card_shows(ui, result)

        card = weights.default_model()
        ui.methodSelector.currentIndex = ui.methodSelector.findData("log_prior")
        ui.tau2Slider.value = 0.0
        at_0 = presenter.view_model()["result"]
        ui.tau2Slider.value = 1.0
        at_1 = presenter.view_model()["result"]
        self._card_shows(ui, at_1)
        prior = {str(name): frequency for name, frequency in card.class_prior.items()}
        moved = _log_odds(at_1, "osteoporosis") - _log_odds(at_0, "osteoporosis")
        self.assertAlmostEqual(moved, math.log(prior["normal"] / prior["osteoporosis"]), places=6)
        ui.resetButton.click()
        self.assertEqual(presenter.view_model()["result"], result)

    def test_2_a_saved_scene_brings_the_result_back(self) -> None:
        """Save, close, load: the choices, the tau and the card are there again; closing alone does no harm."""
        ct, segmentation, segment_id = _scene_with_l1()
        widget = _module_widget()
        presenter = widget.logic.presenter
        presenter.set_ct(ct)
        presenter.set_segmentation(segmentation, segment_id)
        presenter.analyse()
        wait_for_result(presenter, TIMEOUT_S)
        presenter.set_tau2(0.25)
        before = presenter.view_model()["result"]
        with tempfile.TemporaryDirectory() as folder:
            scene_file = str(Path(folder) / "case.mrb")
            self.assertTrue(slicer.util.saveScene(scene_file))
            slicer.mrmlScene.Clear()
            self.assertIsNone(presenter.view_model()["result"])
            self.assertEqual(widget.ui.ctSelector.currentNodeID, "")
            self.assertTrue(slicer.util.loadScene(scene_file))
        self.assertEqual(presenter.view_model()["result"], before)
        self.assertAlmostEqual(widget.ui.tau2Slider.value, 0.25)
        self._card_shows(widget.ui, before)

    def test_3_a_script_gets_the_same_answer(self) -> None:
        """`logic.analyse` needs no widget, and closing the scene during an analysis ends it."""
        ct, segmentation, _ = _scene_with_l1()
        logic = self.makeLogic()
        try:
            result = logic.analyse(ct, segmentation, timeout_s=TIMEOUT_S)
            self.assertAlmostEqual(sum(entry["value"] for entry in result["probabilities"]), 1.0, places=6)
        finally:
            logic.presenter.close()
        widget = _module_widget()
        presenter = widget.logic.presenter
        presenter.set_ct(ct)
        presenter.set_segmentation(segmentation)
        presenter.analyse()
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.assertTrue(not presenter.view_model()["busy"])
        self.assertTrue(not widget.ui.cancelButton.enabled)

    def test_4_the_reader_corrects_the_level_with_one_click(self) -> None:
        """The vertebra below is taken for L1: another result, the names in the views follow, and the way back."""
        from BoneDensityMedConvLib import level_labels

        ct, segmentation, _ = _scene_with_l1()
        widget = _module_widget()
        presenter = widget.logic.presenter
        presenter.set_ct(ct)
        presenter.set_segmentation(segmentation)
        presenter.analyse()
        before = wait_for_result(presenter, TIMEOUT_S)
        widget.ui.shiftDownButton.click()
        corrected = wait_for_result(presenter, TIMEOUT_S)
        self.assertTrue(corrected["l1_line"] != before["l1_line"], corrected["l1_line"])
        target = segmentation.GetNodeReference(level_labels.TARGET_ROLE)
        self.assertEqual(target.GetNthControlPointLabel(0), "L1 (was L2)")
        widget.ui.shiftUpButton.click()
        self.assertEqual(wait_for_result(presenter, TIMEOUT_S)["l1_line"], before["l1_line"])

    def _card_shows(self, ui: Any, result: dict[str, Any]) -> None:
        best = max(result["probabilities"], key=lambda entry: entry["value"])
        self.assertEqual(result["class_id"], best["id"])
        self.assertEqual(ui.classLabel.text, result["class_label"])
        for entry in result["probabilities"]:
            self.assertEqual(getattr(ui, entry["id"] + "Value").text, f"{100 * entry['value']:.1f} %")
            self.assertEqual(getattr(ui, entry["id"] + "Bar").value, round(1000 * entry["value"]))
        self.assertEqual(ui.huLabel.text, result["hu_line"])


def _module_widget() -> Any:
    widget = slicer.util.getModuleWidget("BoneDensityMedConv")
    widget.enter()
    return widget


def _scene_with_l1() -> tuple[Any, Any, str]:
    """A simulated CT, and its label map imported as a segmentation by Slicer's own logic. Returns the segment's id."""
    from BoneDensityMedConvLib import sample_data, segments

    made = sample_data.simulated_case(SEED)
    ct = segments.add_ct(slicer.mrmlScene, made.ct, "Self-test CT")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Self-test labels")
    labels.CopyOrientation(ct)
    slicer.util.updateVolumeFromArray(labels, made.labels_zyx)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Self-test vertebrae")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    slicer.mrmlScene.RemoveNode(labels)
    sample_data.name_vertebrae(segmentation)
    segment_id = segments.find_l1(segmentation)
    if not segment_id:
        raise AssertionError("The imported label map holds no L1.")
    return ct, segmentation, segment_id


def _log_odds(result: dict[str, Any], class_id: str) -> float:
    """Natural logarithm of p(class) / p(normal)."""
    p = {entry["id"]: entry["value"] for entry in result["probabilities"]}
    return math.log(p[class_id] / p["normal"])
