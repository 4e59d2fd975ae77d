"""The map of what moved the answer over the CT: asked for, placed, coloured, kept with the result and gone with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slicer
import vtk
from mrml.fake_worker import DOCUMENT, FakeWorker
from mrml.test_saved_scene import read_bundle, write_bundle

from BoneDensityMedConvLib import dependencies, explanation_view
from BoneDensityMedConvLib.offscreen_view import OffscreenSliceView
from BoneDensityMedConvLib.presenter import Presenter
from medconv.explanation import Explanation, PartShare
from medconv.explanation_picture import TOWARDS_NORMAL_RGB, TOWARDS_OSTEOPOROSIS_RGB
from medconv.types import ImageGeometry, ModelIdentity

KEYS = {"headline", "rows", "notes", "limits", "legend", "visible", "opacity"}
RIGHT_LPS_MM, LEFT_LPS_MM = (-12.0, 0.0, 0.0), (12.0, 0.0, 0.0)  # in the phantom's body, whose middle is the origin


def explanation(sha256: str = "") -> Explanation:
    """The patient's left half of the body towards osteoporosis, the right half towards normal, the middle nothing."""
    geometry = ImageGeometry((20, 20, 8), (2.0, 2.0, 2.0), (-19.0, -19.0, -7.0))
    x = geometry.index_to_lps(np.argwhere(np.ones(geometry.shape_zyx))[:, ::-1])[:, 0].reshape(geometry.shape_zyx)
    values = np.where(np.abs(x) > 6, np.sign(x), 0).astype(np.float32)
    parts = (
        PartShare("trabecular core", 10.0, 0.25, 0.6, math.log(2.0)),
        PartShare("cortical shell and endplates", 10.0, 0.25, 0.3, -math.log(4.0)),
        PartShare("posterior elements", 20.0, 0.5, 0.1, 0.01),
    )
    identity = ModelIdentity("untrained", sha256, "nothing")
    return Explanation(values, geometry, "osteoporosis_against_normal", 0.4, 0.1, parts, "L1", identity, 300)


@pytest.fixture
def views(headless):
    made = {
        plane: OffscreenSliceView(headless.scene, headless.application_logic, plane, (300, 300))
        for plane in ("Axial", "Sagittal", "Coronal")
    }
    yield made
    for view in made.values():
        view.close()


@pytest.fixture
def presenter(parameter_node, worker, only_untrained, views):
    made = Presenter(parameter_node, worker=worker, slice_logics=lambda: [view.logic for view in views.values()])
    yield made
    made.close()


@pytest.fixture
def answered(presenter, loaded, worker):
    """There is a result, and the views show the CT."""
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    presenter.analyse()
    worker.answers()
    presenter.poll()
    assert presenter.view_model()["result"] is not None
    return presenter


@pytest.fixture
def explained(answered, worker):
    answered.explain()
    worker.explains(explanation())
    answered.poll()
    assert answered.view_model()["explanation"] is not None
    return answered


def volumes(scene) -> list[str]:
    nodes = scene.GetNodesByClass("vtkMRMLScalarVolumeNode")
    return [nodes.GetItemAsObject(i).GetName() for i in range(nodes.GetNumberOfItems())]


def composites(views):
    return [view.logic.GetSliceCompositeNode() for view in views.values()]


def pixel(view, lps_mm):
    x, y, z = lps_mm
    row, column = view.pixel_of((-x, -y, z))
    return view.pixels()[round(row), round(column)].astype(int)


# Asking


def test_there_is_nothing_to_explain_before_a_result(presenter, worker):
    assert not presenter.view_model()["can_explain"]
    assert presenter.view_model()["explanation"] is None
    presenter.explain()
    assert presenter.view_model()["message"]["remedy"] == "Analyse first."
    assert worker.explanations == []


def test_the_worker_is_asked_about_the_case_that_gave_the_result(answered, worker):
    answered.explain()
    assert answered.view_model()["busy"]
    assert not answered.view_model()["can_explain"]
    (asked,), (analysed,) = worker.explanations, worker.jobs
    assert np.array_equal(asked["case"].mask_zyx, analysed["case"].mask_zyx)
    assert np.array_equal(asked["case"].ct.array_zyx, analysed["case"].ct.array_zyx)
    assert asked["case"].center_lps_mm == analysed["case"].center_lps_mm
    assert (asked["weights"], asked["device"]) == (analysed["weights"], analysed["device"])
    worker.progresses("Asking the network piece by piece", 0.4)
    answered.poll()
    assert (answered.view_model()["stage"], answered.view_model()["fraction"]) == (
        "Asking the network piece by piece",
        0.4,
    )


def test_a_vertebra_measured_in_l1s_place_is_called_so(presenter, loaded, worker):
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    presenter.analyse()
    level = {"found_as": "L2", "used_as": "L2", "decided_by": "person", "segmenter": "existing"}
    worker.answers(level=level)
    presenter.poll()
    presenter.explain()
    assert worker.explanations[0]["case"].vertebra == "L2"


def test_what_is_missing_is_told_with_what_to_install(answered, worker, monkeypatch):
    monkeypatch.setattr(dependencies, "_has", lambda module: module not in ("captum", "slicer.packaging"))
    answered.explain()
    message = answered.view_model()["message"]
    assert "captum" in message["text"]
    assert 'pip install "captum>=0.9,<1"' in message["remedy"]
    assert worker.explanations == []


def test_cancel_and_failure_leave_the_result_and_no_map(answered, worker, scene):
    before = volumes(scene)
    answered.explain()
    answered.cancel()
    assert worker.cancelled == 1
    answered.explain()
    worker.fails("worker_died", "It died.", "Start again.")
    answered.poll()
    assert answered.view_model()["message"]["text"] == "It died."
    assert answered.view_model()["result"] is not None
    assert answered.view_model()["explanation"] is None
    assert volumes(scene) == before


# What is shown


def test_the_parts_are_told_in_words(explained):
    shown = explained.view_model()["explanation"]
    assert set(shown) == KEYS
    assert shown["headline"] == "The cortical shell and endplates of L1 moved the answer most, towards normal."
    assert [(row["name"], row["effect"], row["map_share"]) for row in shown["rows"]] == [
        ("Trabecular core", "towards osteoporosis, odds × 2", 0.6),
        ("Cortical shell and endplates", "towards normal, odds × 4", 0.3),
        ("Posterior elements", "hardly", 0.1),
    ]
    assert [entry["label"] for entry in shown["legend"]] == ["towards osteoporosis", "towards normal"]
    assert "does not show where disease is" in shown["limits"]


def test_the_map_lies_where_the_patient_is(explained):
    """World points are turned from LPS by hand here."""
    node = explained.parameters.explanation
    to_voxel = vtk.vtkMatrix4x4()
    node.GetRASToIJKMatrix(to_voxel)
    array = slicer.util.arrayFromVolume(node)
    for (x, y, z), value in ((LEFT_LPS_MM, 1.0), (RIGHT_LPS_MM, -1.0), ((0.0, 0.0, 0.0), 0.0)):
        i, j, k, _ = (round(v) for v in to_voxel.MultiplyPoint((-x, -y, z, 1.0)))
        assert array[k, j, i] == value
    assert node.GetName() == "CT L1: what moved the answer"


@pytest.mark.parametrize("plane", ["Axial", "Coronal"])
def test_the_colours_are_drawn_on_their_side_and_the_ct_shows_where_nothing_moved(answered, worker, views, plane):
    view = views[plane]
    answered.explain()
    worker.explains(explanation())
    answered.poll()
    answered.set_explanation_opacity(1.0)
    hues = np.array([TOWARDS_OSTEOPOROSIS_RGB, TOWARDS_NORMAL_RGB])
    for place, hue in zip((LEFT_LPS_MM, RIGHT_LPS_MM), hues, strict=True):
        shown = pixel(view, place)
        assert np.argmax(shown) == np.argmax(hue), "red is the patient's left, on the right of the screen"
        assert np.ptp(shown) > 100
    # 150 HU in the bone window of -500 to 1300 HU.
    assert pixel(view, (0.0, 0.0, 0.0)) == pytest.approx(255 * 650 / 1800, abs=1)


def test_it_can_be_hidden_and_made_fainter(explained, views):
    strong = np.ptp(pixel(views["Axial"], LEFT_LPS_MM))
    explained.set_explanation_opacity(0.3)
    assert explained.view_model()["explanation"]["opacity"] == pytest.approx(0.3)
    assert np.ptp(pixel(views["Axial"], LEFT_LPS_MM)) < 0.7 * strong
    explained.set_explanation_visible(False)
    assert not explained.view_model()["explanation"]["visible"]
    assert [composite.GetForegroundVolumeID() for composite in composites(views)] == [None] * 3
    explained.explain()
    assert explained.view_model()["explanation"]["visible"], "asking again shows the map that is there"
    assert not explained.view_model()["busy"]


def test_the_outline_stays_and_its_fill_gives_way_to_the_map(explained, loaded):
    display = loaded.segmentation.GetDisplayNode()
    assert (display.GetOpacity2DFill(), display.GetOpacity2DOutline()) == (0.0, 1.0)
    explained.center_on_l1()
    assert display.GetOpacity2DFill() == 0.0
    explained.set_explanation_visible(False)
    assert display.GetOpacity2DFill() == 1.0


def test_another_volume_over_the_ct_is_left_alone(explained, views, loaded):
    first, second, third = composites(views)
    first.SetForegroundVolumeID(loaded.ct.GetID())
    explained.set_explanation_visible(False)
    assert first.GetForegroundVolumeID() == loaded.ct.GetID()
    assert second.GetForegroundVolumeID() is third.GetForegroundVolumeID() is None


# Kept, and let go


def test_the_sliders_keep_it(explained):
    before = explained.view_model()["explanation"]
    explained.set_tau2(1.5)
    explained.set_method("temperature")
    assert explained.view_model()["explanation"] == before


def test_the_same_answer_again_keeps_it_and_another_lets_it_go(explained, worker, scene, views):
    explained.analyse()
    worker.answers()
    explained.poll()
    assert explained.view_model()["explanation"] is not None
    explained.analyse()
    worker.answers(logits={**DOCUMENT["logits"], "normal": 2.0})
    explained.poll()
    assert explained.view_model()["explanation"] is None
    assert volumes(scene) == ["CT"]
    assert [composite.GetForegroundVolumeID() for composite in composites(views)] == [None] * 3


def _edit_the_ct(presenter, loaded):
    slicer.util.arrayFromVolume(loaded.ct)[loaded.case.labels_zyx > 0] += 30
    slicer.util.arrayFromVolumeModified(loaded.ct)


def _edit_the_segment(presenter, loaded):
    loaded.segmentation.GetSegmentation().RemoveSegment(loaded.segment_id)


@pytest.mark.parametrize("change", [_edit_the_ct, _edit_the_segment, lambda presenter, loaded: presenter.set_ct(None)])
def test_it_goes_with_the_result(explained, loaded, scene, views, change):
    change(explained, loaded)
    assert explained.view_model()["result"] is None
    assert explained.view_model()["explanation"] is None
    assert explained.parameters.explanation is None
    assert volumes(scene) == ["CT"]
    assert [composite.GetForegroundVolumeID() for composite in composites(views)] == [None] * 3


def test_a_map_that_arrives_for_a_result_that_is_gone_is_not_taken(answered, loaded, worker, scene):
    answered.explain()
    _edit_the_ct(answered, loaded)
    worker.explains(explanation())
    answered.poll()
    assert answered.view_model()["explanation"] is None
    assert answered.view_model()["message"]["severity"] == "warning"
    assert volumes(scene) == ["CT"]


def test_other_weights_than_the_results_are_told(answered, worker, scene):
    answered.explain()
    worker.explains(explanation(sha256="another"))
    answered.poll()
    assert "not those that gave the result" in answered.view_model()["message"]["text"]
    assert volumes(scene) == ["CT"]


def test_deleting_the_map_is_noticed(explained, scene):
    scene.RemoveNode(explained.parameters.explanation)
    assert explained.view_model()["explanation"] is None
    assert explained.view_model()["result"] is not None


def test_a_volume_that_took_the_maps_place_is_not_deleted(explained, loaded, scene):
    explained.parameters.explanation = loaded.ct
    assert explained.view_model()["explanation"] is None
    assert "CT" in volumes(scene)


def test_a_saved_scene_brings_it_back_with_its_colours(explained, headless, tmp_path):
    shown = explained.view_model()["explanation"]
    write_bundle(headless.scene, tmp_path / "case.mrb")
    (tmp_path / "cache").mkdir()
    scene = read_bundle(tmp_path / "case.mrb", tmp_path / "cache")
    again = Presenter(scene.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"), worker=FakeWorker())
    try:
        assert again.view_model()["explanation"] == shown
        node = again.parameters.explanation
        assert np.array_equal(
            slicer.util.arrayFromVolume(node), slicer.util.arrayFromVolume(explained.parameters.explanation)
        )
        table = node.GetDisplayNode().GetColorNode()
        assert table.GetNumberOfColors() == explanation_view.STEPS
        rgba = [0.0] * 4
        table.GetColor(explanation_view.STEPS // 2, rgba)
        assert rgba[3] == 0.0
    finally:
        again.close()


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", '{"document": {}, "fingerprint": "", "logits": []}'])
def test_a_damaged_saved_explanation_is_not_shown(explained, text):
    explained.parameters.explanationJson = text
    assert explained.view_model()["explanation"] is None
    assert explained.view_model()["result"] is not None
