"""Two segmentations of one CT, one beside the other: the figures, the two outlines, and what is kept of it.

The second segmentation is the first moved by one or two voxels, so that overlap and distances can be worked out here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from core.spine_phantom import CENTRES_MM, NAMES
from mrml.test_segmentation_flow import LANDMARKS, one_press, without

from BoneDensityMedConvLib import comparison, segments, spine_segments
from BoneDensityMedConvLib.offscreen_view import OffscreenSliceView
from BoneDensityMedConvLib.presenter import Presenter
from medconv.segmenter import SegmenterRequest
from medconv.vertebrae import TOTALSEGMENTATOR

SIZE = (400, 400)
ROW_KEYS = {"name", "dice", "mean_surface_mm", "hausdorff95_mm"}


@pytest.fixture
def moved(found):
    """Everything two voxels (4 mm) to the left, by another network."""
    return replace(found, labels_zyx=np.roll(found.labels_zyx, 2, axis=2), segmenter="nnunet")


@pytest.fixture
def views(headless):
    made = {
        plane: OffscreenSliceView(headless.scene, headless.application_logic, plane, SIZE)
        for plane in ("Axial", "Sagittal", "Coronal")
    }
    yield made
    for view in made.values():
        view.close()


@pytest.fixture
def presenter(parameter_node, worker, only_untrained, views, spine_ct, tmp_path):
    made = Presenter(parameter_node, worker=worker, slice_logics=lambda: [view.logic for view in views.values()])
    made.set_ct(spine_ct)
    made.set_nnunet_folder(str(tmp_path))
    made.set_segmenter("demonstration")
    yield made
    made.close()


@pytest.fixture
def first(presenter, worker, found):
    """The first segmentation is there, with its result."""
    one_press(presenter, worker, replace(found, segmenter="demonstration"))
    worker.answers()
    presenter.poll()
    return presenter


def compare(presenter, worker, choice, segmentation=None):
    presenter.compare_with(choice)
    if segmentation is not None:
        worker.finds(segmentation)
    while presenter.poll():
        pass
    return presenter.view_model()["comparison"]


def all_segmentations(scene):
    nodes = scene.GetNodesByClass("vtkMRMLSegmentationNode")
    return [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]


def dice(one, other) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def label(segmentation, name):
    return segmentation.labels_zyx == TOTALSEGMENTATOR[name]


def test_nothing_can_be_compared_before_there_is_a_first_segmentation(presenter):
    assert not presenter.view_model()["can_compare"]
    presenter.compare_with("nnunet")
    assert presenter.view_model()["message"]["severity"] == "error"
    assert not presenter.view_model()["busy"]


def test_the_choices_are_the_other_sources_and_what_the_scene_holds(first, found, spine_ct, monkeypatch, tmp_path):
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    listed = {entry["id"]: entry for entry in first.view_model()["compare_choices"]}
    assert set(listed) == {"totalsegmentator", "nnunet"}
    assert listed["nnunet"]["available"]
    assert not listed["totalsegmentator"]["available"]
    assert "weights" in listed["totalsegmentator"]["reason"]
    own = spine_segments.add_spine(found, spine_ct, "")
    own.SetName("By hand")
    added = [e for e in first.view_model()["compare_choices"] if e["id"] not in listed]
    assert [(entry["label"], entry["available"]) for entry in added] == [("In the scene: By hand", True)]


def test_the_second_source_stays_chosen_through_runs_and_is_kept_in_the_scene(first, worker, found, moved, spine_ct):
    assert first.view_model()["second_source"] == "nnunet", "what can be used, before the person has chosen"
    by_hand = spine_segments.add_spine(found, spine_ct, "")
    chosen = comparison.IN_SCENE + by_hand.GetID()
    first.set_second_source(chosen)
    assert first.parameters.secondSource == chosen
    compare(first, worker, chosen)
    assert first.view_model()["second_source"] == chosen
    compare(first, worker, "nnunet", moved)
    assert first.view_model()["second_source"] == "nnunet"
    first.set_segmenter("nnunet")
    assert first.view_model()["second_source"] != "nnunet"
    first.set_segmenter("demonstration")
    assert first.view_model()["second_source"] == "nnunet", "back, as soon as it can be the second one again"
    first.set_second_source("no such source")
    assert first.view_model()["second_source"] == "nnunet"


def test_the_demonstration_network_can_be_insisted_on_as_second_source(presenter, worker, found, spine_ct):
    own = spine_segments.add_spine(found, spine_ct, "")
    presenter.set_segmentation(own)
    assert not presenter.view_model()["segmenter_options"]["second_insist_enabled"]
    presenter.set_second_source("demonstration")
    options = presenter.view_model()["segmenter_options"]
    assert options["second_insist_enabled"]
    assert not options["insist_enabled"], "the first source's own box"
    presenter.set_insist(True)
    compare(presenter, worker, "demonstration", replace(found, segmenter="demonstration"))
    assert worker.segmentations[0]["request"] == SegmenterRequest("demonstration", insist=True)
    assert presenter.view_model()["second_source"] == "demonstration"


def test_the_second_source_runs_on_the_same_ct_and_the_figures_are_right(first, worker, found, moved, spine, tmp_path):
    told = compare(first, worker, "nnunet", moved)
    asked = worker.segmentations[1]
    assert asked["request"] == SegmenterRequest("nnunet", folder=str(tmp_path))
    assert np.array_equal(asked["ct"].array_zyx, spine.ct.array_zyx)
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == ["L1", *(name for name in NAMES if name != "L1"), "sacrum"]
    for name, row in rows.items():
        assert set(row) == ROW_KEYS
        assert row["dice"] == pytest.approx(dice(label(found, name), label(moved, name))), name
        # No point of a rigidly moved surface is farther from the first one than it was moved.
        assert 0 < row["mean_surface_mm"] <= row["hausdorff95_mm"] <= 4.0 + 1e-6
    assert told["line"].startswith(f"L1: Dice {rows['L1']['dice']:.3f}, mean surface distance ")
    assert told["title"] == "demonstration network and nnU-Net model"
    assert [entry["label"] for entry in told["legend"]] == ["demonstration network", "nnU-Net model"]
    assert len({entry["color"] for entry in told["legend"]}) == 2
    assert first.view_model()["result"] is not None, "comparing does not touch the result"
    assert first.view_model()["segmenter"] == "demonstration"


def test_the_same_segmentation_agrees_perfectly(first, worker, found):
    told = compare(first, worker, "nnunet", replace(found, segmenter="nnunet"))
    assert all((row["dice"], row["mean_surface_mm"], row["hausdorff95_mm"]) == (1.0, 0.0, 0.0) for row in told["rows"])


def test_comparing_again_with_a_source_that_has_run_needs_no_second_run(first, worker, moved):
    compare(first, worker, "nnunet", moved)
    first.clear_comparison()
    assert first.view_model()["comparison"] is None
    assert compare(first, worker, "nnunet") is not None
    assert len(worker.segmentations) == 2


def test_a_segmentation_of_the_scene_can_be_the_second(first, worker, moved, spine_ct):
    own = spine_segments.add_spine(moved, spine_ct, "")
    own.SetName("By hand")
    told = compare(first, worker, comparison.IN_SCENE + own.GetID())
    assert told["title"] == "demonstration network and By hand"
    assert len(worker.segmentations) == 1


def test_a_level_that_only_one_found_has_no_figures(first, worker, found):
    told = compare(first, worker, "nnunet", replace(without(found, "T11"), segmenter="nnunet"))
    row = next(row for row in told["rows"] if row["name"] == "T11")
    assert (row["dice"], row["mean_surface_mm"], row["hausdorff95_mm"]) == (None, None, None)


def test_two_that_count_differently_are_said_to(first, worker, found):
    names = {number: name for name, number in TOTALSEGMENTATOR.items()}
    names |= {TOTALSEGMENTATOR[a]: b for a, b in (("T11", "T12"), ("T12", "L1"), ("L1", "L2"), ("L2", "L3"))}
    names |= {TOTALSEGMENTATOR[a]: b for a, b in (("L3", "L4"), ("L4", "L5"), ("L5", "L6"))}
    told = compare(first, worker, "nnunet", replace(found, names=names, segmenter="nnunet"))
    assert "nnU-Net model calls this vertebra L2: the two count differently." in told["line"]


def test_after_a_relabel_the_readers_l1_is_compared(presenter, worker, found, moved):
    one_press(presenter, worker, without(found, *LANDMARKS))
    presenter.shift_level(1)
    worker.answers()
    presenter.poll()
    told = compare(presenter, worker, "nnunet", moved)
    assert "calls this vertebra T12" in told["line"]
    row = next(row for row in told["rows"] if row["name"] == "L1")
    assert row["dice"] == 0.0, "the reader's L1 is the bone above the other's"


# In the views


def has_color(pixels, color) -> np.ndarray:
    return np.abs(pixels.astype(float) - np.array(color) * 255).max(axis=-1) < 40


@pytest.mark.parametrize("plane", ["Axial", "Coronal"])
def test_both_outlines_are_drawn_in_their_colours_where_the_masks_end(first, worker, found, moved, views, plane):
    compare(first, worker, "nnunet", moved)
    view = views[plane]
    for node in (first.parameters.comparisonFirst, first.parameters.comparisonSecond):
        assert node.GetDisplayVisibility()
    pixels = view.pixels()
    x, y, z = CENTRES_MM["L1"]
    row, column = (round(v) for v in view.pixel_of((-x, -y, z)))
    # The body is 44 mm wide. On screen the patient's left is to the right: the second one lies 4 mm farther right.
    scale = SIZE[0] / 120
    edges = {}
    for name, color in (("first", comparison.FIRST_COLOR), ("second", comparison.SECOND_COLOR)):
        line = np.flatnonzero(has_color(pixels, color)[row - 3 : row + 4].any(axis=0))
        near = line[np.abs(line - column) < 30 * scale]
        edges[name] = near.min(), near.max()
    assert edges["second"][0] - edges["first"][0] == pytest.approx(4 * scale, abs=3)
    assert edges["second"][1] - edges["first"][1] == pytest.approx(4 * scale, abs=3)
    inside = pixels[row + 10 : row + 21, column - 15 : column - 4].astype(int)  # beside the name
    assert np.ptp(inside, axis=-1).max() <= 3, "outlines only: nothing lies over the bone"


def test_clearing_brings_the_first_ones_own_look_back(first, worker, moved, views):
    before = {name: view.pixels().astype(int) for name, view in views.items()}
    compare(first, worker, "nnunet", moved)
    first.clear_comparison()
    for name, view in views.items():
        assert np.abs(view.pixels().astype(int) - before[name]).max() <= 2, name


def test_centring_keeps_the_comparison_and_a_new_analysis_lets_it_go(first, worker, moved, views):
    before = {name: view.pixels().astype(int) for name, view in views.items()}
    compare(first, worker, "nnunet", moved)
    compared = {name: view.pixels().astype(int) for name, view in views.items()}
    views["Axial"].logic.SetSliceOffset(views["Axial"].logic.GetSliceOffset() + 20)
    first.center_on_l1()
    assert first.view_model()["comparison"] is not None
    for name, view in views.items():
        assert np.abs(view.pixels().astype(int) - compared[name]).max() <= 2, name
    first.analyse()
    assert first.view_model()["comparison"] is None
    for name, view in views.items():
        assert np.abs(view.pixels().astype(int) - before[name]).max() <= 2, name


def test_a_relabel_lets_a_comparison_of_the_old_names_go(first, worker, moved):
    compare(first, worker, "nnunet", moved)
    first.shift_level(1)
    assert first.view_model()["comparison"] is None
    assert not first.view_model()["message"]


# Kept, and let go


def test_an_edited_or_removed_segmentation_takes_the_comparison_away(first, worker, moved, scene):
    compare(first, worker, "nnunet", moved)
    second = first.parameters.comparisonSecond
    second.GetSegmentation().GetSegment("L1").SetColor(1, 0, 0)
    assert first.view_model()["comparison"] is not None, "another colour is no other mask"
    second.GetSegmentation().RemoveSegment("L2")
    assert first.view_model()["comparison"] is None
    compare(first, worker, "nnunet")
    scene.RemoveNode(second)
    assert first.view_model()["comparison"] is None


def test_another_ct_takes_the_comparison_away(first, worker, moved, scene, spine):
    compare(first, worker, "nnunet", moved)
    first.set_ct(segments.add_ct(scene, spine.ct, "Other"))
    assert first.view_model()["comparison"] is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"view": {}, "checksums": []}', "null"])
def test_a_damaged_saved_comparison_is_not_shown(first, worker, moved, text):
    compare(first, worker, "nnunet", moved)
    first.parameters.comparisonJson = text
    assert first.view_model()["comparison"] is None


def test_cancel_and_death_leave_no_comparison_and_the_next_try_works(first, worker, moved, scene):
    nodes = scene.GetNumberOfNodes()
    first.compare_with("nnunet")
    first.cancel()
    assert first.view_model()["comparison"] is None
    first.compare_with("nnunet")
    worker.fails("worker_died", "It died.", "Start again.")
    first.poll()
    assert first.view_model()["message"]["text"] == "It died."
    assert scene.GetNumberOfNodes() == nodes
    first.compare_with("nnunet")
    worker.finds(moved)
    first.poll()
    assert first.view_model()["stage"].startswith("Comparing")
    first.cancel()
    visible = [bool(node.GetDisplayVisibility()) for node in all_segmentations(scene)]
    assert visible == [True, False], "only the first one is shown"
    assert first.view_model()["comparison"] is None
    assert first.view_model()["result"] is not None
    assert compare(first, worker, "nnunet") is not None
