"""From nodes in a scene to the result card with the real worker process, torch and all."""

from __future__ import annotations

import time

import numpy as np
import pytest
from core.phantom import TRABECULAR_HU, reoriented

from BoneDensityMedConvLib import segments
from BoneDensityMedConvLib.presenter import Presenter
from medconv import l1_mask, pipeline, volume_io
from medconv.inference import LoadedModel


@pytest.fixture
def presenter(parameter_node, only_untrained):
    made = Presenter(parameter_node)
    made.parameters.device = "cpu"
    yield made
    made.close()


def analysed(presenter, ct, segmentation, segment_id, within_s=120.0):
    presenter.set_ct(ct)
    presenter.set_segmentation(segmentation, segment_id)
    stages = []
    presenter.observe(lambda: stages.append(presenter.view_model()["stage"]))
    presenter.analyse()
    until = time.monotonic() + within_s
    while presenter.poll():
        assert time.monotonic() < until
        time.sleep(0.01)
    model = presenter.view_model()
    assert model["message"] is None
    assert stages[0] == "Starting the analysis"  # later ones may pass between two polls
    return model["result"]


def values(result):
    return [entry["value"] for entry in result["probabilities"]]


def test_the_panels_answer_is_the_command_lines_answer_in_any_orientation(presenter, load, vertebra):
    expected = pipeline.predict(vertebra.ct, vertebra.mask, LoadedModel.load(None, "cpu"))
    answers = []
    for case in (vertebra, reoriented(vertebra, "PIR")):
        loaded = load(case)
        answers.append(analysed(presenter, loaded.ct, loaded.segmentation, loaded.segment_id))
    for answer in answers:
        assert values(answer) == pytest.approx(list(expected.probabilities.values()), abs=1e-4)
        assert answer["class_id"] == expected.t_score_class
        assert f"median {TRABECULAR_HU} HU" in answer["hu_line"]
    assert answers[0]["l1_line"] == answers[1]["l1_line"]


def test_cancel_in_the_middle_and_analyse_again(presenter, load, vertebra):
    loaded = load(vertebra)
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    presenter.analyse()
    presenter.cancel()
    assert analysed(presenter, loaded.ct, loaded.segmentation, loaded.segment_id) is not None


@pytest.mark.real_ct
def test_a_real_ct_gives_the_same_as_the_core_alone(presenter, headless, real_case):
    folder = real_case("abdomen_3mm_l1_complete")
    ct = volume_io.read_ct(folder / "example_ct.nii.gz")
    labels, geometry, _alive = volume_io.read_labels(folder / "totalseg.nii.gz")
    mask, notes = l1_mask.from_labels(labels, geometry, 31, ct.geometry)
    expected = pipeline.predict(ct, mask, LoadedModel.load(None, "cpu"), notes=notes)
    node = segments.add_ct(headless.scene, ct, "Abdomen")
    segmentation, segment_id = segments.add_l1(headless.scene, mask, node)
    result = analysed(presenter, node, segmentation, segment_id)
    assert values(result) == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    # The label's voxels, counted here: 3 mm cubes.
    volume_ml = np.count_nonzero(labels == 31) * 0.027
    assert f"volume {volume_ml:.1f} ml" in result["l1_line"]
    assert f"mean {expected.attenuation.mean_hu:.0f} HU" in result["hu_line"]
    assert np.isclose(sum(values(result)), 1.0)


@pytest.mark.real_ct
def test_the_shipped_weights_answer_on_the_real_ct(parameter_node, headless, real_case):
    folder = real_case("abdomen_3mm_l1_complete")
    ct = volume_io.read_ct(folder / "example_ct.nii.gz")
    labels, geometry, _alive = volume_io.read_labels(folder / "totalseg.nii.gz")
    mask, notes = l1_mask.from_labels(labels, geometry, 31, ct.geometry)
    model = LoadedModel.load(None, "cpu")
    expected = pipeline.predict(ct, mask, model, notes=notes)
    node = segments.add_ct(headless.scene, ct, "Abdomen")
    presenter = Presenter(parameter_node)
    presenter.parameters.device = "cpu"
    try:
        result = analysed(presenter, node, *segments.add_l1(headless.scene, mask, node))
        assert values(result) == pytest.approx(list(expected.probabilities.values()), abs=1e-4)
        assert model.card.name in result["model_line"]
        assert bool(presenter.view_model()["demonstration"]) is model.card.simulated_only
    finally:
        presenter.close()
