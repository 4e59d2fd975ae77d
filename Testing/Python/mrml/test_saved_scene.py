"""A saved scene keeps choices, taus and the result, and brings them back to a new presenter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import slicer
from mrml.fake_worker import FakeWorker
from mrml.test_segmentation_flow import LANDMARKS, one_press, without

from BoneDensityMedConvLib import parameters
from BoneDensityMedConvLib.presenter import Presenter

FIELDS_KEPT = ("segmentId", "segmenter", "adjustmentIsDefault", "method", "tau1", "tau2", "resultJson", "resultModel")


@pytest.fixture
def saved(parameter_node, loaded, only_untrained):
    """A presenter with a result and a moved slider."""
    worker = FakeWorker()
    presenter = Presenter(parameter_node, worker=worker)
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    presenter.analyse()
    worker.answers()
    presenter.poll()
    presenter.set_method("temperature")
    presenter.set_tau2(0.35)
    yield presenter
    presenter.close()


def other_scene():
    """A scene that knows the node classes, as a freshly started Slicer would."""
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    # Bundles may name remote files; Slicer's application logic brings the cache for them.
    remote = slicer.vtkMRMLRemoteIOLogic()
    markups = slicer.vtkSlicerMarkupsLogic()
    markups.SetMRMLScene(scene)
    scene._kept = (logic, remote, markups)
    return scene, remote


def write_bundle(scene, path):
    for node_class in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsFiducialNode"):
        nodes = scene.GetNodesByClass(node_class)
        for node in (nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())):
            if node.GetStorageNode() is None:
                node.AddDefaultStorageNode()
    assert scene.WriteToMRB(str(path))


def read_bundle(path, folder):
    scene, remote = other_scene()
    remote.GetCacheManager().SetRemoteCacheDirectory(str(folder))
    remote.SetMRMLScene(scene)
    remote.AddDataIOToScene()
    assert scene.ReadFromMRB(str(path))
    return scene


@pytest.fixture
def reloaded(saved, headless, tmp_path):
    """The bundle of that scene, loaded into a new one."""
    write_bundle(headless.scene, tmp_path / "case.mrb")
    cache = tmp_path / "cache"
    cache.mkdir()
    return read_bundle(tmp_path / "case.mrb", cache)


def test_everything_comes_back_from_a_bundle(saved, reloaded):
    before = saved.view_model()
    node = reloaded.GetFirstNodeByClass("vtkMRMLScriptedModuleNode")
    again = Presenter(node, worker=FakeWorker())
    try:
        for name in FIELDS_KEPT:
            assert getattr(again.parameters, name) == getattr(saved.parameters, name), name
        assert again.parameters.ct is reloaded.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        assert again.parameters.segmentation is reloaded.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        assert again.view_model() == before
        assert again.view_model()["result"]["adjustment_line"].count("0.35") == 1
        again.reset_adjustment()
        assert again.view_model()["adjustment"]["is_default"]
    finally:
        again.close()


def test_a_saved_result_works_without_its_weights(saved, reloaded, monkeypatch):
    from medconv import weights

    before = saved.view_model()["result"]
    monkeypatch.setattr(weights, "search_folders", list)
    again = Presenter(reloaded.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"), worker=FakeWorker())
    try:
        assert again.view_model()["result"] == before
        again.set_tau2(0.5)
        assert again.view_model()["result"]["probabilities"] != before["probabilities"]
        assert "No weights are installed" in again.view_model()["hint"]
    finally:
        again.close()


def test_a_result_is_dropped_when_the_ct_in_the_saved_scene_is_another(saved, reloaded):
    ct = reloaded.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    array = slicer.util.arrayFromVolume(ct)
    array[tuple(n // 2 for n in array.shape)] += 1
    again = Presenter(reloaded.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"), worker=FakeWorker())
    try:
        assert again.view_model()["result"] is None
        assert "removed" in again.view_model()["message"]["text"]
    finally:
        again.close()


def test_loading_a_scene_into_a_living_presenter_restores_it(saved, headless, tmp_path):
    """As in Slicer: the parameter node is a singleton, so loading fills the node that is already there."""
    before = saved.view_model()
    write_bundle(headless.scene, tmp_path / "case.mrb")
    headless.scene.Clear(False)
    assert saved.view_model()["result"] is None
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(str(tmp_path))
    remote.SetMRMLScene(headless.scene)
    remote.AddDataIOToScene()
    assert headless.scene.ReadFromMRB(str(tmp_path / "case.mrb"))
    node = headless.scene.GetFirstNodeByClass("vtkMRMLScriptedModuleNode")
    saved.set_parameter_node(parameters.wrap(node))
    after = saved.view_model()
    assert after | {"message": None} == before | {"message": None}


# Automatic segmentation


@pytest.fixture
def decided(presenter, spine_ct, worker, found, tmp_path):
    """A doubtful level that the reader has moved by one, with result and comparison."""
    presenter.set_ct(spine_ct)
    presenter.set_segmenter("demonstration")
    presenter.set_quality("fast")
    presenter.set_nnunet_folder(str(tmp_path))
    presenter.set_insist(True)
    one_press(presenter, worker, without(found, *LANDMARKS))
    presenter.shift_level(1)
    worker.answers()
    presenter.poll()
    presenter.compare_with("nnunet")
    worker.finds(replace(found, labels_zyx=np.roll(found.labels_zyx, 1, axis=1), segmenter="nnunet"))
    while presenter.poll():
        pass
    model = presenter.view_model()
    assert None not in (model["result"], model["levels"], model["comparison"])
    return presenter


@pytest.fixture
def decided_again(decided, headless, tmp_path):
    write_bundle(headless.scene, tmp_path / "case.mrb")
    cache = tmp_path / "cache"
    cache.mkdir()
    return read_bundle(tmp_path / "case.mrb", cache)


def test_level_choice_and_comparison_come_back_from_a_bundle(decided, decided_again):
    before = decided.view_model()
    again = Presenter(decided_again.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"), worker=FakeWorker())
    try:
        after = again.view_model()
        for key in ("levels", "result", "comparison", "segmenter", "segmenter_options", "segment_name"):
            assert after[key] == before[key], key
        assert after["message"] is None
        assert [level["name"] for level in after["levels"]["levels"] if level["is_target"]] == ["T12"]
    finally:
        again.close()


def test_after_loading_the_segmentation_is_known_and_the_decision_still_stands(decided, decided_again):
    worker = FakeWorker()
    again = Presenter(decided_again.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"), worker=worker)
    try:
        again.analyse()
        assert worker.segmentations == []
        level = worker.jobs[0]["case"].level
        assert (level.found_as, level.used_as, level.decided_by) == ("T12", "L1", "person")
        assert not [note for note in worker.jobs[0]["case"].quality if note.code == "segment_edited"]
        again.cancel()
        again.shift_level(-1)
        assert len(worker.jobs) == 1, "back at the start nothing is decided, in a loaded scene too"
        assert again.view_model()["levels"]["can_confirm"]
        again.confirm_level()
        assert worker.jobs[1]["case"].level.found_as == "L1"
    finally:
        again.close()


def test_the_names_beside_the_vertebrae_come_back_and_are_written_over_not_doubled(decided, decided_again):
    def names():
        nodes = decided_again.GetNodesByClass("vtkMRMLMarkupsFiducialNode")
        return sorted(
            node.GetNthControlPointLabel(i)
            for node in (nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems()))
            for i in range(node.GetNumberOfControlPoints())
        )

    expected = sorted(["T12", "L1 (was T12)", "L2", "L3", "L4", "L5", "L6"])
    assert names() == expected
    again = Presenter(decided_again.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"), worker=FakeWorker())
    try:
        again.center_on_l1()
        assert names() == expected
    finally:
        again.close()


def test_a_scene_of_the_first_version_still_takes_its_own_segment(parameter_node, worker, loaded, only_untrained):
    """That version knew no automatic source, and wrote "existing" itself."""
    fields_then = {
        "segmentId": "L1", "segmenter": "existing", "weights": "", "device": "auto", "adjustmentIsDefault": "True",
        "method": "", "tau1": "1.0", "tau2": "1.0", "resultJson": "", "resultModel": "", "resultSegmentId": "",
        "resultFingerprint": "", "ct": "", "segmentation": "", "resultCt": "", "resultSegmentation": "",
    }  # fmt: skip
    for name, text in fields_then.items():
        parameter_node.SetParameter(name, text)
    parameter_node.SetNodeReferenceID("ct", loaded.ct.GetID())
    parameter_node.SetNodeReferenceID("segmentation", loaded.segmentation.GetID())
    presenter = Presenter(parameter_node, worker=worker)
    try:
        assert presenter.view_model()["segmenter"] == "existing"
        assert presenter.view_model()["can_analyse"]
        presenter.analyse()
        assert len(worker.jobs) == 1
    finally:
        presenter.close()
