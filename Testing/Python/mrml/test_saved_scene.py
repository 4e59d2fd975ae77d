"""A saved scene keeps choices, taus and the result, and brings them back to a new presenter."""

from __future__ import annotations

import pytest
import slicer
from mrml.fake_worker import FakeWorker

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
    scene._kept = (logic, remote)
    return scene, remote


def write_bundle(scene, path):
    for node_class in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"):
        node = scene.GetFirstNodeByClass(node_class)
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
