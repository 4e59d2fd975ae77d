"""The vertebrae's names in the slice views: one locked point at the centre of each body, with its name beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import slicer

from BoneDensityMedConvLib import level_view
from BoneDensityMedConvLib.level_choice import Levels

OWN_ATTRIBUTE = "BoneDensityMedConv.LevelNames"
ROLE = "BoneDensityMedConv.LevelNames"  # the reference from the segmentation to its names
TARGET_COLOR = (1.0, 0.78, 0.2)
QUESTION_COLOR = (1.0, 0.45, 0.3)
OTHER_COLOR = (0.75, 0.85, 0.95)
TEXT_SCALE = 4.5  # per cent of the view's height: readable in a quarter of a screen
GLYPH_SCALE = 1.2
SHOWN_IN = ("Sagittal", "Coronal")  # in an axial view all names would lie on each other


def show(segmentation: Any, levels: Levels, slice_nodes: Iterable[Any] = ()) -> Any:
    """Write the names beside the vertebrae, in these slice views; returns the markups node.

    slice_nodes: the `vtkMRMLSliceNode`s to show them in, of which axial ones are left out; none means all views.
    """
    node = names_of(segmentation) or _new(segmentation)
    was_modifying = node.StartModify()
    try:
        node.RemoveAllControlPoints()
        node.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
        for level in levels.found:
            index = node.AddControlPointWorld(level.center_ras_mm, level_view.label(levels, level.name))
            node.SetNthControlPointLocked(index, True)
            node.SetNthControlPointSelected(index, level.name == levels.target)
    finally:
        node.EndModify(was_modifying)
    display = node.GetDisplayNode()
    display.SetSelectedColor(*(QUESTION_COLOR if levels.in_question else TARGET_COLOR))
    display.SetVisibility(True)
    planes = [view.GetID() for view in slice_nodes if view.GetOrientation() in SHOWN_IN]
    display.RemoveAllViewNodeIDs()
    for view_id in planes:
        display.AddViewNodeID(view_id)
    return node


def names_of(segmentation: Any) -> Any:
    """The markups node with a segmentation's names, or None."""
    return segmentation.GetNodeReference(ROLE) if segmentation is not None else None


def hide_all_but(segmentation: Any, scene: Any) -> None:
    """Hide the names of every other segmentation, and remove those whose segmentation is gone."""
    nodes, kept = scene.GetNodesByClass("vtkMRMLMarkupsFiducialNode"), names_of(segmentation)
    owners = scene.GetNodesByClass("vtkMRMLSegmentationNode")
    owned = {names_of(owners.GetItemAsObject(i)) for i in range(owners.GetNumberOfItems())}
    for node in [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]:
        if node is kept or node.GetAttribute(OWN_ATTRIBUTE) is None:
            continue
        if node in owned:
            node.SetDisplayVisibility(False)
        else:
            scene.RemoveNode(node)


def _new(segmentation: Any) -> Any:
    scene = segmentation.GetScene()
    name = scene.GenerateUniqueName(f"{segmentation.GetName()} levels")
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.SetAttribute(OWN_ATTRIBUTE, "1")
    node.SetLocked(True)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisibility2D(True)
    display.SetVisibility3D(False)
    display.SetPointLabelsVisibility(True)
    display.SetTextScale(TEXT_SCALE)
    display.SetUseGlyphScale(True)
    display.SetGlyphScale(GLYPH_SCALE)
    display.SetGlyphType(slicer.vtkMRMLMarkupsDisplayNode.Vertex2D)
    display.SetColor(*OTHER_COLOR)
    # Shown in every slice of the spine, not only in the one through the point: a curved spine leaves each plane.
    display.SetSliceProjection(True)
    display.SetSliceProjectionUseFiducialColor(True)
    display.SetSliceProjectionOutlinedBehindSlicePlane(False)
    display.SetSliceProjectionOpacity(1.0)
    segmentation.SetNodeReferenceID(ROLE, node.GetID())
    return node
