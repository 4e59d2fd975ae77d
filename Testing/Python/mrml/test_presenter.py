"""What a panel is told and what its buttons do, on real MRML with a worker that the test steers."""

from __future__ import annotations

import math

import pytest
import slicer
import vtk
from core.conftest import PRIOR

from BoneDensityMedConvLib import dependencies, inputs, parameters, segments
from BoneDensityMedConvLib.presenter import Presenter
from medconv.types import Adjustment, TScoreClass

CONTRACT_KEYS = {
    "research_use", "demonstration", "simulated_ct", "segmenters", "segmenter", "segmenter_options",
    "segmenter_weights", "ct_name", "segment_name", "can_analyse", "hint", "busy", "stage", "fraction", "message",
    "adjustment", "result", "levels", "explanation", "can_explain", "comparison", "compare_choices", "second_source",
    "can_compare",
}  # fmt: skip
ADJUSTMENT_KEYS = {
    "method", "methods", "tau1", "tau2", "tau1_enabled", "tau2_enabled", "tau1_note", "tau_minimum", "tau_maximum",
    "tau_step", "is_default",
}  # fmt: skip
RESULT_KEYS = {
    "class_id", "class_name", "class_label", "qualifiers", "probabilities", "now_line", "hu_line", "l1_line", "quality",
    "model_line", "adjustment_line",
}  # fmt: skip


@pytest.fixture
def ready(presenter, loaded):
    """CT and L1 are chosen."""
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    return presenter


@pytest.fixture
def answered(ready, worker):
    """There is a result."""
    ready.analyse()
    worker.answers()
    ready.poll()
    assert ready.view_model()["result"] is not None
    return ready


def probabilities(presenter) -> list[float]:
    return [entry["value"] for entry in presenter.view_model()["result"]["probabilities"]]


# Warming up


def test_the_worker_is_warmed_once_a_ct_is_there_and_not_before(presenter, loaded, worker):
    presenter.set_quality("fast")
    assert worker.warmed == [], "no process and no memory before a CT is chosen"
    presenter.set_ct(loaded.ct)
    assert worker.warmed == [(None, "auto")]
    presenter.set_segmentation(loaded.segmentation)
    presenter.set_tau2(0.5)
    assert worker.warmed == [(None, "auto")]
    assert not presenter.view_model()["busy"], "nothing to wait for, nothing to cancel"


def test_other_weights_are_warmed_as_well_and_all_again_after_a_cancel(ready, worker):
    ready.parameters.device = "cpu"
    assert worker.warmed == [(None, "auto"), (None, "cpu")]
    ready.parameters.weights = "untrained"
    assert worker.warmed[2:] == [("untrained", "cpu")]
    ready.analyse()
    assert len(worker.warmed) == 3, "not while there is work"
    ready.cancel()
    assert worker.warmed[3:] == [("untrained", "cpu")], "a cancel ends the process"
    ready.set_ct(None)
    assert len(worker.warmed) == 4


def test_without_torch_or_a_process_there_is_no_warm_up_and_no_word_of_it(presenter, loaded, worker, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(dependencies, "_has", lambda module: module != "torch")
        presenter.set_ct(loaded.ct)
        assert worker.warmed == []
    worker.refuses_with = OSError(12, "no memory")
    presenter.set_segmentation(loaded.segmentation)
    assert worker.warmed == []
    assert presenter.view_model()["message"] is None


# Choosing


def test_the_view_model_has_the_contracts_keys_with_and_without_a_result(presenter, loaded, worker):
    empty = presenter.view_model()
    assert set(empty) == CONTRACT_KEYS
    assert set(empty["adjustment"]) == ADJUSTMENT_KEYS
    assert empty["result"] is None
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    presenter.analyse()
    worker.answers()
    presenter.poll()
    assert set(presenter.view_model()["result"]) == RESULT_KEYS


def test_the_hint_leads_from_nothing_to_analyse(presenter, loaded):
    presenter.set_segmenter("existing")
    seen = [presenter.view_model()["hint"]]
    presenter.set_ct(loaded.ct)
    seen.append(presenter.view_model()["hint"])
    loaded.segmentation.GetSegmentation().AddEmptySegment("S", "Segment_1")
    presenter.set_segmentation(loaded.segmentation, "")
    seen.append(presenter.view_model()["hint"])
    presenter.set_segmentation(loaded.segmentation, "L1")
    seen.append(presenter.view_model()["hint"])
    assert seen == ["Choose a CT.", "Choose a segmentation that holds L1.", "Choose the segment of L1.", ""]
    assert presenter.view_model()["can_analyse"]
    assert presenter.view_model()["ct_name"] == "CT"
    assert presenter.view_model()["segment_name"] == "L1"


def test_l1_is_chosen_by_itself_when_the_segmentation_names_it(ready):
    assert ready.parameters.segmentId == "L1"


def test_a_segment_of_another_vertebra_is_not_analysed(ready, loaded, worker):
    segment = loaded.segmentation.GetSegmentation().GetSegment("L1")
    segment.SetTerminology(segment.GetTerminology().replace("66794005^L1 vertebra", "14293000^L2 vertebra"))
    model = ready.view_model()
    assert not model["can_analyse"]
    assert "tagged as vertebra L2, not L1" in model["hint"]
    ready.analyse()
    assert worker.jobs == []
    assert ready.view_model()["message"]["severity"] == "error"


def test_a_segment_that_names_no_vertebra_is_analysed_with_a_warning(ready, loaded, worker):
    segment = loaded.segmentation.GetSegmentation().GetSegment("L1")
    segment.SetName("Segment_1")
    segment.SetTerminology("")
    ready.analyse()
    codes = {note.code: str(note.severity) for note in worker.jobs[0]["case"].quality}
    assert codes["level_not_stated"] == "warning"


def test_a_segment_named_l1_is_tagged_as_l1(ready, loaded):
    segment = loaded.segmentation.GetSegmentation().GetSegment("L1")
    segment.SetTerminology("")
    ready.analyse()
    assert "SCT^66794005^L1 vertebra" in segment.GetTerminology()


def test_the_four_sources_are_listed_and_an_unknown_one_is_not_taken(presenter, loaded):
    listed = [entry["id"] for entry in presenter.view_model()["segmenters"]]
    assert sorted(listed) == ["demonstration", "existing", "nnunet", "totalsegmentator"]
    for source in listed:
        presenter.set_segmenter(source)
        assert presenter.view_model()["segmenter"] == source
    presenter.set_segmenter("no such thing")
    assert presenter.view_model()["segmenter"] == listed[-1]


def test_a_fresh_panel_segments_by_itself_until_a_person_points_at_a_segment(presenter, loaded):
    presenter.set_ct(loaded.ct)
    assert presenter.view_model()["segmenter"] == "totalsegmentator"
    presenter.set_segmentation(None)
    assert presenter.view_model()["segmenter"] == "totalsegmentator"
    presenter.set_segmentation(loaded.segmentation)
    assert presenter.view_model()["segmenter"] == "existing"


def test_a_label_map_is_not_taken_for_the_ct(ready, headless):
    ready.set_ct(headless.add("vtkMRMLLabelMapVolumeNode", "Labels"))
    assert ready.view_model()["hint"] == "'Labels' is a label map; choose the CT."


def test_simulated_weights_and_simulated_ct_are_said(ready, loaded):
    assert ready.view_model()["research_use"].startswith("Research use only.")
    assert ready.view_model()["demonstration"] == "Trained on simulated CT: demonstration only."
    assert ready.view_model()["simulated_ct"] == ""
    loaded.ct.SetAttribute("BoneDensityMedConv.Simulated", "1")
    assert ready.view_model()["simulated_ct"] == "This CT is simulated; it shows no patient."


def test_missing_weights_are_a_hint_with_the_next_step(parameter_node, loaded, worker, monkeypatch, tmp_path):
    from medconv import weights

    monkeypatch.setattr(weights, "search_folders", list)
    presenter = Presenter(parameter_node, worker=worker)
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    model = presenter.view_model()
    assert not model["can_analyse"]
    assert "No weights are installed" in model["hint"]
    assert "import" in model["hint"]
    assert not model["adjustment"]["tau2_enabled"]
    presenter.set_tau2(0.3)
    presenter.set_method("temperature")
    assert presenter.view_model()["adjustment"] == model["adjustment"]


# Working


def test_a_case_is_handed_over_and_the_result_comes_back(ready, worker):
    told = []
    ready.observe(lambda: told.append(ready.view_model()))
    ready.analyse()
    job = worker.jobs[0]
    assert (job["weights"], job["device"], job["adjustment"]) == (None, "auto", None)
    # The phantom's whole vertebra: elliptic cylinder 44 x 32 x 26 mm (28.75 ml) plus arch, pedicles, process.
    assert job["case"].volume_ml == pytest.approx(42.8, abs=1.0)
    assert told[-1]["busy"]
    assert not told[-1]["can_analyse"]
    worker.progresses("Running MedConv", 0.5)
    assert ready.poll() is True
    assert (told[-1]["stage"], told[-1]["fraction"]) == ("Running MedConv", 0.5)
    worker.answers()
    assert ready.poll() is False
    last = told[-1]
    assert (last["busy"], last["stage"], last["fraction"], last["message"]) == (False, "", 0.0, None)
    result = last["result"]
    assert result["class_id"] == "normal"
    assert result["class_label"].startswith("Normal (T-score")
    assert probabilities(ready) == pytest.approx([0.669540, 0.220306, 0.110153], abs=1e-6)
    assert [entry["id"] for entry in result["probabilities"]] == ["normal", "osteopenia", "osteoporosis"]


def test_the_result_is_told_in_a_radiologists_words(answered):
    result = answered.view_model()["result"]
    assert result["hu_line"] == (
        "L1 trabecular attenuation: mean 117 HU, median 102 HU, SD 60 HU (1,234 voxels, 5.1 ml)"
    )
    assert result["l1_line"] == "L1: volume 35.6 ml, centre at L 6, A 112, I 383 mm"
    assert result["quality"] == [{"severity": "info", "message": "Tube voltage unknown."}]
    assert result["model_line"] == "Weights: untrained, trained on nothing: random weights for a test"
    assert result["adjustment_line"].endswith("tau1 = 1, tau2 = 0.5; the weights' own setting")


def test_polling_without_news_tells_nobody(ready, worker):
    told = []
    ready.analyse()
    ready.observe(lambda: told.append(1))
    assert ready.poll() is True
    assert told == []


def test_a_second_press_while_busy_starts_nothing(ready, worker):
    ready.analyse()
    ready.analyse()
    assert len(worker.jobs) == 1


def test_an_input_that_is_refused_says_why_and_what_to_do(ready, loaded, worker):
    array = slicer.util.arrayFromVolume(loaded.ct)
    array[:] = array // 10 + 500
    slicer.util.arrayFromVolumeModified(loaded.ct)
    ready.analyse()
    message = ready.view_model()["message"]
    assert message["severity"] == "error"
    assert "not Hounsfield units" in message["text"]
    assert "rescale" in message["remedy"]
    assert worker.jobs == []
    assert not ready.view_model()["busy"]


def test_a_worker_that_refuses_or_fails_is_told_and_the_next_try_works(ready, worker):
    ready.analyse()
    worker.answers(status="refused", refusal={"code": "metal", "message": "Metal in L1.", "remedy": "Take L2."})
    ready.poll()
    assert ready.view_model()["message"] == {"severity": "error", "text": "Metal in L1.", "remedy": "Take L2."}
    assert ready.view_model()["result"] is None
    ready.analyse()
    assert ready.view_model()["message"] is None
    worker.fails("worker_died", "It died.", "Analyse again.")
    ready.poll()
    assert ready.view_model()["message"] == {"severity": "error", "text": "It died.", "remedy": "Analyse again."}
    assert ready.view_model()["can_analyse"]
    ready.analyse()
    worker.answers()
    ready.poll()
    assert ready.view_model()["result"] is not None


@pytest.mark.parametrize("error", [OSError("no space left on device"), MemoryError()])
def test_a_process_that_cannot_start_is_a_message_not_a_crash(ready, worker, error):
    worker.refuses_with = error
    ready.analyse()
    assert ready.view_model()["message"]["severity"] == "error"
    assert not ready.view_model()["busy"]


def test_missing_torch_is_told_before_anything_is_started(ready, worker, monkeypatch):
    find = dependencies.importlib.util.find_spec
    monkeypatch.setattr(
        dependencies.importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest)
    )
    ready.analyse()
    message = ready.view_model()["message"]
    assert "PyTorch" in message["text"]
    assert "pip install torch" in message["remedy"]
    assert worker.jobs == []


def test_cancel_ends_the_work_and_keeps_an_earlier_result(answered, worker):
    before = answered.view_model()["result"]
    answered.analyse()
    answered.cancel()
    model = answered.view_model()
    assert worker.cancelled == 1
    assert not model["busy"]
    assert model["message"]["severity"] == "info"
    assert model["result"] == before
    worker.answers(logits={"normal": 0.0, "osteopenia": 0.0, "osteoporosis": 9.0})
    assert answered.poll() is False
    assert answered.view_model()["result"] == before
    answered.cancel()
    assert worker.cancelled == 1


# Adjusting


def softmax(values):
    exponentials = [math.exp(v) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def test_log_prior_fixes_tau1_and_says_why(answered):
    adjustment = answered.view_model()["adjustment"]
    assert adjustment["method"] == "log_prior"
    assert not adjustment["tau1_enabled"]
    assert "belongs to the weights" in adjustment["tau1_note"]
    assert adjustment["tau2_enabled"]
    assert adjustment["is_default"]
    before = probabilities(answered)
    answered.set_tau1(0.5)
    assert probabilities(answered) == before
    assert answered.view_model()["adjustment"]["tau1"] == 1.0


@pytest.mark.parametrize("tau2", [0.0, 0.25, 1.0, 2.0])
def test_tau2_changes_the_probabilities_by_the_stated_formula(answered, tau2):
    answered.set_tau2(tau2)
    z = (1.0, 0.0, 0.0)
    prior = [PRIOR[c] for c in TScoreClass]
    expected = softmax([v + (1.0 - tau2) * math.log(p) for v, p in zip(z, prior, strict=True)])
    assert probabilities(answered) == pytest.approx(expected, abs=1e-12)
    assert not answered.view_model()["adjustment"]["is_default"]
    assert "changed by the reader" in answered.view_model()["result"]["adjustment_line"]


def test_temperature_moves_both_taus_and_never_to_zero(answered):
    answered.set_method("temperature")
    adjustment = answered.view_model()["adjustment"]
    assert (adjustment["tau1"], adjustment["tau2"]) == (1.0, 0.5)
    assert adjustment["tau1_enabled"]
    assert adjustment["tau1_note"] == ""
    assert adjustment["tau_minimum"] == 0.05
    answered.set_tau1(2.0)
    mean = 1.0 / 3.0
    expected = softmax([(1 - mean) / 2.0, -mean / 2.0, -mean / 0.5])
    assert probabilities(answered) == pytest.approx(expected, abs=1e-12)
    answered.set_tau2(0.0)
    model = answered.view_model()
    assert model["message"]["severity"] == "warning"
    assert model["adjustment"]["tau2"] == 0.5
    answered.set_tau2(0.6)
    assert answered.view_model()["message"] is None


def test_the_class_follows_the_probabilities(answered, worker):
    answered.analyse()
    worker.answers(logits={"normal": 0.2, "osteopenia": 0.0, "osteoporosis": 0.5})
    answered.poll()
    answered.set_tau2(1.0)
    assert answered.view_model()["result"]["class_id"] == "osteoporosis"
    answered.set_tau2(0.0)
    assert answered.view_model()["result"]["class_id"] == "normal"


def test_reset_brings_the_weights_own_setting_and_result_back(answered):
    before = answered.view_model()
    answered.set_method("legacy_test")
    answered.set_tau2(1.5)
    answered.reset_adjustment()
    assert answered.view_model() == before
    assert answered.parameters.adjustmentIsDefault is True


def test_moving_back_by_hand_is_the_default_again(answered):
    answered.set_tau2(0.7)
    answered.set_tau2(0.5)
    assert answered.view_model()["adjustment"]["is_default"]


def test_a_changed_adjustment_goes_to_the_worker_with_the_next_case(ready, worker):
    ready.set_method("temperature")
    ready.set_tau2(0.8)
    ready.analyse()
    assert worker.jobs[0]["adjustment"] == Adjustment("temperature", 1.0, 0.8)


def test_sliders_need_no_network(answered, worker):
    jobs = len(worker.jobs)
    before = probabilities(answered)
    for i in range(20):
        answered.set_tau2(i / 20)
    assert probabilities(answered) != before
    assert len(worker.jobs) == jobs
    assert not answered.view_model()["busy"]


def test_disagreement_with_the_attenuation_is_judged_for_the_class_now_shown(answered, worker):
    answered.analyse()
    low = {"mean_hu": 90.0, "median_hu": 90.0, "sd_hu": 20.0, "voxels": 900, "volume_ml": 2.0}
    worker.answers(logits={"normal": 0.2, "osteopenia": 0.0, "osteoporosis": 0.5}, attenuation=low)
    answered.poll()

    answered.set_tau2(0.0)
    result = answered.view_model()["result"]
    assert result["class_id"] == "normal"
    assert result["class_label"] == "Normal, but the attenuation disagrees"
    [qualifier] = result["qualifiers"]
    assert qualifier["message"].startswith("Indeterminate, consider DXA: the network says normal, but 90 HU")
    answered.set_tau2(1.0)
    result = answered.view_model()["result"]
    assert result["class_id"] == "osteoporosis"
    assert result["qualifiers"] == []


def test_what_qualifies_the_class_stands_with_it_and_not_among_the_notes(answered, worker):
    answered.analyse()
    told = {
        "kvp_unknown": ("info", "Tube voltage unknown."),
        "indeterminate": ("warning", "Indeterminate, consider DXA."),
        "outside_who_scope": ("warning", "Age 34: read the attenuation."),
    }
    quality = [{"code": code, "severity": severity, "message": text} for code, (severity, text) in told.items()]
    worker.answers(quality=quality, prediction_set=["normal", "osteopenia"])
    answered.poll()
    result = answered.view_model()["result"]
    assert (result["class_name"], result["class_label"]) == (
        "Normal", "Normal, or osteopenia, but WHO classes do not apply",
    )  # fmt: skip
    assert [note["message"] for note in result["qualifiers"]] == [
        told[code][1] for code in reversed(told) if code != "kvp_unknown"
    ]
    assert result["quality"] == [{"severity": "info", "message": "Tube voltage unknown."}]
    assert result["now_line"] == (
        f"Now: {result['class_label']}. Normal 67.0 %, osteopenia 22.0 %, osteoporosis 11.0 %"
    )


def test_the_same_value_again_tells_nobody(answered):
    answered.set_tau2(0.7)
    told = []
    answered.observe(lambda: told.append(1))
    answered.set_tau2(0.7)
    answered.set_method("log_prior")
    answered.set_ct(answered.parameters.ct)
    answered.set_segmentation(answered.parameters.segmentation, answered.parameters.segmentId)
    assert told == []


# Never a result beside what it is not of


def test_another_ct_takes_the_result_away_and_the_first_does_not_bring_it_back(answered, scene, loaded, vertebra):
    answered.set_ct(segments.add_ct(scene, vertebra.ct, "Other CT"))
    model = answered.view_model()
    assert model["result"] is None
    assert model["message"]["severity"] == "info"
    assert "removed" in model["message"]["text"]
    answered.set_ct(loaded.ct)
    assert answered.view_model()["result"] is None


def test_another_segment_takes_the_result_away(answered, loaded):
    loaded.segmentation.GetSegmentation().AddEmptySegment("S", "L1 too")
    answered.set_segmentation(loaded.segmentation, "S")
    assert answered.view_model()["result"] is None


def test_changed_voxels_of_the_ct_take_the_result_away(answered, loaded):
    array = slicer.util.arrayFromVolume(loaded.ct)
    z, y, x = (n // 2 for n in array.shape)
    array[z, y, x] += 1
    slicer.util.arrayFromVolumeModified(loaded.ct)
    assert answered.view_model()["result"] is None


def test_voxels_changed_through_vtk_alone_take_the_result_away(answered, loaded):
    image = loaded.ct.GetImageData()
    image.SetScalarComponentFromDouble(*(n // 2 for n in image.GetDimensions()), 0, 999)
    image.Modified()
    assert answered.view_model()["result"] is None


def test_an_edited_segment_takes_the_result_away(answered, headless, loaded):
    labels = (loaded.case.labels_zyx == 31).astype("uint8")
    labels[tuple(n // 2 for n in labels.shape)] = 0
    image = headless.add("vtkMRMLLabelMapVolumeNode")
    image.CopyOrientation(loaded.ct)
    slicer.util.updateVolumeFromArray(image, labels)
    ids = vtk.vtkStringArray()
    ids.InsertNextValue("L1")
    assert headless.segmentations_logic.ImportLabelmapToSegmentationNode(image, loaded.segmentation, ids)
    assert answered.view_model()["result"] is None


def test_a_moved_ct_takes_the_result_away(answered, headless, loaded):
    transform = headless.add("vtkMRMLLinearTransformNode")
    loaded.ct.SetAndObserveTransformNodeID(transform.GetID())
    assert answered.view_model()["result"] is not None, "the identity moves nothing"
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 1.0)
    transform.SetMatrixTransformToParent(matrix)
    assert answered.view_model()["result"] is None


def test_changes_that_do_not_touch_the_content_keep_the_result(answered, loaded):
    before = answered.view_model()["result"]
    loaded.ct.SetName("Renamed")
    loaded.segmentation.GetDisplayNode().SetOpacity2DFill(0.9)
    loaded.segmentation.GetSegmentation().GetSegment("L1").SetColor(1, 0, 0)
    loaded.segmentation.GetSegmentation().AddEmptySegment("S", "aorta")
    assert answered.view_model()["result"] == before
    assert answered.view_model()["ct_name"] == "Renamed"


def test_a_result_for_what_has_changed_meanwhile_is_not_shown(ready, worker, loaded):
    ready.analyse()
    array = slicer.util.arrayFromVolume(loaded.ct)
    array[tuple(n // 2 for n in array.shape)] += 1
    slicer.util.arrayFromVolumeModified(loaded.ct)
    worker.answers()
    ready.poll()
    model = ready.view_model()
    assert model["result"] is None
    assert model["message"]["severity"] == "warning"
    assert "changed while the analysis ran" in model["message"]["text"]


def test_a_deleted_ct_or_segmentation_is_no_longer_chosen(answered, scene, loaded):
    scene.RemoveNode(loaded.segmentation)
    model = answered.view_model()
    assert (model["segment_name"], model["result"]) == ("", None)
    assert model["hint"] == "Choose a segmentation that holds L1."
    scene.RemoveNode(loaded.ct)
    assert answered.view_model()["hint"] == "Choose a CT."


def test_a_deleted_segment_is_no_longer_chosen(answered, loaded):
    loaded.segmentation.GetSegmentation().RemoveSegment("L1")
    model = answered.view_model()
    assert model["result"] is None
    assert model["hint"] == "Choose the segment of L1."


def test_a_deletion_while_busy_ends_in_a_message(ready, worker, scene, loaded):
    ready.analyse()
    scene.RemoveNode(loaded.ct)
    worker.answers()
    assert ready.poll() is False
    assert ready.view_model()["result"] is None


# Life


@pytest.mark.parametrize("remove_singletons", [False, True])
def test_closing_the_scene_while_busy_ends_the_work_and_does_no_harm(ready, worker, scene, remove_singletons):
    ready.analyse()
    scene.Clear(remove_singletons)
    model = ready.view_model()
    assert worker.cancelled == 1
    assert not model["busy"]
    assert model["result"] is None
    assert model["hint"] == "Choose a CT."
    ready.set_tau2(0.3)
    ready.analyse()
    ready.center_on_l1()
    assert ready.poll() is False


def test_after_a_closed_scene_the_next_case_works_on_the_new_node(answered, worker, headless, load, vertebra):
    headless.scene.Clear(True)
    node = headless.add("vtkMRMLScriptedModuleNode")
    answered.set_parameter_node(node)
    loaded = load(vertebra)
    answered.set_ct(loaded.ct)
    answered.set_segmentation(loaded.segmentation)
    answered.analyse()
    worker.answers()
    answered.poll()
    assert answered.view_model()["result"] is not None
    assert parameters.wrap(node).resultJson != ""


def test_a_node_changed_by_someone_else_is_noticed(ready, parameter_node, loaded):
    told = []
    ready.observe(lambda: told.append(ready.view_model()["ct_name"]))
    parameters.wrap(parameter_node).ct = None
    assert told[-1] == ""
    parameters.wrap(parameter_node).ct = loaded.ct
    assert told[-1] == "CT"


def test_close_takes_every_observer_off(answered, parameter_node, scene, loaded, worker):
    looked = []
    answered._state.look_again = lambda: looked.append(1)

    def stir():
        loaded.ct.Modified()
        parameter_node.Modified()
        loaded.segmentation.GetSegmentation().AddEmptySegment()
        scene.RemoveNode(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))

    stir()
    assert len(looked) >= 3
    answered.close()
    looked.clear()
    stir()
    assert looked == []
    assert worker.closed == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"logits": {"normal": "x"}}', "null"])
def test_a_damaged_saved_result_is_not_shown_and_can_be_replaced(answered, worker, text):
    answered.parameters.resultJson = text
    assert answered.view_model()["result"] is None
    answered.analyse()
    worker.answers()
    answered.poll()
    assert answered.view_model()["result"] is not None


@pytest.mark.parametrize(("name", "value"), [("method", "gone"), ("tau2", 99.0), ("tau2", float("nan"))])
def test_a_damaged_saved_adjustment_falls_back_to_the_weights_own(answered, name, value):
    answered.set_tau2(0.7)
    setattr(answered.parameters, name, value)
    assert answered.view_model()["adjustment"]["is_default"]


def test_l1_is_shown_in_the_planes_when_the_analysis_starts_and_on_request(
    parameter_node, worker, only_untrained, headless, loaded
):
    logics = []
    for plane in ("Axial", "Sagittal", "Coronal"):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(headless.application_logic)
        logic.SetMRMLScene(headless.scene)
        logic.AddSliceNode(plane).SetOrientation(plane)
        logics.append(logic)
    presenter = Presenter(parameter_node, worker=worker, slice_logics=lambda: logics)
    presenter.set_ct(loaded.ct)
    presenter.set_segmentation(loaded.segmentation)
    presenter.analyse()
    # The phantom is symmetric about x = 0, and its centre of mass lies 11.3 mm behind the body's middle.
    assert logics[1].GetSliceOffset() == pytest.approx(0.0, abs=0.5)
    assert logics[2].GetSliceOffset() == pytest.approx(-11.3, abs=0.5)
    assert loaded.ct.GetDisplayNode().GetWindow() == 1800
    logics[2].SetSliceOffset(50)
    presenter.center_on_l1()
    assert logics[2].GetSliceOffset() == pytest.approx(-11.3, abs=0.5)
    presenter.close()


def test_centring_without_l1_says_what_to_do(presenter):
    presenter.center_on_l1()
    message = presenter.view_model()["message"]
    assert message["severity"] == "warning"
    assert "Choose a CT." in message["remedy"]


def test_only_a_segmentation_that_names_l1_is_chosen_without_asking(loaded, headless):
    assert inputs.names_l1(loaded.segmentation)
    segment = loaded.segmentation.GetSegmentation().GetSegment("L1")
    segment.SetTerminology("")
    segment.SetName("liver")
    assert not inputs.names_l1(loaded.segmentation)
    assert not inputs.names_l1(headless.add("vtkMRMLSegmentationNode"))
