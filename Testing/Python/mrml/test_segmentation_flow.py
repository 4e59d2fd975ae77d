"""One press on a CT without a mask: segmented, level checked, analysed; in doubt, the reader is asked first.

The spine phantom's bones are known, so a relabel, a stand-in or a lost vertebra has one right outcome. The worker is
the test's; the level check is the real one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk
from core.spine_phantom import CENTRES_MM, NAMES

from BoneDensityMedConvLib import level_choice, segments, spine_segments
from BoneDensityMedConvLib import scene as mrml
from medconv import level_report
from medconv.segmenter import SegmenterRequest
from medconv.types import QualityNote, Severity
from medconv.vertebrae import TOTALSEGMENTATOR

LEVEL_KEYS = {
    "undecided", "change_label",
    "line", "levels", "doubtful", "confirmed", "doubts", "question", "statement", "can_confirm", "can_shift_up",
    "can_shift_down", "shift_up_label", "shift_down_label", "shift_up_note", "shift_down_note", "alternatives",
}  # fmt: skip
LANDMARKS = ("sacrum", "rib_left_12", "rib_right_12")


@pytest.fixture
def ready(presenter, spine_ct):
    """A CT is chosen, and an automatic source that needs no weights here."""
    presenter.set_ct(spine_ct)
    presenter.set_segmenter("demonstration")
    return presenter


def without(found, *names):
    """The segmentation without some structures."""
    labels = found.labels_zyx.copy()
    labels[np.isin(labels, [TOTALSEGMENTATOR[name] for name in names])] = 0
    return replace(found, labels_zyx=labels)


@pytest.fixture
def uncertain(found):
    """Neither rib nor sacrum: the count has nothing to hold on to."""
    return without(found, *LANDMARKS)


def one_press(presenter, worker, segmentation):
    """Analyse, and poll until the level is checked: then the analysis runs or the reader is asked."""
    presenter.analyse()
    found_by(presenter, worker, segmentation)


def found_by(presenter, worker, segmentation):
    """The worker has found this; poll until the level is checked."""
    worker.finds(segmentation)
    presenter.poll()
    while presenter.view_model()["stage"] == "Checking the level":
        presenter.poll()


@pytest.fixture
def asked(ready, worker, uncertain):
    """The level is in doubt and the reader has not answered yet."""
    one_press(ready, worker, uncertain)
    assert ready.view_model()["levels"]["question"]
    return ready


def target(presenter):
    return [(level["name"], level["shown_as"]) for level in levels(presenter) if level["is_target"]]


def levels(presenter):
    return presenter.view_model()["levels"]["levels"]


def names_of(node):
    core = node.GetSegmentation()
    return [core.GetNthSegment(i).GetName() for i in range(core.GetNumberOfSegments())]


# One press


def test_one_press_segments_checks_and_analyses(ready, worker, found, spine):
    ready.analyse()
    asked_for = worker.segmentations[0]
    assert asked_for["request"] == SegmenterRequest("demonstration")
    assert np.array_equal(asked_for["ct"].array_zyx, spine.ct.array_zyx)
    assert worker.jobs == []
    found_by(ready, worker, found)
    assert ready.view_model()["busy"]
    case = worker.jobs[0]["case"]
    assert (case.level.found_as, case.level.used_as, case.level.decided_by) == ("L1", "L1", "segmenter")
    assert case.volume_ml == pytest.approx(np.count_nonzero(spine.labels_zyx == 31) * 0.010)  # 2 x 2 x 2.5 mm
    worker.answers()
    assert ready.poll() is False
    model = ready.view_model()
    assert model["result"] is not None
    assert model["message"] is None
    assert set(model["levels"]) == LEVEL_KEYS
    assert not model["levels"]["doubtful"]
    assert model["levels"]["question"] == ""
    assert target(ready) == [("L1", "L1")]


def test_the_levels_are_told_with_volume_and_place(ready, worker, found):
    one_press(ready, worker, found)
    told = levels(ready)
    assert [level["name"] for level in told] == list(NAMES)
    for level in told:
        x, y, z = CENTRES_MM[level["name"]]
        assert level["center_ras_mm"] == pytest.approx((-x, -y, z), abs=4.0)
        voxels = np.count_nonzero(found.labels_zyx == TOTALSEGMENTATOR[level["name"]])
        assert level["volume_ml"] == pytest.approx(voxels * 0.010)


def test_progress_runs_on_through_both_parts_and_never_back(ready, worker, found):
    seen = []
    ready.observe(lambda: seen.append(ready.view_model()["fraction"] if ready.view_model()["busy"] else None))
    ready.analyse()
    worker.progresses("Finding vertebrae", 0.5)
    ready.poll()
    assert ready.view_model()["stage"] == "Finding vertebrae"
    worker.progresses("Writing", 1.0)
    ready.poll()
    found_by(ready, worker, found)
    worker.progresses("Running MedConv", 0.5)
    ready.poll()
    worker.answers()
    ready.poll()
    told = [fraction for fraction in seen if fraction is not None]
    assert told == sorted(told)
    assert told[-1] > 0.9
    assert seen[-1] is None


def test_the_second_press_takes_the_segmentation_that_is_there(ready, worker, found):
    one_press(ready, worker, found)
    worker.answers()
    ready.poll()
    ready.analyse()
    assert len(worker.segmentations) == 1
    assert len(worker.jobs) == 2


def test_another_source_quality_or_ct_is_segmented_anew(ready, worker, found, scene, spine, tmp_path):
    one_press(ready, worker, found)
    worker.answers()
    ready.poll()
    ready.set_segmenter("nnunet")
    assert "Choose the folder" in ready.view_model()["hint"]
    ready.set_nnunet_folder(str(tmp_path))
    ready.set_nnunet_label_map("verse")
    one_press(ready, worker, found)
    assert worker.segmentations[1]["request"] == SegmenterRequest("nnunet", folder=str(tmp_path), label_map="verse")
    worker.answers()
    ready.poll()
    ready.set_segmenter("demonstration")
    ready.analyse()
    assert len(worker.segmentations) == 2, "the first source's segmentation is still in the scene"
    worker.answers()
    ready.poll()
    other = replace(spine.ct, array_zyx=spine.ct.array_zyx + np.int16(1))
    ready.set_ct(segments.add_ct(scene, other, "Other CT"))
    ready.analyse()
    assert len(worker.segmentations) == 3


def test_a_ct_whose_voxels_changed_is_segmented_anew(ready, worker, found, spine_ct):
    one_press(ready, worker, found)
    worker.answers()
    ready.poll()
    slicer.util.arrayFromVolume(spine_ct)[:] += 1
    slicer.util.arrayFromVolumeModified(spine_ct)
    ready.analyse()
    assert len(worker.segmentations) == 2


def test_what_is_no_ct_is_refused_before_minutes_are_spent(ready, worker, spine_ct):
    array = slicer.util.arrayFromVolume(spine_ct)
    array[:] = array // 10 + 500
    slicer.util.arrayFromVolumeModified(spine_ct)
    ready.analyse()
    assert "not Hounsfield units" in ready.view_model()["message"]["text"]
    assert worker.segmentations == []
    assert not ready.view_model()["busy"]


def test_insisting_is_passed_on_and_is_no_reason_to_segment_again(ready, worker, found):
    ready.set_insist(True)
    one_press(ready, worker, found)
    assert worker.segmentations[0]["request"].insist
    worker.answers()
    ready.poll()
    ready.set_insist(False)
    ready.analyse()
    assert len(worker.segmentations) == 1


# In doubt


def test_a_doubtful_level_is_asked_about_and_not_measured(asked, worker):
    model = asked.view_model()
    assert worker.jobs == []
    assert model["result"] is None
    assert not model["busy"]
    assert model["message"] is None, "the levels say it all: twice would be once too often"
    told = model["levels"]
    assert told["statement"] == "The level is in doubt, so nothing is measured yet."
    assert told["doubtful"]
    assert not told["confirmed"]
    assert told["doubts"]
    assert told["can_confirm"]
    assert told["can_shift_up"]
    assert told["can_shift_down"]
    asked.analyse()
    assert worker.jobs == [], "pressing Analyse again is no answer"
    assert len(worker.segmentations) == 1


def test_confirming_goes_on_at_once_and_is_kept_with_the_doubts(asked, worker):
    asked.confirm_level()
    level = worker.jobs[0]["case"].level
    assert (level.found_as, level.used_as, level.decided_by) == ("L1", "L1", "person")
    assert level.doubts
    worker.answers()
    asked.poll()
    model = asked.view_model()
    assert model["result"] is not None
    assert model["levels"]["confirmed"]
    assert model["levels"]["question"] == ""
    assert "confirmed by the reader" in model["levels"]["statement"]
    assert not model["levels"]["can_confirm"]


@pytest.mark.parametrize(("steps", "found_as"), [(1, "T12"), (-1, "L2")])
def test_one_click_makes_the_neighbour_l1(asked, worker, spine, steps, found_as):
    asked.shift_level(steps)
    case = worker.jobs[0]["case"]
    assert (case.level.found_as, case.level.used_as, case.level.decided_by) == (found_as, "L1", "person")
    voxels = np.count_nonzero(spine.labels_zyx == TOTALSEGMENTATOR[found_as])
    assert case.volume_ml == pytest.approx(voxels * 0.010)
    assert target(asked) == [(found_as, "L1")]
    shown = {level["name"]: level["shown_as"] for level in levels(asked)}
    if steps == 1:
        assert shown == {
            "T11": "T12", "T12": "L1", "L1": "L2", "L2": "L3", "L3": "L4", "L4": "L5", "L5": "L6",
        }  # fmt: skip
    else:
        assert shown == {
            "T11": "T10", "T12": "T11", "L1": "T12", "L2": "L1", "L3": "L2", "L4": "L3", "L5": "L4",
        }  # fmt: skip
    assert f"what the segmenter calls {found_as} is L1" in asked.view_model()["levels"]["statement"]


def test_a_relabel_renames_and_retags_the_segments_and_can_be_taken_back(asked, worker):
    node = asked.parameters.segmentation
    assert names_of(node)[:7] == list(NAMES)
    asked.shift_level(1)
    core = node.GetSegmentation()
    assert names_of(node)[:7] == ["T12", "L1", "L2", "L3", "L4", "L5", "L6"]
    assert "66794005" in core.GetSegment("T12").GetTerminology()
    assert "14293000" in core.GetSegment("L1").GetTerminology()
    assert spine_segments.found_as(core.GetSegment("T12")) == "T12"
    assert asked.parameters.segmentId == "T12"
    worker.answers()
    asked.poll()
    assert asked.view_model()["result"] is not None
    asked.shift_level(-1)
    assert asked.view_model()["result"] is None, "a result of another vertebra must not stay"
    assert names_of(node)[:7] == list(NAMES)
    assert target(asked) == [("L1", "L1")]


@pytest.mark.parametrize("there", [1, -1])
def test_there_and_back_again_is_no_yes_in_panel_scene_or_views(asked, worker, there):
    before = asked.view_model()
    kept = asked.parameters.levelJson
    asked.shift_level(there)
    worker.answers()
    asked.poll()
    assert len(worker.jobs) == 1
    asked.shift_level(-there)
    model = asked.view_model()
    assert len(worker.jobs) == 1, "nothing is measured before the reader has answered"
    assert model["levels"] == before["levels"]
    assert model["levels"]["can_confirm"]
    assert not model["levels"]["confirmed"]
    assert model["message"] == before["message"]
    assert model["result"] is None
    assert asked.parameters.levelJson == kept
    asked.confirm_level()
    level = worker.jobs[1]["case"].level
    assert (level.found_as, level.used_as, level.decided_by) == ("L1", "L1", "person")


def test_a_yes_does_not_outlive_a_correction_that_was_taken_back(asked, worker):
    asked.confirm_level()
    worker.answers()
    asked.poll()
    asked.shift_level(-1)
    worker.answers()
    asked.poll()
    asked.shift_level(1)
    assert len(worker.jobs) == 2
    assert asked.view_model()["levels"]["can_confirm"]


def test_there_and_back_on_a_certain_level_is_the_segmenters_word_in_result_and_report(ready, worker, found):
    one_press(ready, worker, found)
    for steps in (1, -1):
        worker.answers()
        ready.poll()
        ready.shift_level(steps)
    level = worker.jobs[2]["case"].level
    assert level == worker.jobs[0]["case"].level
    document = level_report.level_document(level)
    assert document["decided_by"] == "segmenter"
    assert level_report.statement(document) == "L1: found by TotalSegmentator; the level check has no doubt."
    assert ready.view_model()["levels"]["statement"] == "L1, counted from rib 12 and sacrum"


def test_a_certain_level_can_be_corrected_too(ready, worker, found):
    one_press(ready, worker, found)
    worker.answers()
    ready.poll()
    ready.shift_level(1)
    assert worker.jobs[1]["case"].level.found_as == "T12"
    assert ready.view_model()["result"] is None


def test_there_is_no_shift_beyond_what_was_found(ready, worker, found):
    one_press(ready, worker, without(found, "T12", "T11", *LANDMARKS))
    told = ready.view_model()["levels"]
    assert not told["can_shift_up"]
    assert told["shift_up_note"] == "No vertebra was found above."
    assert told["can_shift_down"]
    ready.shift_level(1)
    assert worker.jobs == []
    assert target(ready) == [("L1", "L1")]


def test_t12_instead_is_measured_as_t12_and_leads_back(asked, worker):
    assert [entry["id"] for entry in asked.view_model()["levels"]["alternatives"]] == ["T12", "L2"]
    asked.use_instead("T12")
    level = worker.jobs[0]["case"].level
    assert (level.found_as, level.used_as, level.decided_by) == ("T12", "T12", "person")
    assert "T12 is measured instead of L1" in asked.view_model()["levels"]["statement"]
    worker.answers()
    asked.poll()
    offered = {entry["id"]: entry["label"] for entry in asked.view_model()["levels"]["alternatives"]}
    assert offered["T12"] == "Measure L1 after all"
    asked.use_instead("T12")
    assert len(worker.jobs) == 1, "that L1 is L1 was not said"
    assert asked.view_model()["levels"]["can_confirm"]
    asked.use_instead("L5")
    assert len(worker.jobs) == 1


def test_a_yes_outlives_a_stand_in_that_was_taken_back(asked, worker):
    asked.confirm_level()
    for _ in range(2):
        worker.answers()
        asked.poll()
        asked.use_instead("T12")
    assert [job["case"].level.used_as for job in worker.jobs] == ["L1", "T12", "L1"]
    assert worker.jobs[2]["case"].level.decided_by == "person"
    assert asked.view_model()["levels"]["statement"] == "L1 confirmed by the reader."


def test_the_result_names_what_was_measured_and_by_whom_it_was_outlined(asked, worker):
    asked.use_instead("T12")
    worker.answers(level={"used_as": "T12", "segmenter": "totalsegmentator"})
    asked.poll()
    result = asked.view_model()["result"]
    assert result["hu_line"].startswith("T12 trabecular attenuation: mean ")
    assert result["l1_line"].startswith("T12: volume ")
    assert result["l1_line"].endswith("outlined by TotalSegmentator")


def test_the_demonstration_networks_outline_is_labelled_as_such(ready, worker, found):
    before = ready.view_model()["demonstration"]
    assert "demonstration network" not in before
    one_press(ready, worker, replace(found, segmenter="demonstration", is_demonstration=True))
    assert ready.view_model()["demonstration"].startswith(before)
    assert "demonstration network" in ready.view_model()["demonstration"]


def test_after_a_relabel_t12_is_the_vertebra_above_the_new_l1(asked, worker):
    asked.shift_level(1)
    asked.cancel()
    asked.use_instead("T12")
    level = worker.jobs[1]["case"].level
    assert (level.found_as, level.used_as) == ("T11", "T12")


def test_without_l1_nothing_is_measured_until_t12_or_l2_is_chosen(ready, worker, found):
    one_press(ready, worker, without(found, "L1"))
    model = ready.view_model()
    assert worker.jobs == []
    assert model["levels"]["statement"] == "L1 was not found."
    assert not model["levels"]["can_confirm"]
    assert {entry["id"] for entry in model["levels"]["alternatives"]} == {"T12", "L2"}
    ready.use_instead("L2")
    assert worker.jobs[0]["case"].level.used_as == "L2"


def test_a_segmentation_without_a_vertebra_is_an_error_with_a_next_step(ready, worker, found):
    one_press(ready, worker, without(found, *NAMES, *LANDMARKS))
    message = ready.view_model()["message"]
    assert message["severity"] == "error"
    assert "no vertebra" in message["text"]
    assert not ready.view_model()["busy"]


def test_an_answer_is_not_taken_over_to_other_doubts(asked, worker, found):
    asked.confirm_level()
    worker.answers()
    asked.poll()
    node = asked.parameters.segmentation
    node.GetSegmentation().RemoveSegment("T11")
    asked.analyse()
    assert len(worker.jobs) == 1
    assert asked.view_model()["levels"]["question"]


# What can't be measured


def in_pieces(found, name):
    """The segmentation with a gap of 10 mm through the middle of a vertebra."""
    labels = found.labels_zyx.copy()
    middle = round(float(found.ct_geometry.lps_to_index(CENTRES_MM[name])[2]))
    gap = labels[middle - 2 : middle + 2]
    gap[gap == TOTALSEGMENTATOR[name]] = 0
    return replace(found, labels_zyx=labels)


def cut_by_border(found, name):
    """The segmentation with a vertebra that reaches out to the CT's left border."""
    labels = found.labels_zyx.copy()
    x, y, z = (round(float(v)) for v in found.ct_geometry.lps_to_index(CENTRES_MM[name]))
    labels[z - 1 : z + 1, y, x:] = TOTALSEGMENTATOR[name]
    return replace(found, labels_zyx=labels)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_by_border, "L1 can't be measured: it is cut by the border of the CT."),
        (in_pieces, "L1 can't be measured: it is in 3 pieces; "),
    ],
)
def test_an_l1_that_cannot_be_measured_is_said_to_be_so_and_why(ready, worker, uncertain, spoil, reason):
    one_press(ready, worker, spoil(uncertain, "L1"))
    model = ready.view_model()
    told = model["levels"]
    assert told["statement"].startswith(reason)
    assert told["question"] == "If another vertebra is L1, say which; else choose what is measured in its place."
    assert not told["can_confirm"]
    assert told["can_shift_up"]
    assert told["can_shift_down"]
    assert [entry["id"] for entry in told["alternatives"]] == ["T12", "L2"]
    assert model["message"] is None
    assert not any("cut by" in doubt["message"] or "pieces; " in doubt["message"] for doubt in told["doubts"])
    assert worker.jobs == []
    ready.confirm_level()
    assert worker.jobs == [], "a Yes would not make it whole"


def test_a_neighbour_that_cannot_be_measured_is_not_offered_but_what_l1_is_then(asked, ready, worker, found, uncertain):
    ready.set_segmenter("totalsegmentator")
    asked.parameters.segmentation.GetScene().RemoveNode(asked.parameters.segmentation)
    ready.set_segmenter("demonstration")
    one_press(ready, worker, cut_by_border(uncertain, "T12"))
    told = ready.view_model()["levels"]
    assert told["can_confirm"]
    assert [entry["id"] for entry in told["alternatives"]] == ["L2"]
    assert told["can_shift_up"]
    assert told["shift_up_label"] == "What is called L1 is L2: measure it as L2"
    assert told["shift_up_note"].endswith("T12 can't be measured: it is cut by the border of the CT.")
    assert told["shift_down_label"] == "L1 is the vertebra below (L2)"
    ready.shift_level(1)
    level = worker.jobs[0]["case"].level
    assert (level.found_as, level.used_as, level.decided_by) == ("L1", "L2", "person")
    worker.answers()
    ready.poll()
    told = ready.view_model()["levels"]
    assert {level["name"]: level["shown_as"] for level in told["levels"]}["T12"] == "L1"
    assert [entry["label"] for entry in told["alternatives"]] == ["Measure T12 instead", "Take L2 back"]
    ready.shift_level(-1)
    assert ready.view_model()["levels"]["can_confirm"], "the way back is open"


def test_where_neither_can_be_measured_the_button_says_why(ready, worker, uncertain):
    one_press(ready, worker, cut_by_border(in_pieces(uncertain, "L1"), "T12"))
    told = ready.view_model()["levels"]
    assert not told["can_shift_up"]
    assert told["shift_up_label"] == "L1 is the vertebra above (T12)"
    assert told["shift_up_note"] == "T12 can't be measured: it is cut by the border of the CT."
    ready.shift_level(1)
    assert ready.view_model()["levels"] == told
    assert told["can_shift_down"]


def test_where_nothing_can_be_measured_the_next_step_is_another_ct(ready, worker, uncertain):
    spoilt = uncertain
    for name in ("T12", "L1", "L2"):
        spoilt = cut_by_border(spoilt, name)
    one_press(ready, worker, spoilt)
    told = ready.view_model()["levels"]
    assert told["alternatives"] == []
    assert not told["can_shift_up"]
    assert not told["can_shift_down"]
    assert told["question"].endswith("Use a CT that shows all of L1, or mend the segmentation.")


def test_a_certain_level_that_is_cut_is_told_with_the_next_step(ready, worker, found):
    one_press(ready, worker, cut_by_border(found, "L1"))
    model = ready.view_model()
    assert model["levels"]["statement"] == "L1 can't be measured: it is cut by the border of the CT."
    assert model["levels"]["question"]
    assert model["message"] is None
    ready.use_instead("L2")
    assert worker.jobs[0]["case"].level.used_as == "L2"
    worker.answers()
    ready.poll()
    offered = {entry["id"]: entry["label"] for entry in ready.view_model()["levels"]["alternatives"]}
    assert offered == {"T12": "Measure T12 instead", "L2": "Take L2 back"}


def test_metal_is_no_reason_to_forbid_a_yes(ready, worker, uncertain, spine_ct):
    array = slicer.util.arrayFromVolume(spine_ct)
    z, y, x = (round(float(v)) for v in uncertain.ct_geometry.lps_to_index((0.0, 40.0, 0.0))[::-1])
    array[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4] = 3000  # screws in the arch: measured, with a warning
    slicer.util.arrayFromVolumeModified(spine_ct)
    one_press(ready, worker, uncertain)
    levels = level_choice.kept(ready.parameters)
    assert "L1" not in levels.serving
    assert ready.view_model()["levels"]["can_confirm"]


# In the scene


def test_every_structure_is_a_named_and_tagged_segment_on_the_cts_voxels(ready, worker, found, spine_ct):
    one_press(ready, worker, found)
    node = ready.parameters.segmentation
    assert names_of(node) == [*NAMES, "Sacrum", "Rib 12 left", "Rib 12 right"]
    read = spine_segments.read_spine(node, mrml.ct_volume(spine_ct))
    present = {name: label for label, name in read.names.items() if (read.labels_zyx == label).any()}
    for name, label in present.items():
        got = np.zeros(read.ct_geometry.shape_zyx, bool)
        x, y, z = read.start_xyz
        d, h, w = read.labels_zyx.shape
        got[z : z + d, y : y + h, x : x + w] = read.labels_zyx == label
        assert np.array_equal(got, found.labels_zyx == TOTALSEGMENTATOR[name]), name
    assert set(present) == {*NAMES, *LANDMARKS}
    assert set(read.names.values()) == set(found.names.values()), "what was looked for and not found is known too"
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is spine_ct


def test_tags_are_those_of_slicers_terminology(ready, worker, found):
    one_press(ready, worker, found)
    core = ready.parameters.segmentation.GetSegmentation()
    expected = {
        "T12": ("23215003", ""), "L1": ("66794005", ""), "L5": ("49668003", ""), "sacrum": ("54735007", ""),
        "rib_left_12": ("43993008", "7771000"), "rib_right_12": ("43993008", "24028007"),
    }  # fmt: skip
    for segment_id, (code, side) in expected.items():
        entry = slicer.vtkSlicerTerminologyEntry()
        text = core.GetSegment(segment_id).GetTerminology()
        assert slicer.vtkSlicerTerminologiesModuleLogic().DeserializeTerminologyEntry(text, entry)
        assert entry.GetTypeObject().GetCodeValue() == code
        modifier = entry.GetTypeModifierObject()
        assert (modifier.GetCodeValue() or "" if modifier else "") == side


def test_an_edited_segmentation_is_used_and_said_to_be_edited(ready, worker, found, headless, spine_ct):
    one_press(ready, worker, found)
    worker.answers()
    ready.poll()
    labels = (found.labels_zyx == 31).astype(np.uint8)
    z, y, x = np.argwhere(labels).mean(axis=0).astype(int)
    labels[z, y, x] = 0
    image = headless.add("vtkMRMLLabelMapVolumeNode")
    image.CopyOrientation(spine_ct)
    slicer.util.updateVolumeFromArray(image, labels)
    ids = vtk.vtkStringArray()
    ids.InsertNextValue("L1")
    assert headless.segmentations_logic.ImportLabelmapToSegmentationNode(image, ready.parameters.segmentation, ids)
    assert ready.view_model()["result"] is None
    ready.analyse()
    assert len(worker.segmentations) == 1
    codes = {note.code: note.message for note in worker.jobs[1]["case"].quality}
    assert "L1 was edited" in codes["segment_edited"]
    assert sum(1 for note in worker.jobs[1]["case"].quality if note.code == "segment_edited") == 1


def test_notes_of_the_segmenter_reach_the_result(ready, worker, found):
    note = QualityNote("on_cpu", Severity.INFO, "The graphics card's memory was too small.")
    one_press(ready, worker, replace(found, notes=(note,)))
    assert note in worker.jobs[0]["case"].quality


def test_a_ct_under_a_transform_gets_its_segmentation_in_place(ready, worker, found, spine, headless, spine_ct):
    transform = headless.add("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    turn = vtk.vtkTransform()
    turn.RotateX(20)
    turn.Translate(5, -7, 11)
    matrix.DeepCopy(turn.GetMatrix())
    transform.SetMatrixTransformToParent(matrix)
    spine_ct.SetAndObserveTransformNodeID(transform.GetID())
    ready.analyse()
    given = worker.segmentations[0]["ct"]
    found_by(ready, worker, replace(found, ct_geometry=given.geometry))
    case = worker.jobs[0]["case"]
    assert case.volume_ml == pytest.approx(np.count_nonzero(spine.labels_zyx == 31) * 0.010)
    worker.answers()
    ready.poll()
    matrix.SetElement(0, 3, 50.0)
    transform.SetMatrixTransformToParent(matrix)  # CT and segmentation move together
    ready.analyse()
    assert len(worker.segmentations) == 1


# A person's own segmentation of several vertebrae


@pytest.fixture
def own(ready, found, spine_ct):
    """A segmentation that a person made or imported, with the levels as names only."""
    node = spine_segments.add_spine(found, spine_ct, "")
    core = node.GetSegmentation()
    for index in range(core.GetNumberOfSegments()):
        segment = core.GetNthSegment(index)
        segment.RemoveTag(spine_segments.FOUND_AS_TAG)
        segment.SetTerminology("")
    return node


def test_doubts_about_a_chosen_segment_are_warnings_not_questions(ready, worker, own):
    for name in LANDMARKS:
        own.GetSegmentation().RemoveSegment(name)
    ready.set_segmentation(own)
    assert ready.view_model()["segmenter"] == "existing"
    ready.analyse()
    assert worker.segmentations == []
    case = worker.jobs[0]["case"]
    assert (case.level.found_as, case.level.used_as, case.level.decided_by) == ("L1", "L1", "segment")
    told = ready.view_model()["levels"]
    assert told["doubts"]
    assert told["question"] == ""
    messages = [note.message for note in case.quality if note.severity == "warning"]
    assert told["doubts"][0]["message"] in messages
    notes = [{"code": n.code, "severity": str(n.severity), "message": n.message} for n in case.quality]
    worker.answers(quality=[*notes, {"code": "another", "severity": "info", "message": "Another note."}])
    ready.poll()
    lines = [line["message"] for line in ready.view_model()["result"]["quality"]]
    assert "Another note." in lines
    assert told["doubts"][0]["message"] not in lines, "the level's own card tells it"


def test_a_relabel_of_a_persons_own_segmentation_leaves_its_names_alone(ready, worker, own):
    ready.set_segmentation(own)
    ready.analyse()
    worker.answers()
    ready.poll()
    before = names_of(own)
    ready.shift_level(1)
    assert names_of(own) == before
    assert ready.parameters.segmentId == "T12"
    level = worker.jobs[1]["case"].level
    assert (level.found_as, level.used_as, level.decided_by) == ("T12", "L1", "person")
    worker.answers()
    ready.poll()
    model = ready.view_model()
    assert model["result"] is not None
    assert model["hint"] == ""
    ready.set_segmentation(own, "L1")
    assert ready.view_model()["result"] is None
    ready.analyse()
    assert worker.jobs[2]["case"].level.found_as == "L1", "choosing the segment anew undoes the relabel"


def test_there_and_back_on_a_persons_own_segmentation_is_what_the_segment_says(ready, worker, own):
    ready.set_segmentation(own)
    ready.analyse()
    for steps in (-1, 1):
        worker.answers()
        ready.poll()
        ready.shift_level(steps)
    level = worker.jobs[2]["case"].level
    assert (level.found_as, level.used_as, level.decided_by) == ("L1", "L1", "segment")


def test_a_single_segment_is_analysed_without_a_level_check(ready, worker, load, vertebra):
    loaded = load(vertebra)
    ready.set_ct(loaded.ct)
    ready.set_segmentation(loaded.segmentation)
    ready.analyse()
    assert ready.view_model()["levels"] is None
    level = worker.jobs[0]["case"].level
    assert (level.found_as, level.used_as, level.decided_by, level.segmenter) == ("L1", "L1", "segment", "existing")


# Kept


def test_levels_go_with_their_segmentation_and_ct(asked, scene, spine):
    node = asked.parameters.segmentation
    asked.set_ct(segments.add_ct(scene, spine.ct, "Other"))
    assert asked.view_model()["levels"] is None
    asked.analyse()
    asked.cancel()
    scene.RemoveNode(node)
    assert asked.view_model()["levels"] is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"found": 3}', "null"])
def test_damaged_levels_in_a_saved_scene_are_not_shown_and_are_replaced(asked, text):
    asked.parameters.levelJson = text
    assert asked.view_model()["levels"] is None
    asked.analyse()
    assert asked.view_model()["levels"]["question"]


def test_levels_survive_their_own_text(asked):
    kept = level_choice.kept(asked.parameters)
    assert level_choice.Levels.from_json(kept.to_json()) == kept


# Failures


def test_a_worker_that_dies_is_a_message_and_the_next_press_works(ready, worker, found, scene):
    for _ in range(2):
        ready.analyse()
        before = scene.GetNumberOfNodes()
        worker.fails("worker_died", "It died.", "Start again.")
        assert ready.poll() is False
        assert ready.view_model()["message"]["text"] == "It died."
        assert scene.GetNumberOfNodes() == before
    one_press(ready, worker, found)
    worker.fails("worker_died", "It died.", "Start again.")
    ready.poll()
    assert ready.view_model()["message"]["text"] == "It died."
    ready.analyse()
    assert len(worker.segmentations) == 3, "the segmentation that was finished is not made again"
    worker.answers()
    ready.poll()
    assert ready.view_model()["result"] is not None
    assert ready.view_model()["message"] is None


def test_cancel_while_segmenting_leaves_the_scene_as_it_was(ready, worker, found, scene):
    before = [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]
    ready.analyse()
    worker.progresses("Finding vertebrae", 0.5)
    ready.poll()
    ready.cancel()
    assert worker.cancelled == 1
    worker.finds(found)
    assert ready.poll() is False
    assert [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())] == before
    assert ready.view_model()["levels"] is None
    assert ready.view_model()["message"]["severity"] == "info"
    one_press(ready, worker, found)
    assert len(worker.jobs) == 1


@pytest.mark.parametrize("error", [OSError("no space left on device"), MemoryError()])
def test_a_segmentation_that_cannot_start_is_a_message(ready, worker, error):
    worker.refuses_with = error
    ready.analyse()
    assert ready.view_model()["message"]["severity"] == "error"
    assert not ready.view_model()["busy"]
    assert ready.view_model()["can_analyse"]


def test_a_ct_that_changes_or_goes_while_it_is_segmented_ends_in_a_message(ready, worker, found, spine_ct, scene):
    ready.analyse()
    slicer.util.arrayFromVolume(spine_ct)[::4] += 1
    slicer.util.arrayFromVolumeModified(spine_ct)
    worker.finds(found)
    assert ready.poll() is False
    assert "changed while it was segmented" in ready.view_model()["message"]["text"]
    ready.analyse()
    scene.RemoveNode(spine_ct)
    worker.finds(found)
    assert ready.poll() is False
    assert ready.view_model()["hint"] == "Choose a CT."
    assert scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_another_ct_chosen_meanwhile_is_not_analysed_with_this_ones_spine(ready, worker, found, spine, scene):
    ready.analyse()
    ready.set_ct(segments.add_ct(scene, spine.ct, "Other"))
    worker.finds(found)
    ready.poll()
    assert worker.jobs == []
    assert ready.view_model()["levels"] is None
    assert "Another CT was chosen" in ready.view_model()["message"]["text"]


def test_a_segmentation_that_goes_before_its_check_ends_in_a_message(ready, worker, found, scene):
    ready.analyse()
    worker.finds(found)
    assert ready.poll() is True
    assert ready.view_model()["stage"] == "Checking the level"
    scene.RemoveNode(ready.parameters.segmentation)
    ready.poll()
    assert ready.poll() is False
    assert "no longer there" in ready.view_model()["message"]["text"]
    assert worker.jobs == []


def test_closing_the_scene_while_segmenting_ends_the_work(ready, worker, scene):
    ready.analyse()
    scene.Clear(False)
    assert worker.cancelled == 1
    assert not ready.view_model()["busy"]
    ready.confirm_level()
    ready.shift_level(1)
    ready.use_instead("T12")
    ready.clear_comparison()
    assert ready.poll() is False
