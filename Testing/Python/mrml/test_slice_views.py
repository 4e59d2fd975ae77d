"""The three planes as pictures: bone window, centring, and the mask's outline and light fill, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from core.phantom import CORTEX_HU, SOFT_HU, TRABECULAR_HU, reoriented

from BoneDensityMedConvLib import segments, slice_views
from BoneDensityMedConvLib.offscreen_view import OffscreenSliceView
from medconv import l1_mask

SIZE = (360, 360)
AXES_OF_PLANE = {"Axial": (0, 1), "Sagittal": (1, 2), "Coronal": (0, 2)}  # RAS axes that span the picture


def center_ras(mask) -> np.ndarray:
    return np.array(l1_mask.center_lps_mm(mask)) * (-1, -1, 1)


def grey_of(hu: float) -> float:
    """What the bone window (1800 wide, level 400) makes of a HU value, 0 to 255."""
    return float(np.clip((hu - (400 - 900)) / 1800, 0, 1) * 255)


@pytest.fixture(params=slice_views.PLANES)
def view(request, headless, loaded):
    slice_views.use_bone_window(loaded.ct)
    made = OffscreenSliceView(headless.scene, headless.application_logic, request.param, SIZE)
    made.plane = request.param  # type: ignore[attr-defined]
    made.show(loaded.ct, center_ras(loaded.case.mask))
    yield made
    made.close()


def mask_in_picture(view, case, expand: float = 0.0) -> np.ndarray:
    """Where the mask lies in the picture, from its voxels and the view's geometry alone."""
    rows, columns = np.indices(SIZE[::-1])
    xy = np.stack([columns, SIZE[1] - 1 - rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1).astype(float)
    to_ras = view.node.GetXYToRAS()
    matrix = np.array([[to_ras.GetElement(i, j) for j in range(4)] for i in range(4)])
    lps = (xy @ matrix.T)[..., :3] * (-1, -1, 1)
    index = case.ct.geometry.lps_to_index(lps)
    inside = np.zeros(rows.shape, bool)
    a, b = {"Axial": (0, 1), "Sagittal": (1, 2), "Coronal": (0, 2)}[view.plane]
    for shift in {-expand, 0.0, expand}:
        for other in {-expand, 0.0, expand}:
            moved = index.copy()
            moved[..., a] += shift
            moved[..., b] += other
            voxel = np.rint(moved).astype(int)
            within = np.all((voxel >= 0) & (voxel < case.ct.geometry.size_xyz), axis=-1)
            x, y, z = voxel[within].T
            inside[within] |= case.labels_zyx[z, y, x] == 31
    return inside


def mask_in_picture_border(view, case) -> np.ndarray:
    """Pixels within two pixels of the mask's contour."""
    inside = mask_in_picture(view, case)
    border = np.zeros_like(inside)
    for rows in range(-2, 3):
        for columns in range(-2, 3):
            border |= inside != np.roll(inside, (rows, columns), (0, 1))
    return border


def is_coloured(pixels) -> np.ndarray:
    """Bone colour (more red than blue), as opposed to the CT's greys."""
    return pixels[..., 0].astype(int) - pixels[..., 2] > 6


def test_the_ct_is_shown_in_the_bone_window(loaded):
    slice_views.use_bone_window(loaded.ct)
    display = loaded.ct.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (1800.0, 400.0, 0)


def test_the_greys_are_those_of_the_bone_window(view, loaded):
    loaded.segmentation.GetDisplayNode().SetVisibility(False)
    pixels = view.pixels()
    inside = mask_in_picture(view, loaded.case)
    x, y, z = l1_mask.center_lps_mm(loaded.case.mask)
    row, column = (round(v) for v in view.pixel_of((-x, -y, z)))
    assert pixels[row, column].tolist() == pytest.approx([grey_of(TRABECULAR_HU)] * 3, abs=1)
    greys = np.unique(pixels[~mask_in_picture(view, loaded.case, expand=0.9)][:, 0])
    assert np.abs(greys - grey_of(SOFT_HU)).min() <= 1
    assert not is_coloured(pixels).any()
    assert pixels[inside].max() <= grey_of(CORTEX_HU) + 1


def test_the_view_is_centred_on_l1_and_its_shorter_side_spans_120_mm(view, loaded):
    row, column = view.pixel_of(center_ras(loaded.case.mask))
    assert (row, column) == pytest.approx(((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2), abs=1.0)
    one, two = np.zeros(3), np.zeros(3)
    axis = AXES_OF_PLANE[view.plane][0]
    one[axis], two[axis] = -10, 10
    (r1, c1), (r2, c2) = view.pixel_of(one), view.pixel_of(two)
    assert np.hypot(r1 - r2, c1 - c2) == pytest.approx(20 / 120 * SIZE[0], rel=1e-6)


def test_colour_lies_where_the_mask_is_and_nowhere_else(view, loaded):
    coloured = is_coloured(view.pixels())
    # Half a voxel either way: the outline is drawn on the voxels' borders, one pixel wide.
    surely_inside = mask_in_picture(view, loaded.case) & ~mask_in_picture_border(view, loaded.case)
    surely_outside = ~mask_in_picture(view, loaded.case, expand=0.6)
    assert coloured[surely_inside].mean() > 0.99
    assert coloured[surely_outside].sum() == 0


def test_the_outline_is_opaque_and_the_fill_is_a_quarter(view, loaded):
    with_mask = view.pixels().astype(float)
    loaded.segmentation.GetDisplayNode().SetVisibility(False)
    plain = view.pixels().astype(float)
    bone = np.array(segments.BONE_COLOR) * 255
    deep = mask_in_picture(view, loaded.case) & ~mask_in_picture_border(view, loaded.case)
    expected = 0.75 * plain[deep] + 0.25 * bone
    assert np.abs(with_mask[deep] - expected).max() <= 4
    outline = np.abs(with_mask - bone).max(axis=-1) < 12
    assert outline.sum() > 100
    assert (outline & ~mask_in_picture_border(view, loaded.case)).sum() < 0.02 * outline.sum()


@pytest.mark.parametrize("code", ["RAS", "PIR"])
def test_a_reoriented_ct_gives_the_same_picture(headless, load, vertebra, code):
    pictures = []
    for case in (vertebra, reoriented(vertebra, code)):
        loaded = load(case)
        slice_views.use_bone_window(loaded.ct)
        view = OffscreenSliceView(headless.scene, headless.application_logic, "Sagittal", SIZE)
        view.show(loaded.ct, center_ras(case.mask) + 0.3)  # off the voxels' borders, where rounding decides
        pictures.append(view.pixels().astype(int))
        view.close()
        loaded.segmentation.GetDisplayNode().SetVisibility(False)
    differing = np.abs(pictures[0] - pictures[1]).max(axis=-1) > 2
    assert differing.mean() < 0.002


def slice_logics(headless, orientations):
    made = []
    for i, orientation in enumerate(orientations):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(headless.application_logic)
        logic.SetMRMLScene(headless.scene)
        logic.AddSliceNode(f"View{i}").SetOrientation(orientation)
        made.append(logic)
    return made


def test_three_standard_views_keep_their_planes_and_get_ct_and_centre(headless, loaded):
    logics = slice_logics(headless, ["Coronal", "Axial", "Sagittal"])
    center = center_ras(loaded.case.mask)
    slice_views.show_planes(logics, loaded.ct, center)
    assert [logic.GetSliceNode().GetOrientation() for logic in logics] == ["Coronal", "Axial", "Sagittal"]
    for logic, axis in zip(logics, (1, 2, 0), strict=True):
        assert logic.GetSliceCompositeNode().GetBackgroundVolumeID() == loaded.ct.GetID()
        assert logic.GetSliceOffset() == pytest.approx(center[axis], abs=1e-6)


def test_views_that_lack_a_plane_get_one_each(headless, loaded):
    logics = slice_logics(headless, ["Axial", "Axial", "Axial"])
    slice_views.show_planes(logics, loaded.ct, (0, 0, 0))
    assert [logic.GetSliceNode().GetOrientation() for logic in logics] == ["Axial", "Sagittal", "Coronal"]


def test_an_application_logic_tells_its_slice_logics(headless):
    headless.application_logic.SetSliceLogics(None)
    assert slice_views.collected_slice_logics(headless.application_logic) == []
    import vtk

    collection = vtk.vtkCollection()
    headless.application_logic.SetSliceLogics(collection)
    made = slice_logics(headless, ["Axial", "Sagittal"])
    for logic in made:
        collection.AddItem(logic)
    assert slice_views.collected_slice_logics(headless.application_logic) == made


def test_without_slicers_window_there_is_nothing_to_arrange():
    assert slice_views.slicer_slice_logics() == []


def test_the_surface_is_made_for_3d_but_not_for_a_whole_skeleton(loaded):
    display = loaded.segmentation.GetDisplayNode()
    assert loaded.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert display.GetVisibility3D()
    core = loaded.segmentation.GetSegmentation()
    core.RemoveRepresentation("Closed surface")
    for i in range(10):
        core.AddEmptySegment(f"other{i}")
    segments.show(loaded.segmentation, "L1")
    assert not core.ContainsRepresentation("Closed surface")
    assert display.GetSegmentOpacity2DFill("L1") == 0.25
    assert display.GetSegmentOpacity2DOutline("L1") == 1.0
