"""From nodes in a scene to the result card with the real worker process, torch and all."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import core
import numpy as np
import pytest
from core.phantom import TRABECULAR_HU, grid, phantom, reoriented

from BoneDensityMedConvLib import segments, spine_segments
from BoneDensityMedConvLib.presenter import Presenter
from medconv import l1_mask, pipeline, volume_io
from medconv.inference import LoadedModel
from medconv.segmenters.demonstration import find_demonstration_folder
from medconv.simulate import simulate_lumbar_ct
from medconv.types import MissingRequirement
from medconv.vertebrae import TOTALSEGMENTATOR
from medconv.worker_client import WorkerClient

FAKE_SEGMENTER = Path(core.__path__[0]) / "fake_segmenter.py"
SHOWN_MM = (-170.0, 70.0)  # from the sacrum to T11


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


def test_the_worker_that_was_warmed_is_the_one_that_answers_and_it_ends_with_the_panel(presenter, load, vertebra):
    loaded, worker = load(vertebra), presenter._work._worker
    assert worker.process_id is None
    presenter.set_ct(loaded.ct)
    process_id, events = worker.process_id, worker.folder / "events.jsonl"
    until = time.monotonic() + 120
    while '"warm"' not in events.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert '{"event": "warm", "done": true}' in events.read_text()
    assert analysed(presenter, loaded.ct, loaded.segmentation, loaded.segment_id) is not None
    assert worker.process_id == process_id
    presenter.close()
    assert worker.process_id is None


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


# From a CT alone


def finished(presenter, within_s=600.0):
    """Poll until nothing is under way; the stages that were seen."""
    until, stages = time.monotonic() + within_s, []
    while presenter.poll():
        assert time.monotonic() < until
        stage = presenter.view_model()["stage"]
        if not stages or stages[-1] != stage:
            stages.append(stage)
        time.sleep(0.01)
    return stages


@pytest.fixture(scope="module")
def simulated():
    """A simulated trunk with its true labels."""
    try:
        find_demonstration_folder()
    except MissingRequirement:
        pytest.skip("the demonstration network is not there")
    return simulate_lumbar_ct(7, in_plane_spacing_mm=1.5, slice_thickness_mm=2.5, field_of_view_mm=SHOWN_MM)


def found_in(node, ct_node, name, shape):
    """A structure of a segmentation node on the CT's whole grid, read from the scene."""
    from BoneDensityMedConvLib import scene

    ids = spine_segments.found_structures(node)
    return scene.segment_mask(node, ids[name], scene.ct_volume(ct_node)).full_array_zyx().reshape(shape) > 0


@pytest.mark.timeout(900)  # a minute alone, minutes on a busy machine
def test_one_press_on_a_simulated_ct_finds_l1_and_measures_it(presenter, headless, simulated):
    ct = segments.add_ct(headless.scene, simulated.ct, "Simulated")
    presenter.set_ct(ct)
    presenter.set_segmenter("demonstration")
    presenter.analyse()
    stages = finished(presenter)
    assert "Finding vertebrae" in stages
    model = presenter.view_model()
    assert "demonstration network" in model["demonstration"]
    names = [level["name"] for level in model["levels"]["levels"]]
    assert {"T12", "L1", "L2"} <= set(names)
    if model["levels"]["question"]:  # the small network may leave a doubt, and the reader looks and agrees
        assert model["result"] is None
        presenter.confirm_level()
        finished(presenter)
        model = presenter.view_model()
    assert model["message"] is None
    node = presenter.parameters.segmentation
    for name in ("T12", "L1", "L2"):
        true = simulated.labels_zyx == TOTALSEGMENTATOR[name]
        found = found_in(node, ct, name, true.shape)
        assert 2 * np.count_nonzero(found & true) / (found.sum() + true.sum()) > 0.7, name
    result = model["result"]
    mean = float(result["hu_line"].split("mean ")[1].split(" HU")[0])
    assert mean == pytest.approx(float(simulated.truth["trabecular_hu"]), abs=25)
    # One below, and back: each answer rests on its own vertebra.
    presenter.shift_level(-1)
    finished(presenter)
    moved = presenter.view_model()["result"]
    assert moved["l1_line"] != result["l1_line"]
    assert any("person" in note["message"].lower() and "L2" in note["message"] for note in moved["quality"])
    presenter.shift_level(1)
    finished(presenter)
    assert presenter.view_model()["result"]["l1_line"] == result["l1_line"]


@pytest.mark.real_ct
@pytest.mark.timeout(600)
def test_the_demonstration_network_is_refused_for_a_real_ct(presenter, headless, real_case):
    ct = volume_io.read_ct(real_case("abdomen_3mm_l1_complete") / "example_ct.nii.gz")
    presenter.set_ct(segments.add_ct(headless.scene, ct, "Abdomen"))
    presenter.set_segmenter("demonstration")
    presenter.analyse()
    finished(presenter)
    message = presenter.view_model()["message"]
    assert message["severity"] == "error"
    assert "simulated CTs only" in message["text"]
    assert "insist" in message["remedy"]
    assert presenter.view_model()["levels"] is None
    assert headless.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


@pytest.fixture
def quick(parameter_node, only_untrained):
    """A presenter with the real worker process, in which a quick stand-in segments: all dense bone is L1."""
    client = WorkerClient([sys.executable, str(FAKE_SEGMENTER), "steady"])
    made = Presenter(parameter_node, worker=client)
    made.parameters.device = "cpu"
    made.client = client  # type: ignore[attr-defined]
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_a_worker_killed_at_any_point_is_a_message_and_the_next_press_works(quick, scene):
    quick.set_ct(segments.add_ct(scene, phantom(grid((2.0, 2.0, 2.0)), trabecular_hu=350).ct, "CT"))
    quick.set_segmenter("demonstration")
    nodes = scene.GetNumberOfNodes()
    generator = np.random.default_rng(0)
    for delay_s in [0.0, *generator.uniform(0.0, 3.0, 5)]:
        quick.analyse()
        assert quick.view_model()["busy"]
        until = time.monotonic() + delay_s
        while time.monotonic() < until and quick.poll():
            time.sleep(0.01)
        if quick.client.process_id is not None and quick.view_model()["busy"]:
            os.kill(quick.client.process_id, signal.SIGKILL)
            finished(quick, 60)
            assert "ended unexpectedly" in quick.view_model()["message"]["text"]
            assert quick.view_model()["can_analyse"]
            assert scene.GetNumberOfNodes() == nodes
        else:
            break  # it was faster, and has its answer
    quick.analyse()
    finished(quick)
    assert quick.view_model()["levels"]["question"], "one bone alone: which vertebra it is can't be told"
    quick.confirm_level()
    os.kill(quick.client.process_id, signal.SIGKILL)
    finished(quick, 60)
    assert "ended unexpectedly" in quick.view_model()["message"]["text"]
    assert quick.view_model()["levels"]["confirmed"], "the reader's answer is not lost"
    quick.analyse()
    finished(quick)
    assert quick.view_model()["message"] is None
    assert quick.view_model()["result"] is not None


@pytest.mark.timeout(300)
def test_cancel_while_segmenting_ends_the_process_and_leaves_the_scene(quick, load, vertebra):
    quick.set_ct(load(vertebra).ct)
    quick.set_segmenter("demonstration")
    scene = quick.parameters.ct.GetScene()
    before = [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]
    quick.analyse()
    quick.poll()
    process, folder = quick.client.process_id, quick.client.folder
    quick.cancel()
    assert quick.client.process_id != process, "another one is warmed for the next press"
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())] == before
    quick.analyse()
    finished(quick)
    assert quick.view_model()["levels"] is not None
