"""Segments in the scene: bring a CT and an L1 mask in, find L1, show it as an outline with a light fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from BoneDensityMedConvLib import terminology
from BoneDensityMedConvLib.acquisition import keep_acquisition
from BoneDensityMedConvLib.scene import SIMULATED_ATTRIBUTE, index_to_ras, tight_block, vtk_matrix
from medconv.types import CTVolume, L1Mask

LABELMAP = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
BONE_COLOR = (241 / 255, 214 / 255, 145 / 255)  # "bone" in Slicer's generic anatomy colours
FILL_OPACITY_2D = 0.25
OUTLINE_OPACITY_2D = 1.0
# Surfaces are made of every segment of a node at once; with more than a few it would keep the person waiting.
MAXIMUM_SEGMENTS_FOR_SURFACES = 6


def add_ct(scene: Any, ct: CTVolume, name: str) -> Any:
    """A new `vtkMRMLScalarVolumeNode` with a copy of the CT's voxels, its grid turned to RAS."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    # Display nodes before the image: made after it, they would search the whole CT for a window of their own.
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.SetIJKToRASMatrix(vtk_matrix(index_to_ras(ct.geometry)))
    node.SetAndObserveImageData(_image(vtk.vtkImageData(), ct.array_zyx))
    keep_acquisition(node, ct.acquisition)
    if ct.is_simulated:
        node.SetAttribute(SIMULATED_ATTRIBUTE, "1")
    return node


def add_l1(scene: Any, mask: L1Mask, ct_node: Any, name: str = "L1") -> tuple[Any, str]:
    """A new segmentation of `ct_node` with one segment, L1, tagged as such. Returns the node and the segment's id.

    Only the mask's block is stored; its voxels are the CT's own, so that reading it back gives the same mask.
    """
    node = scene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", scene.GenerateUniqueName(f"{ct_node.GetName()} {name} segmentation")
    )
    labelmap = place_labels(node, mask.block_zyx.astype(np.uint8), mask.start_xyz, ct_node)
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*BONE_COLOR)
    terminology.tag_as_l1(segment)
    segment.AddRepresentation(LABELMAP, labelmap)
    node.GetSegmentation().AddSegment(segment, name)
    place_beside(scene, node, ct_node)
    show(node, name)
    return node, name


def place_labels(node: Any, labels_zyx: NDArray[np.uint8], start_xyz: tuple[int, int, int], ct_node: Any) -> Any:
    """Lay an empty segmentation node on the CT; returns the labels as a labelmap for its segments, on CT voxels."""
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(ct_node)
    node.SetAndObserveTransformNodeID(ct_node.GetTransformNodeID())
    node.GetSegmentation().SetSourceRepresentationName(LABELMAP)
    labelmap = _image(slicer.vtkOrientedImageData(), labels_zyx, start_xyz)
    to_ras = vtk.vtkMatrix4x4()
    ct_node.GetIJKToRASMatrix(to_ras)
    labelmap.SetGeometryFromImageToWorldMatrix(to_ras)
    return labelmap


def surface_of(segmentation: Any, segment_id: str) -> Any:
    """The closed surface (vtkPolyData) of one segment of a labelmap, made from its own part of it; None if empty."""
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    labelmap = segment.GetRepresentation(LABELMAP)
    extent, size = labelmap.GetExtent(), labelmap.GetDimensions()
    labels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(size[::-1])
    block, start = tight_block(labels, int(segment.GetLabelValue()))
    if block is None:
        return None
    x, y, z = (int(n) for n in np.add(extent[::2], start) - 1)
    image = _image(slicer.vtkOrientedImageData(), np.pad(block, 1).astype(np.uint8), (x, y, z))
    to_world = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(to_world)
    image.SetGeometryFromImageToWorldMatrix(to_world)
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(LABELMAP)
    only = slicer.vtkSegment()
    only.AddRepresentation(LABELMAP, image)
    alone.AddSegment(only, segment_id)
    return only.GetRepresentation(SURFACE) if alone.CreateRepresentation(SURFACE) else None


def find_l1(segmentation: Any) -> str:
    """The id of the one segment that is tagged as or named L1; "" if there is none or more than one."""
    if segmentation is None:
        return ""
    core = segmentation.GetSegmentation()
    ids = [core.GetNthSegmentID(i) for i in range(core.GetNumberOfSegments())]
    found = [i for i in ids if terminology.level_of(core.GetSegment(i)).is_l1]
    if not found and len(ids) == 1 and not terminology.level_of(core.GetSegment(ids[0])).is_other:
        return str(ids[0])
    return str(found[0]) if len(found) == 1 else ""


def show(segmentation: Any, segment_id: str) -> None:
    """Make one segment visible: outline and light fill in the slice views, its surface in the 3D view."""
    if segmentation.GetDisplayNode() is None:
        segmentation.CreateDefaultDisplayNodes()
    display = segmentation.GetDisplayNode()
    core = segmentation.GetSegmentation()
    if not core.ContainsRepresentation(SURFACE) and core.GetNumberOfSegments() <= MAXIMUM_SEGMENTS_FOR_SURFACES:
        segmentation.CreateClosedSurfaceRepresentation()
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    display.SetVisibility3D(True)
    display.SetOpacity2DFill(1.0)
    display.SetOpacity2DOutline(1.0)
    display.SetSegmentVisibility(segment_id, True)
    display.SetSegmentVisibility2DFill(segment_id, True)
    display.SetSegmentVisibility2DOutline(segment_id, True)
    display.SetSegmentVisibility3D(segment_id, True)
    display.SetSegmentOpacity2DFill(segment_id, FILL_OPACITY_2D)
    display.SetSegmentOpacity2DOutline(segment_id, OUTLINE_OPACITY_2D)


def _image(image: Any, array_zyx: NDArray[Any], start_xyz: tuple[int, int, int] = (0, 0, 0)) -> Any:
    """Give a vtkImageData a copy of the voxels, its first one at index `start_xyz`."""
    extent = [v for first, n in zip(start_xyz, array_zyx.shape[::-1], strict=True) for v in (first, first + n - 1)]
    image.SetExtent(extent)
    image.AllocateScalars(get_vtk_array_type(_vtk_type(array_zyx.dtype)), 1)
    vtk_to_numpy(image.GetPointData().GetScalars()).reshape(array_zyx.shape)[...] = array_zyx
    return image


def _vtk_type(dtype: Any) -> Any:
    # 64-bit integers are not drawn properly in the slice views.
    return np.dtype(np.int32) if np.dtype(dtype) in (np.dtype(np.int64), np.dtype(np.uint64)) else np.dtype(dtype)


def place_beside(scene: Any, node: Any, ct_node: Any) -> None:
    """Put the node under the CT's study in the subject hierarchy, if the scene has one."""
    if scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") is None:
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    ct_item, item = hierarchy.GetItemByDataNode(ct_node), hierarchy.GetItemByDataNode(node)
    if not ct_item:
        return
    if item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(ct_item))
    else:
        hierarchy.CreateItem(hierarchy.GetItemParent(ct_item), node)
