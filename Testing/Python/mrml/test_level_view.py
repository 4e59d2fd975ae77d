"""The levels in the slice views: names beside the vertebrae, the measured one standing out, what each view shows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import vtk
from core.spine_phantom import CENTRES_MM, NAMES
from mrml.test_segmentation_flow import LANDMARKS, found_by, one_press, without

from BoneDensityMedConvLib import level_choice, level_labels, segments, spine_display
from BoneDensityMedConvLib.offscreen_view import OffscreenSliceView
from BoneDensityMedConvLib.presenter import Presenter

SIZES = {"Sagittal": (420, 640), "Axial": (320, 320), "Coronal": (320, 320)}


@pytest.fixture
def views(headless):
    made = {
        plane: OffscreenSliceView(headless.scene, headless.application_logic, plane, size)
        for plane, size in SIZES.items()
    }
    yield made
    for view in made.values():
        view.close()


@pytest.fixture
def presenter(parameter_node, worker, only_untrained, views, spine_ct):
    made = Presenter(parameter_node, worker=worker, slice_logics=lambda: [view.logic for view in views.values()])
    made.set_ct(spine_ct)
    made.set_segmenter("demonstration")
    yield made
    made.close()


@pytest.fixture
def certain(presenter, worker, found):
    one_press(presenter, worker, found)
    return presenter


@pytest.fixture
def doubtful(presenter, worker, found):
    one_press(presenter, worker, without(found, *LANDMARKS))
    return presenter


def texts(presenter) -> dict[str, str]:
    """Which text stands at which bone, by the bone's true name."""
    told = {}
    for node in level_labels.nodes_of(presenter.parameters.segmentation):
        for index in range(node.GetNumberOfControlPoints()):
            point = np.array(node.GetNthControlPointPositionWorld(index))
            distance = {n: np.linalg.norm(point * (-1, -1, 1) - c) for n, c in CENTRES_MM.items()}
            bone = min(distance, key=distance.get)
            assert distance[bone] < 4.0
            told[bone] = node.GetNthControlPointLabel(index)
    return told


def show_names(presenter, visible):
    for node in level_labels.nodes_of(presenter.parameters.segmentation):
        node.SetDisplayVisibility(visible)


def inside(view, point_ras) -> bool:
    row, column = view.pixel_of(point_ras)
    width, height = SIZES[view.plane] if hasattr(view, "plane") else view.node.GetDimensions()[:2]
    return 0 <= row < height and 0 <= column < width


def ras(name):
    x, y, z = CENTRES_MM[name]
    return -x, -y, z


def test_each_vertebra_has_its_name_at_the_centre_of_its_body(certain):
    assert texts(certain) == {name: name for name in NAMES}


def test_the_questioned_level_carries_a_question_mark_until_it_is_answered(doubtful):
    in_doubt = {"L1", *level_choice.kept(doubtful.parameters).doubtful}
    assert texts(doubtful) == {name: f"{name} ?" if name in in_doubt else name for name in NAMES}
    assert "L5" not in in_doubt
    doubtful.confirm_level()
    assert texts(doubtful) == {name: name for name in NAMES}


def test_after_a_relabel_every_bone_has_its_new_name_and_the_measured_one_both(doubtful):
    doubtful.shift_level(1)
    assert texts(doubtful) == {
        "T11": "T12", "T12": "L1 (was T12)", "L1": "L2", "L2": "L3", "L3": "L4", "L4": "L5", "L5": "L6",
    }  # fmt: skip


def test_a_stand_in_is_said_to_be_one(doubtful):
    doubtful.use_instead("L2")
    assert texts(doubtful)["L2"] == "L2 (for L1)"
    assert texts(doubtful)["L1"] == "L1"


def test_names_are_locked_not_in_3d_and_only_in_the_long_views(certain, views):
    long_views = {views[plane].node.GetID() for plane in ("Sagittal", "Coronal")}
    nodes = level_labels.nodes_of(certain.parameters.segmentation)
    assert len(nodes) == 2
    for node in nodes:
        display = node.GetDisplayNode()
        assert node.GetLocked()
        assert not display.GetVisibility3D()
        assert {display.GetNthViewNodeID(i) for i in range(display.GetNumberOfViewNodeIDs())} == long_views


@pytest.mark.parametrize("plane", ["Sagittal", "Coronal"])
@pytest.mark.parametrize("off_mm", [0.0, 9.0])
def test_names_are_really_drawn_beside_their_bones_also_off_the_midline(certain, views, plane, off_mm):
    view = views[plane]
    view.logic.SetSliceOffset(view.logic.GetSliceOffset() + off_mm)
    drawn = view.pixels().astype(int)
    show_names(certain, False)
    plain = view.pixels().astype(int)
    changed = np.abs(drawn - plain).max(axis=-1) > 40
    seen = [name for name in NAMES if inside(view, ras(name))]
    assert "L1" in seen
    assert len(seen) >= 3
    near = np.zeros_like(changed)
    for name in seen:
        row, column = (round(v) for v in view.pixel_of(ras(name)))
        beside = np.zeros_like(changed)
        beside[max(0, row - 40) : row + 12, max(0, column - 12) : column + 75] = True
        assert changed[beside].sum() > 30, name
        near |= beside
    assert changed[~near].sum() < 0.05 * changed.sum()


def test_where_the_whole_ct_is_shown_names_are_smaller_until_the_views_centre_on_l1_again(certain):
    def sizes():
        return {node.GetDisplayNode().GetTextScale() for node in level_labels.nodes_of(certain.parameters.segmentation)}

    [usual] = sizes()
    level_labels.make_small(certain.parameters.segmentation.GetScene())
    [small] = sizes()
    assert small < 0.7 * usual
    certain.center_on_l1()
    assert sizes() == {usual}


def test_other_answers_wait_unless_the_level_is_open(certain, worker):
    worker.answers()
    certain.poll()
    levels = certain.view_model()["levels"]
    assert (levels["undecided"], levels["change_label"]) == (False, "Not L1?")
    certain.use_instead("L2")
    levels = certain.view_model()["levels"]
    assert (levels["undecided"], levels["change_label"]) == (False, "Change the level")


def test_other_answers_are_offered_while_the_level_is_open_and_not_after_a_yes(doubtful):
    assert doubtful.view_model()["levels"]["undecided"]
    doubtful.confirm_level()
    assert not doubtful.view_model()["levels"]["undecided"]


def test_the_axial_view_has_no_names(certain, views):
    drawn = views["Axial"].pixels().astype(int)
    show_names(certain, False)
    assert np.abs(drawn - views["Axial"].pixels().astype(int)).max() <= 2


@pytest.mark.parametrize("off_mm", [0.0, 9.0])
def test_the_measured_levels_name_has_its_own_colour_in_every_slice(doubtful, views, off_mm):
    view = views["Sagittal"]
    view.logic.SetSliceOffset(view.logic.GetSliceOffset() + off_mm)
    doubtful.parameters.segmentation.SetDisplayVisibility(False)
    pixels = view.pixels().astype(float)
    row, column = (round(v) for v in view.pixel_of(ras("L1")))
    other_row, other_column = (round(v) for v in view.pixel_of(ras("L3")))

    def strongest(r, c, color):
        patch = pixels[r - 30 : r + 8, c - 5 : c + 60].reshape(-1, 3)
        return np.abs(patch - np.array(color) * 255).max(axis=1).min()

    assert strongest(row, column, level_labels.QUESTION_COLOR) < 30
    assert strongest(other_row, other_column, level_labels.OTHER_COLOR) < 30
    assert strongest(other_row, other_column, level_labels.QUESTION_COLOR) > 60


def test_in_question_the_long_views_show_t11_to_l5_and_else_l1(doubtful, views):
    for plane in ("Sagittal", "Coronal"):
        assert all(inside(views[plane], ras(name)) for name in NAMES), plane
        assert views[plane].logic.GetSliceOffset() == pytest.approx(0.0, abs=1.0)  # through L1, the origin
    doubtful.confirm_level()
    for plane, size in SIZES.items():
        row, column = views[plane].pixel_of(ras("L1"))
        assert (row, column) == pytest.approx((size[1] / 2, size[0] / 2), abs=8.0), plane
        spans = views[plane].node.GetFieldOfView()
        assert min(spans[:2]) == pytest.approx(120.0)


def test_a_relabel_moves_the_views_to_the_new_l1(doubtful, views):
    doubtful.shift_level(1)
    row, column = views["Sagittal"].pixel_of(ras("T12"))
    assert (row, column) == pytest.approx((320, 210), abs=8.0)


def test_only_the_measured_vertebra_has_the_strong_outline(certain):
    display = certain.parameters.segmentation.GetDisplayNode()
    outline = {name: display.GetSegmentOpacity2DOutline(name) for name in NAMES}
    assert outline.pop("L1") == 1.0
    assert max(outline.values()) < 0.6
    assert min(outline.values()) > 0.2
    core = certain.parameters.segmentation.GetSegmentation()
    colors = {name: core.GetSegment(name).GetColor() for name in NAMES}
    assert colors["L1"] == pytest.approx(spine_display.TARGET_COLOR)
    assert all(colors[a] != colors[b] for a, b in pairwise(NAMES))
    assert not display.GetSegmentVisibility("rib_left_12")
    assert display.GetSegmentVisibility("sacrum")


def test_the_strong_outline_moves_with_a_relabel(certain, worker):
    worker.answers()
    certain.poll()
    certain.shift_level(-1)
    display = certain.parameters.segmentation.GetDisplayNode()
    assert display.GetSegmentOpacity2DOutline("L2") == 1.0
    assert display.GetSegmentOpacity2DOutline("L1") < 0.6
    assert [name for name in NAMES if display.GetSegmentVisibility3D(name)] == ["L2"]


def test_only_the_measured_vertebra_gets_a_surface_and_it_lies_around_it(certain, worker):
    core = certain.parameters.segmentation.GetSegmentation()
    points = {name: core.GetSegment(name).GetRepresentation("Closed surface").GetNumberOfPoints() for name in NAMES}
    assert points.pop("L1") > 1000
    assert set(points.values()) == {0}
    bounds = core.GetSegment("L1").GetRepresentation("Closed surface").GetBounds()
    # Body 44 wide and 26 high around the origin; the spinous process reaches 60 mm back and 26 mm down.
    assert bounds == pytest.approx((-22, 22, -60, 16, -26, 13), abs=3.0)
    worker.answers()
    certain.poll()
    certain.shift_level(1)
    assert core.GetSegment("T12").GetRepresentation("Closed surface").GetNumberOfPoints() > 1000


def test_names_go_with_their_segmentation(certain, scene):
    node = certain.parameters.segmentation
    names = level_labels.nodes_of(node)
    scene.RemoveNode(node)
    assert all(name.GetScene() is None for name in names)
    assert scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode") is None


def test_a_new_segmentation_hides_the_earlier_one_and_its_names(certain, worker, found, tmp_path):
    first = certain.parameters.segmentation
    worker.answers()
    certain.poll()
    certain.set_segmenter("nnunet")
    certain.set_nnunet_folder(str(tmp_path))
    one_press(certain, worker, replace(found, segmenter="nnunet"))
    second = certain.parameters.segmentation
    assert second is not first
    assert not first.GetDisplayVisibility()
    assert not any(node.GetDisplayVisibility() for node in level_labels.nodes_of(first))
    assert all(node.GetDisplayVisibility() for node in level_labels.nodes_of(second))


def test_other_outlines_of_the_same_bones_are_hidden_and_all_else_is_left(certain, worker, found, spine_ct, headless):
    from BoneDensityMedConvLib import spine_segments

    worker.answers()
    certain.poll()
    automatic = certain.parameters.segmentation
    own = spine_segments.add_spine(found, spine_ct, "")
    tumour = headless.add("vtkMRMLSegmentationNode")
    tumour.CreateDefaultDisplayNodes()
    tumour.GetSegmentation().AddEmptySegment("t", "tumour")
    certain.set_segmentation(own)
    certain.analyse()
    shown = [bool(node.GetDisplayVisibility()) for node in (automatic, own, tumour)]
    assert shown == [False, True, True]
    worker.answers()
    certain.poll()
    certain.set_segmenter("demonstration")
    certain.analyse()
    shown = [bool(node.GetDisplayVisibility()) for node in (automatic, own, tumour)]
    assert shown == [True, False, True]


def test_a_persons_own_colours_are_left_alone(certain, worker, found, spine_ct):
    from BoneDensityMedConvLib import spine_segments

    worker.answers()
    certain.poll()
    own = spine_segments.add_spine(found, spine_ct, "")
    own.GetSegmentation().GetSegment("L1").SetColor(0.1, 0.2, 0.3)
    certain.set_segmentation(own)
    certain.analyse()
    assert own.GetSegmentation().GetSegment("L1").GetColor() == pytest.approx((0.1, 0.2, 0.3))
    assert own.GetDisplayNode().GetSegmentOpacity2DOutline("L1") == 1.0


def test_names_follow_a_transform_that_moves_ct_and_segmentation(headless, presenter, worker, found, spine_ct):
    transform = headless.add("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 40.0)
    transform.SetMatrixTransformToParent(matrix)
    spine_ct.SetAndObserveTransformNodeID(transform.GetID())
    presenter.analyse()
    found_by(presenter, worker, replace(found, ct_geometry=worker.segmentations[0]["ct"].geometry))
    node = level_labels.nodes_of(presenter.parameters.segmentation)[0]
    assert node.GetNthControlPointPositionWorld(0)[2] == pytest.approx(40.0, abs=3.0)
    matrix.SetElement(2, 3, 0.0)
    transform.SetMatrixTransformToParent(matrix)
    assert node.GetNthControlPointPositionWorld(0)[2] == pytest.approx(0.0, abs=3.0)


def test_a_single_segment_is_shown_without_names(certain, worker, scene, found, spine_ct):
    from medconv.segmentation_comparison import structure_mask

    worker.answers()
    certain.poll()
    spine_names = level_labels.nodes_of(certain.parameters.segmentation)
    single, _ = segments.add_l1(scene, structure_mask(found, "L1"), spine_ct)
    certain.set_segmentation(single)
    certain.analyse()
    assert level_labels.nodes_of(single) == []
    assert not any(node.GetDisplayVisibility() for node in spine_names)


def test_names_that_would_lie_on_each_other_move_apart_from_the_measured_one_outwards():
    def at(name, z):
        return level_choice.FoundLevel(name, 40.0, (1.0, 2.0, z))

    found = [at("T12", 9.0), at("L1", 0.0), at("L2", -36.0), at("L3", -45.0), at("L4", -55.0)]
    placed = {level.name: level.center_ras_mm for level in level_labels.apart(found, "L1")}
    assert {name: z for name, (_, _, z) in placed.items()} == {
        "T12": 16.0, "L1": 0.0, "L2": -36.0, "L3": -52.0, "L4": -68.0,
    }  # fmt: skip
    assert {(x, y) for x, y, _ in placed.values()} == {(1.0, 2.0)}
    usual = [at(name, -36.0 * place) for place, name in enumerate(NAMES)]
    assert level_labels.apart(usual, "L3") == usual
    assert level_labels.apart([], "") == []
