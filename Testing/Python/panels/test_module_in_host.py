# mypy: disable-error-code="attr-defined"
"""The real module, panel, presenter and worker process in the strict host: what a person in Slicer goes through."""

from __future__ import annotations

import math
import shutil
import unittest
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from core.spine_phantom import spine_phantom
from panels.slicer_host.host import SlicerHost

REAL_CASE = "abdomen_3mm_l1_complete"
SECONDS_FOR_AN_ANALYSIS = 120


class OpenModule:
    """The module's file loaded as Slicer does, its panel open, and a person's hands."""

    def __init__(self, host: SlicerHost, module_file: Path) -> None:
        import slicer

        self.host, self.scene = host, slicer.mrmlScene
        self.module = host.load_module(module_file)
        self.widget = host.open_module(self.module)
        self.ui, self.presenter = self.widget.ui, self.widget.logic.presenter

    def choose(self, ct: Any, segmentation: Any) -> None:
        self.ui.ctSelector.setCurrentNode(ct)
        self.ui.segmentSelector.setCurrentNode(segmentation)

    def analyse(self) -> dict[str, Any]:
        """Press Analyse and let the panel's own timer do the rest."""
        assert self.ui.analyseButton.enabled, self.ui.hintLabel.text
        self.ui.analyseButton.click()
        self.wait_until(lambda: not self.ui.cancelButton.enabled)
        result = self.presenter.view_model()["result"]
        assert result is not None, self.ui.messageLabel.text
        return result

    def wait_until(self, reached: Callable[[], bool], seconds: float = SECONDS_FOR_AN_ANALYSIS) -> None:
        from PySide6 import QtTest

        for _ in range(int(seconds * 20)):
            if reached():
                return
            QtTest.QTest.qWait(50)
            self.host.application.processEvents()
        raise AssertionError(f"not reached in {seconds} s; the panel says: {self.ui.messageLabel.text}")

    def shown_percentages(self) -> list[float]:
        texts = [getattr(self.ui, f"{c}Value").text for c in ("normal", "osteopenia", "osteoporosis")]
        return [float(text.removesuffix(" %")) for text in texts]


@pytest.fixture
def opened(slicer_host: SlicerHost, module_file: Path) -> OpenModule:
    return OpenModule(slicer_host, module_file)


@pytest.fixture(scope="module")
def simulated() -> Any:
    """L1 and what is around it, simulated: as much of a CT as these tests need, in a fraction of the time."""
    from medconv.simulate import simulate_l1_case

    made, _ = simulate_l1_case(7, perfect_mask=True, margin_mm=15.0)
    return SimpleNamespace(ct=made.ct, labels_zyx=(31 * made.mask_zyx).astype(np.uint8))


@pytest.fixture
def case(opened: OpenModule, simulated: Any) -> tuple[Any, Any]:
    """The simulated CT and its L1 in the scene."""
    import slicer

    from BoneDensityMedConvLib import segments
    from medconv import l1_mask

    ct = segments.add_ct(slicer.mrmlScene, simulated.ct, "CT")
    grid = simulated.ct.geometry
    mask = l1_mask.from_array(simulated.labels_zyx == 31, grid, grid, "L1")
    segmentation, _ = segments.add_l1(slicer.mrmlScene, mask, ct)
    return ct, segmentation


def test_the_module_states_what_it_is(slicer_host: SlicerHost, module_file: Path) -> None:
    from panels.slicer_host.scripted_module import ModuleParent

    module = slicer_host.load_module(module_file)
    parent = ModuleParent(module_file)
    module.BoneDensityMedConv(parent)
    assert (parent.title, parent.categories) == ("BoneDensityMedConv", ["Quantification"])
    assert "Research use only. Not a medical device. Not to rule out low bone density." in parent.helpText
    assert "arXiv:2502.00631" in parent.acknowledgementText
    assert not parent.icon.isNull()


def test_from_a_ct_to_the_card_and_back_to_the_default(opened: OpenModule, case: tuple[Any, Any]) -> None:
    """Choose, analyse, move a slider, change the method, reset: the numbers follow the published formulae."""
    from medconv import weights

    opened.choose(*case)
    assert opened.ui.segmentSelector.currentSegmentID() == "L1"
    first = opened.analyse()
    assert opened.ui.classLabel.text == first["class_label"]
    assert sum(opened.shown_percentages()) == pytest.approx(100.0, abs=0.15)
    assert opened.ui.centreButton.enabled
    prior = {str(name): share for name, share in weights.default_model().class_prior.items()}

    opened.ui.methodSelector.currentIndex = opened.ui.methodSelector.findData("log_prior")
    assert not opened.ui.tau1Slider.enabled
    assert "belongs to the weights" in opened.ui.tau1Note.text
    odds = []
    for tau2 in (0.0, 1.0):
        opened.ui.tau2Slider.value = tau2
        p = {entry["id"]: entry["value"] for entry in opened.presenter.view_model()["result"]["probabilities"]}
        assert opened.shown_percentages() == [float(f"{100 * p[c]:.1f}") for c in p]
        odds.append(math.log(p["osteoporosis"] / p["normal"]))
    assert odds[1] - odds[0] == pytest.approx(math.log(prior["normal"] / prior["osteoporosis"]), abs=1e-9)

    opened.ui.methodSelector.currentIndex = opened.ui.methodSelector.findData("temperature")
    assert opened.ui.tau1Slider.enabled
    assert opened.ui.resetButton.enabled
    opened.ui.tau1Slider.value = 0.5
    assert "tau1 = 0.5" in opened.ui.adjustmentNote.text
    opened.ui.resetButton.click()
    assert opened.presenter.view_model()["result"] == first
    assert not opened.ui.resetButton.enabled


def test_every_section_fits_slicers_column(opened: OpenModule, case: tuple[Any, Any]) -> None:
    """Slicer's module column is 450 to 500 pixels wide and scrolls downwards: nothing is cut off."""
    from PySide6 import QtTest, QtWidgets

    opened.choose(*case)
    opened.analyse()
    opened.ui.comparisonSection.collapsed = False
    opened.presenter.set_second_source("demonstration")
    assert opened.ui.compareInsistCheckBox.visible
    window = opened.widget.parent._object
    assert window.minimumSizeHint().width() <= 450
    for _ in range(3):  # wrapped lines settle
        window.resize(450, window.layout().totalHeightForWidth(450))
        QtTest.QTest.qWait(20)
    wrapped = [label for label in window.findChildren(QtWidgets.QLabel) if label.isVisible() and label.wordWrap()]
    assert len(wrapped) > 5
    assert [label.text() for label in wrapped if label.height() < label.heightForWidth(label.width())] == []


def test_centring_puts_l1_in_the_middle_of_all_three_planes(
    opened: OpenModule, case: tuple[Any, Any], simulated: Any
) -> None:
    import slicer

    opened.choose(*case)
    opened.analyse()
    index_xyz = np.argwhere(simulated.labels_zyx).mean(axis=0)[::-1]
    center_ras = simulated.ct.geometry.index_to_lps(index_xyz) * (-1, -1, 1)
    views = slicer.app.layoutManager()
    for name in views.sliceViewNames():
        views.sliceWidget(name).mrmlSliceNode().JumpSliceByCentering(0, 0, 0)
    opened.ui.centreButton.click()
    for name in views.sliceViewNames():
        to_ras = views.sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        assert np.allclose([to_ras.GetElement(i, 3) for i in range(3)], center_ras, atol=0.01)
    assert case[0].GetDisplayNode().GetWindow() == 1800


def test_cancel_ends_the_work_and_a_new_start_succeeds(opened: OpenModule, case: tuple[Any, Any]) -> None:
    opened.choose(*case)
    opened.ui.analyseButton.click()
    assert opened.ui.cancelButton.enabled
    assert opened.ui.progressBar.visible
    opened.ui.cancelButton.click()
    assert not opened.ui.cancelButton.enabled
    assert opened.ui.messageLabel.text.startswith("Note: Cancelled.")
    assert opened.presenter.view_model()["result"] is None
    opened.analyse()


def test_closing_the_scene_during_an_analysis_leaves_a_clean_panel(
    opened: OpenModule, case: tuple[Any, Any], simulated: Any
) -> None:
    opened.choose(*case)
    opened.ui.analyseButton.click()
    opened.scene.Clear()
    opened.wait_until(lambda: not opened.ui.cancelButton.enabled, seconds=5)
    assert opened.ui.ctSelector.currentNode() is None
    assert not opened.ui.resultCard.visible
    assert opened.ui.hintLabel.text == opened.presenter.view_model()["hint"] != ""


def test_a_saved_scene_brings_choices_taus_and_result_back(
    opened: OpenModule, case: tuple[Any, Any], tmp_path: Path
) -> None:
    import slicer.util

    opened.choose(*case)
    opened.analyse()
    opened.ui.tau2Slider.value = 0.25
    before = opened.presenter.view_model()["result"]
    assert slicer.util.saveScene(str(tmp_path / "case.mrb"))
    opened.scene.Clear()
    assert not opened.ui.resultCard.visible
    assert slicer.util.loadScene(str(tmp_path / "case.mrb"))
    assert opened.presenter.view_model()["result"] == before
    assert opened.ui.ctSelector.currentNode().GetName() == "CT"
    assert opened.ui.segmentSelector.currentSegmentID() == "L1"
    assert opened.ui.tau2Slider.value == 0.25
    assert opened.ui.classLabel.text == before["class_label"]


def test_the_only_ct_and_segmentation_are_offered_on_entering(opened: OpenModule, case: tuple[Any, Any]) -> None:
    assert opened.ui.ctSelector.currentNode() is None
    opened.widget.enter()
    assert opened.ui.ctSelector.currentNode() is case[0]
    assert opened.ui.segmentSelector.currentNode() is case[1]
    assert opened.ui.analyseButton.enabled


def test_with_two_cts_the_person_chooses(opened: OpenModule, case: tuple[Any, Any]) -> None:
    opened.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another")
    opened.widget.enter()
    assert opened.ui.ctSelector.currentNode() is None


def test_a_removed_ct_takes_its_result_with_it(opened: OpenModule, case: tuple[Any, Any]) -> None:
    opened.choose(*case)
    opened.analyse()
    opened.scene.RemoveNode(case[0])
    assert not opened.ui.resultCard.visible
    assert not opened.ui.analyseButton.enabled


def test_both_samples_are_registered_at_start_up(opened: OpenModule) -> None:
    sources = {source.sampleName: source for source in opened.host.sample_data.sources["BoneDensityMedConv"]}
    assert set(sources) == {"Abdominal CT with L1", "Simulated lumbar CT"}
    real = sources["Abdominal CT with L1"]
    assert all("/0e65a448d557382b1e925276212b3bec7f5aff83/" in uri for uri in real.uris)
    assert all(checksum.startswith("SHA256:") and len(checksum) == 71 for checksum in real.checksums)
    assert all(Path(source.thumbnailFileName).is_file() for source in sources.values())


@pytest.mark.real_ct
def test_the_real_sample_is_loaded_with_named_vertebrae_and_analysed(
    opened: OpenModule, real_case: Callable[[str], Path], tmp_path: Path
) -> None:
    import hashlib

    folder = real_case(REAL_CASE)
    source = opened.host.sample_data.sources["BoneDensityMedConv"][0]
    for uri, checksum in zip(source.uris, source.checksums, strict=True):
        file = shutil.copy2(folder / uri.rpartition("/")[2], tmp_path)
        assert checksum == "SHA256:" + hashlib.sha256(Path(file).read_bytes()).hexdigest()
        opened.host.sample_data.downloads[uri] = Path(file)
    ct, segmentation = opened.host.sample_data.press("Abdominal CT with L1")
    core = segmentation.GetSegmentation()
    names = [core.GetNthSegment(index).GetName() for index in range(core.GetNumberOfSegments())]
    assert names == ["S1", "L5", "L4", "L3", "L2", "L1", "T12", "T11"]
    opened.choose(ct, segmentation)
    assert opened.presenter.view_model()["segment_name"].endswith("L1")
    result = opened.analyse()
    labels = sitk.GetArrayViewFromImage(image := sitk.ReadImage(str(folder / "totalseg.nii.gz")))
    volume_ml = np.count_nonzero(labels == 31) * np.prod(image.GetSpacing()) / 1000
    assert f"volume {volume_ml:.1f} ml" in result["l1_line"]


def test_a_failed_download_says_what_else_to_do(opened: OpenModule) -> None:
    opened.host.expect_dialog("errorDisplay")
    with pytest.raises(RuntimeError, match="Check the network"):
        opened.host.sample_data.press("Abdominal CT with L1")
    assert "Simulated lumbar CT" in opened.host.dialogs[0][1]


def test_the_simulated_sample_needs_no_network(
    opened: OpenModule, simulated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from BoneDensityMedConvLib import sample_data

    monkeypatch.setattr(sample_data, "simulated_case", lambda seed: simulated)
    ct, segmentation = opened.host.sample_data.press("Simulated lumbar CT")
    opened.choose(ct, segmentation)
    assert opened.ui.simulatedLabel.visible
    assert opened.ui.analyseButton.enabled


def test_the_self_test_that_runs_inside_slicer_passes_here_even_without_a_main_window(
    opened: OpenModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(opened.host.application), "layoutManager", lambda _application: None)
    from BoneDensityMedConvLib import sample_data

    monkeypatch.setattr(sample_data, "simulated_case", lambda seed: spine_phantom())  # ready at once
    test: unittest.TestCase = opened.module.BoneDensityMedConvTest()
    test.runTest()


@pytest.mark.parametrize("missing", ["torch", "weights"])
def test_the_self_test_fails_and_does_not_skip_where_something_is_missing(
    opened: OpenModule, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from BoneDensityMedConvLib import dependencies
    from medconv import weights
    from medconv.types import MissingRequirement

    if missing == "torch":
        problem = dependencies.Missing("torch", "PyTorch is not installed.", "Install it.", True)
        monkeypatch.setattr(dependencies, "missing", lambda *_: [problem])
    else:
        monkeypatch.setattr(weights, "search_folders", list)
    result = unittest.TestResult()
    opened.module.BoneDensityMedConvTest("test_3_a_script_gets_the_same_answer").run(result)
    assert result.skipped == []
    assert len(result.errors) == 1
    assert MissingRequirement.__name__ in result.errors[0][1]
