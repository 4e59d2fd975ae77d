"""The vertebrae's names in the slice views: one locked point at the centre of each body, with its name beside it.

The measured vertebra's name has a markups node of its own, for points that are projected onto a slice are all drawn in
their node's one colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import slicer

from BoneDensityMedConvLib import level_view
from BoneDensityMedConvLib.level_choice import FoundLevel, Levels

OWN_ATTRIBUTE = "BoneDensityMedConv.LevelNames"
# References from the segmentation to its names.
TARGET_ROLE, OTHERS_ROLE = "BoneDensityMedConv.TargetName", "BoneDensityMedConv.LevelNames"
TARGET_COLOR = (1.0, 0.78, 0.2)
QUESTION_COLOR = (1.0, 0.45, 0.3)
OTHER_COLOR = (0.75, 0.85, 0.95)
TEXT_SCALE = 4.5  # per cent of the view's height: readable in a quarter of a screen
SMALL_TEXT_SCALE = 2.6  # where the whole CT is in view, vertebrae are small too
GLYPH_SCALE = 1.2
# Names nearer than that along the body would lie on each other where the whole lumbar spine is in view: a vertebra that
# the CT cuts, or two names on one. Typical vertebrae are 25 to 45 mm apart.
LEAST_APART_MM = 16.0
SHOWN_IN = ("Sagittal", "Coronal")  # in an axial view all names would lie on each other


def show(segmentation: Any, levels: Levels, slice_nodes: Iterable[Any] = ()) -> None:
    """Write the names beside the vertebrae, in these slice views.

    slice_nodes: the `vtkMRMLSliceNode`s to show them in, of which axial ones are left out; none means all views.
    """
    views = [view.GetID() for view in slice_nodes if view.GetOrientation() in SHOWN_IN]
    placed = apart(levels.found, levels.target)
    target = [level for level in placed if level.name == levels.target]
    others = [level for level in placed if level.name != levels.target]
    color = QUESTION_COLOR if levels.in_question else TARGET_COLOR
    _write(segmentation, OTHERS_ROLE, levels, others, OTHER_COLOR, views)
    _write(segmentation, TARGET_ROLE, levels, target, color, views)


def apart(found: Iterable[FoundLevel], target: str) -> list[FoundLevel]:
    """The levels with their names' places moved up or down, away from the measured one, until none covers another."""
    ordered = list(found)
    start = next((place for place, level in enumerate(ordered) if level.name == target), 0)
    for step, places in ((-1.0, range(start + 1, len(ordered))), (1.0, range(start - 1, -1, -1))):
        for place in places:
            near = ordered[place + int(step)].center_ras_mm[2]
            x, y, z = ordered[place].center_ras_mm
            if abs(z - near) < LEAST_APART_MM:
                ordered[place] = replace(ordered[place], center_ras_mm=(x, y, near + step * LEAST_APART_MM))
    return ordered


def nodes_of(segmentation: Any) -> list[Any]:
    """The markups nodes with a segmentation's names: of the measured vertebra, and of the others."""
    found = [segmentation.GetNodeReference(role) for role in (TARGET_ROLE, OTHERS_ROLE)]
    return [node for node in found if node is not None]


def make_small(scene: Any, small: bool = True) -> None:
    """Write all names of the scene small, or in their usual size again; `show` writes them in the usual size."""
    for node in _all(scene):
        node.GetDisplayNode().SetTextScale(SMALL_TEXT_SCALE if small else TEXT_SCALE)


def remove_orphans(scene: Any) -> None:
    """Remove the names whose segmentation is gone."""
    owners = scene.GetNodesByClass("vtkMRMLSegmentationNode")
    owned = [node for i in range(owners.GetNumberOfItems()) for node in nodes_of(owners.GetItemAsObject(i))]
    for node in _all(scene):
        # Whoever hears of a removal may ask for this again, before the next one's turn.
        if node.GetScene() is not None and node not in owned:
            scene.RemoveNode(node)


def _all(scene: Any) -> list[Any]:
    nodes = scene.GetNodesByClass("vtkMRMLMarkupsFiducialNode")
    found = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
    return [node for node in found if node.GetAttribute(OWN_ATTRIBUTE) is not None]


def _write(
    segmentation: Any,
    role: str,
    levels: Levels,
    named: list[FoundLevel],
    color: tuple[float, float, float],
    view_ids: list[str],
) -> None:
    node = segmentation.GetNodeReference(role) or _new(segmentation, role)
    was_modifying = node.StartModify()
    try:
        node.RemoveAllControlPoints()
        node.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
        for level in named:
            index = node.AddControlPointWorld(level.center_ras_mm, level_view.label(levels, level.name))
            node.SetNthControlPointLocked(index, True)
    finally:
        node.EndModify(was_modifying)
    display = node.GetDisplayNode()
    display.SetColor(*color)
    display.SetSelectedColor(*color)
    display.SetTextScale(TEXT_SCALE)
    display.SetVisibility(True)
    display.RemoveAllViewNodeIDs()
    for view_id in view_ids:
        display.AddViewNodeID(view_id)


def _new(segmentation: Any, role: str) -> Any:
    scene = segmentation.GetScene()
    what = "measured level" if role == TARGET_ROLE else "levels"
    node = scene.AddNewNodeByClass(
        "vtkMRMLMarkupsFiducialNode", scene.GenerateUniqueName(f"{segmentation.GetName()} {what}")
    )
    node.SetAttribute(OWN_ATTRIBUTE, "1")
    node.SetLocked(True)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisibility2D(True)
    display.SetVisibility3D(False)
    display.SetPointLabelsVisibility(True)
    display.SetUseGlyphScale(True)
    display.SetGlyphScale(GLYPH_SCALE)
    display.SetGlyphType(slicer.vtkMRMLMarkupsDisplayNode.Vertex2D)
    # Shown in every slice of the spine, not only in the one through the point: a curved spine leaves each plane.
    display.SetSliceProjection(True)
    display.SetSliceProjectionUseFiducialColor(True)
    display.SetSliceProjectionOutlinedBehindSlicePlane(False)
    display.SetSliceProjectionOpacity(1.0)
    segmentation.SetNodeReferenceID(role, node.GetID())
    return node
