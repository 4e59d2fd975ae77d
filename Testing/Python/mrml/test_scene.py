"""MRML to the core and back: exact voxels, every orientation, transforms, and segments in every form."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from core.phantom import grid, phantom, reoriented

from BoneDensityMedConvLib import acquisition, scene, segments
from medconv import l1_mask, pipeline
from medconv.grid import to_image
from medconv.types import Acquisition, CTVolume, ImageGeometry, InputRefused

OBLIQUE = (0.9848077530, 0.0, 0.1736481777, 0.0301536896, 0.9848077530, -0.1710100717,
           -0.1710100717, 0.1736481777, 0.9698463104)  # fmt: skip  # 10° about y, then 10° about x


def oblique_phantom():
    g = grid((2.0, 2.0, 2.0))
    center = g.index_to_lps((np.array(g.size_xyz) - 1) / 2)
    rotation = np.reshape(OBLIQUE, (3, 3))
    origin = center - rotation @ (np.asarray(g.spacing_mm_xyz) * (np.array(g.size_xyz) - 1) / 2)
    return phantom(ImageGeometry(g.size_xyz, g.spacing_mm_xyz, tuple(origin), OBLIQUE))


@pytest.fixture(params=["LPS", "RAS", "PIR", "LPI", "oblique"])
def case(request, vertebra):
    if request.param == "oblique":
        return oblique_phantom()
    return vertebra if request.param == "LPS" else reoriented(vertebra, request.param)


def test_ct_and_segment_come_back_voxel_for_voxel_in_any_orientation(load, case):
    loaded = load(case)
    ct = scene.ct_volume(loaded.ct)
    assert np.array_equal(ct.array_zyx, case.ct.array_zyx)
    assert ct.geometry.same_grid_as(case.ct.geometry, tolerance_mm=1e-9)
    mask = scene.segment_mask(loaded.segmentation, loaded.segment_id, ct)
    assert np.array_equal(mask.full_array_zyx(), case.labels_zyx == 31)
    assert mask.start_xyz == case.mask.start_xyz


def test_world_positions_agree_with_simpleitk_after_the_turn_to_ras(load, case):
    node = load(case).ct
    image = to_image(case.ct.array_zyx, case.ct.geometry)
    index = (3, 11, 7)
    x, y, z = image.TransformIndexToPhysicalPoint(index)
    ras = scene.ct_to_world(node) @ (*index, 1.0)
    assert ras[:3] == pytest.approx((-x, -y, z), abs=1e-9)


def test_the_voxels_of_the_ct_are_not_copied(loaded):
    ct = scene.ct_volume(loaded.ct)
    ct.array_zyx[0, 0, 0] = 1234
    assert loaded.ct.GetImageData().GetScalarComponentAsDouble(0, 0, 0, 0) == 1234


def test_slicers_own_import_of_a_label_map_gives_the_same_mask(headless, loaded):
    labels = headless.add("vtkMRMLLabelMapVolumeNode", "labels")
    labels.CopyOrientation(loaded.ct)
    slicer.util.updateVolumeFromArray(labels, loaded.case.labels_zyx)
    segmentation = headless.add("vtkMRMLSegmentationNode")
    assert headless.segmentations_logic.ImportLabelmapToSegmentationNode(labels, segmentation)
    segment_id = segmentation.GetSegmentation().GetNthSegmentID(0)
    mask = scene.segment_mask(segmentation, segment_id, scene.ct_volume(loaded.ct))
    assert np.array_equal(mask.full_array_zyx(), loaded.case.labels_zyx == 31)


def test_one_of_several_segments_in_a_shared_labelmap_is_read_alone(headless, loaded):
    two = loaded.case.labels_zyx.copy()
    two[2:6, 2:6, 2:6] = 30
    labels = headless.add("vtkMRMLLabelMapVolumeNode", "labels")
    labels.CopyOrientation(loaded.ct)
    slicer.util.updateVolumeFromArray(labels, two)
    segmentation = headless.add("vtkMRMLSegmentationNode")
    assert headless.segmentations_logic.ImportLabelmapToSegmentationNode(labels, segmentation)
    ct = scene.ct_volume(loaded.ct)
    found = {}
    for i in range(2):
        segment = segmentation.GetSegmentation().GetNthSegment(i)
        segment_id = segmentation.GetSegmentation().GetNthSegmentID(i)
        found[segment.GetLabelValue()] = scene.segment_mask(segmentation, segment_id, ct).full_array_zyx()
    assert np.array_equal(found[31], two == 31)
    assert np.array_equal(found[30], two == 30)


def test_a_linear_transform_on_both_moves_both_and_the_mask_stays_exact(headless, loaded):
    transform = headless.add("vtkMRMLLinearTransformNode")
    moved = vtk.vtkMatrix4x4()
    turn = vtk.vtkTransform()
    turn.RotateX(20)
    turn.Translate(5, -7, 11)
    moved.DeepCopy(turn.GetMatrix())
    transform.SetMatrixTransformToParent(moved)
    for node in (loaded.ct, loaded.segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())
    ct = scene.ct_volume(loaded.ct)
    mask = scene.segment_mask(loaded.segmentation, loaded.segment_id, ct)
    assert np.array_equal(mask.full_array_zyx(), loaded.case.labels_zyx == 31)
    x, y, z = l1_mask.center_lps_mm(loaded.case.mask)
    expected = turn.TransformPoint(-x, -y, z)
    x, y, z = l1_mask.center_lps_mm(mask)
    assert (-x, -y, z) == pytest.approx(expected, abs=1e-6)


def test_a_transform_on_the_segmentation_alone_moves_the_mask_in_the_ct(headless, loaded):
    transform = headless.add("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 4.0)  # two voxels to the patient's right (RAS), which is towards lower x in LPS
    transform.SetMatrixTransformToParent(matrix)
    loaded.segmentation.SetAndObserveTransformNodeID(transform.GetID())
    mask = scene.segment_mask(loaded.segmentation, loaded.segment_id, scene.ct_volume(loaded.ct))
    assert np.array_equal(mask.full_array_zyx(), np.roll(loaded.case.labels_zyx == 31, -2, axis=2))


def test_a_non_linear_transform_is_refused_with_what_to_do(headless, loaded):
    bent = headless.add("vtkMRMLTransformNode", "Bent")
    spline = vtk.vtkThinPlateSplineTransform()
    points = vtk.vtkPoints()
    for p in ((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (50, 50, 50)):
        points.InsertNextPoint(p)
    shifted = vtk.vtkPoints()
    shifted.DeepCopy(points)
    shifted.SetPoint(4, 60, 50, 50)
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(shifted)
    spline.SetBasisToR()
    bent.SetAndObserveTransformToParent(spline)
    loaded.ct.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputRefused, match="non-linear transform") as refusal:
        scene.ct_volume(loaded.ct)
    assert refusal.value.code == "transform_not_linear"
    assert "Harden" in refusal.value.remedy


def test_a_sheared_volume_is_refused(loaded):
    matrix = vtk.vtkMatrix4x4()
    loaded.ct.GetIJKToRASMatrix(matrix)
    matrix.SetElement(1, 2, 0.4)
    loaded.ct.SetIJKToRASMatrix(matrix)
    with pytest.raises(InputRefused) as refusal:
        scene.ct_volume(loaded.ct)
    assert refusal.value.code == "sheared_volume"


def test_a_segment_on_another_grid_is_resampled_within_its_block(headless, loaded, vertebra):
    fine = phantom(grid((1.0, 1.0, 1.0)))
    fine_ct = segments.add_ct(headless.scene, fine.ct, "Fine CT")
    segmentation, segment_id = segments.add_l1(headless.scene, fine.mask, fine_ct)
    mask = scene.segment_mask(segmentation, segment_id, scene.ct_volume(loaded.ct))
    oracle = sitk.Resample(
        to_image(fine.labels_zyx, fine.ct.geometry),
        to_image(vertebra.labels_zyx, vertebra.ct.geometry),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    # Voxel centres of the coarse grid lie midway between fine ones, where the nearest is a matter of rounding.
    expected, got = sitk.GetArrayFromImage(oracle) == 31, mask.full_array_zyx() == 1
    assert 2 * np.count_nonzero(expected & got) / (expected.sum() + got.sum()) > 0.97
    assert mask.block_zyx.size < 0.2 * got.size


def test_a_segment_that_is_only_a_surface_is_filled_on_the_cts_voxels(loaded):
    segmentation = loaded.segmentation.GetSegmentation()
    surface = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    assert segmentation.ContainsRepresentation(surface)
    segmentation.SetSourceRepresentationName(surface)
    segmentation.RemoveRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName())
    mask = scene.segment_mask(loaded.segmentation, loaded.segment_id, scene.ct_volume(loaded.ct))
    expected, got = loaded.case.labels_zyx == 31, mask.full_array_zyx() == 1
    # Slicer smooths the surface, so thin processes lose a layer of voxels.
    assert 2 * np.count_nonzero(expected & got) / (expected.sum() + got.sum()) > 0.9
    assert segmentation.GetNumberOfSegments() == 1
    assert not segmentation.ContainsRepresentation("Binary labelmap"), "the person's own segmentation was changed"


def test_a_mask_reaching_over_the_cts_edge_is_cut_and_then_refused(headless, loaded):
    transform = headless.add("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 50.0)
    transform.SetMatrixTransformToParent(matrix)
    loaded.segmentation.SetAndObserveTransformNodeID(transform.GetID())
    ct = scene.ct_volume(loaded.ct)
    mask = scene.segment_mask(loaded.segmentation, loaded.segment_id, ct)
    with pytest.raises(InputRefused) as refusal:
        pipeline.prepare(ct, mask)
    assert refusal.value.code == "l1_touches_border"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda node: node.GetSegmentation().RemoveSegment("L1"), "segment_gone"),
        (lambda node: node.GetSegmentation().GetSegment("L1").GetRepresentation("Binary labelmap").Initialize(),
         "mask_empty"),
    ],
)  # fmt: skip
def test_a_segment_that_is_gone_or_empty_is_refused(loaded, spoil, code):
    spoil(loaded.segmentation)
    with pytest.raises(InputRefused) as refusal:
        scene.segment_mask(loaded.segmentation, "L1", scene.ct_volume(loaded.ct))
    assert refusal.value.code == code


def test_a_segment_far_outside_the_ct_is_refused(headless, loaded):
    transform = headless.add("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 1000.0)
    transform.SetMatrixTransformToParent(matrix)
    loaded.segmentation.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(InputRefused) as refusal:
        scene.segment_mask(loaded.segmentation, loaded.segment_id, scene.ct_volume(loaded.ct))
    assert refusal.value.code == "mask_elsewhere"


def test_a_label_map_or_an_empty_volume_is_not_taken_for_a_ct(headless):
    for node_class, code in (
        ("vtkMRMLLabelMapVolumeNode", "not_a_ct"),
        ("vtkMRMLScalarVolumeNode", "empty_volume"),
        ("vtkMRMLVectorVolumeNode", "empty_volume"),
    ):
        with pytest.raises(InputRefused) as refusal:
            scene.ct_volume(headless.add(node_class))
        assert refusal.value.code == code


def test_what_is_known_of_the_acquisition_stays_with_the_node(headless, vertebra):
    known = Acquisition(modality="CT", kvp=100.0, patient_age_years=71)
    ct = CTVolume(vertebra.ct.array_zyx, vertebra.ct.geometry, known, is_simulated=True)
    read = scene.ct_volume(segments.add_ct(headless.scene, ct, "CT"))
    assert read.acquisition == known
    assert read.is_simulated
    assert read.source == "CT"


def test_nothing_is_claimed_of_a_volume_without_dicom(headless):
    node = headless.add("vtkMRMLScalarVolumeNode")
    assert acquisition.acquisition_of(node) == Acquisition()


def test_the_modality_is_found_in_the_subject_hierarchy(headless):
    node = headless.add("vtkMRMLScalarVolumeNode", "Series 3")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(headless.scene)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)  # Slicer does this by itself
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert acquisition.acquisition_of(node).modality == "MR"


class Database:
    """Slicer's DICOM database, as far as it is asked."""

    isOpen = True

    def instanceValue(self, instance, tag):
        assert instance == "1.2.3"
        return {"0008,0060": "CT", "0018,0060": "140", "0010,1010": "067Y", "0018,1210": "B30f"}.get(tag, "")


def test_dicom_tags_come_from_slicers_database(headless, monkeypatch):
    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    node = headless.add("vtkMRMLScalarVolumeNode")
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    assert acquisition.acquisition_of(node) == Acquisition("CT", 140.0, None, "B30f", None, 67, None)


def test_an_imported_l1_is_named_tagged_coloured_and_lies_beside_its_ct(headless, load, vertebra):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(headless.scene)
    loaded = load(vertebra)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, loaded.ct)
    segmentation, segment_id = segments.add_l1(headless.scene, vertebra.mask, loaded.ct)
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    assert segment.GetName() == "L1"
    assert "66794005" in segment.GetTerminology()
    assert segment.GetColor() == pytest.approx((241 / 255, 214 / 255, 145 / 255))
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study
    reference = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    assert reference is loaded.ct


def test_l1_is_found_by_tag_or_name_and_never_guessed_among_others(loaded):
    core = loaded.segmentation.GetSegmentation()
    assert segments.find_l1(loaded.segmentation) == "L1"
    assert core.AddEmptySegment("other", "L2") == "other"
    assert segments.find_l1(loaded.segmentation) == "L1"
    core.AddEmptySegment("second", "vertebrae_L1")
    assert segments.find_l1(loaded.segmentation) == "", "two segments claim to be L1"
    core.RemoveSegment("second")
    core.RemoveSegment("L1")
    assert segments.find_l1(loaded.segmentation) == "", "L2 is not L1, even if it is the only one"
    core.GetSegment("other").SetName("Segment_1")
    assert segments.find_l1(loaded.segmentation) == "other", "a single segment that says nothing is offered"
