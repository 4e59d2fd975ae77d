"""A segmented spine on the screen: the vertebra that is measured stands out, the others are there and dim."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk

from BoneDensityMedConvLib import level_labels, segmentation_origin, segments, slice_views, spine_segments
from BoneDensityMedConvLib.level_choice import Levels
from medconv import vertebrae

TARGET_COLOR = (1.0, 0.69, 0.0)
# Neighbours in turn, so that the border between two that touch can be seen.
OTHER_COLORS = ((0.45, 0.66, 0.85), (0.55, 0.78, 0.60))
LANDMARK_COLOR = (0.70, 0.62, 0.75)
OTHER_OUTLINE_OPACITY = 0.45
TARGET_FILL_OPACITY, OTHER_FILL_OPACITY = 0.15, 0.08  # the bone must stay readable
NO_COLOR = (-1.0, -1.0, -1.0)  # vtkMRMLSegmentationDisplayNode's sign for "the segment's own"
SHOWN_LANDMARKS = (vertebrae.SACRUM,)
MARGIN_MM = 40.0  # beyond the centres of the outermost vertebrae: their own half height, and the sacrum's top
SEEN_IN_QUESTION = ("T11", "L6")


def show(segmentation: Any, levels: Levels, slice_logics: list[Any]) -> None:
    """Outline the vertebrae, name them in the slice views, and make the surface of the measured one for 3D."""
    ids = spine_segments.found_structures(segmentation)
    _outline(segmentation, ids, levels)
    if levels.target in ids:
        make_surface(segmentation, ids[levels.target])
    level_labels.show(segmentation, levels, [logic.GetSliceNode() for logic in slice_logics])


def hide_others(segmentation: Any, ct_node: Any) -> None:
    """Hide all other vertebrae of this CT, those that were made here of other CTs, and their names."""
    same_ct = spine_segments.others_on(ct_node, segmentation)
    nodes = segmentation.GetScene().GetNodesByClass("vtkMRMLSegmentationNode")
    for index in range(nodes.GetNumberOfItems()):
        node = nodes.GetItemAsObject(index)
        if node is segmentation:
            continue
        if node in same_ct or segmentation_origin.is_made_here(node):
            node.SetDisplayVisibility(False)
        for names in level_labels.nodes_of(node):
            names.SetDisplayVisibility(False)


def frame(levels: Levels, ct_node: Any, slice_logics: list[Any]) -> None:
    """Arrange the three planes: on the measured vertebra, or, while the level is in question, with its neighbours.

    Then the sagittal and the coronal view show T11 to the last lumbar vertebra, as far as they were found, and pass
    through the vertebra that is asked about.
    """
    if not levels.found:
        return
    target = levels.measured
    middle = levels.found[len(levels.found) // 2]
    slice_views.use_bone_window(ct_node)
    slice_views.show_planes(slice_logics, ct_node, (target or middle).center_ras_mm)
    if target is not None and not levels.in_question:
        return
    order = vertebrae.ORDER
    first, last = (order.index(name) for name in SEEN_IN_QUESTION)
    seen = [level for level in levels.found if first <= order.index(level.name) <= last] or list(levels.found)
    points = np.array([level.center_ras_mm for level in seen])
    for logic in slice_logics:
        if logic.GetSliceNode().GetOrientation() in ("Sagittal", "Coronal"):
            slice_views.show_box(logic.GetSliceNode(), points, (target or middle).center_ras_mm, MARGIN_MM)


def show_in_one_color(segmentation: Any, color: tuple[float, float, float]) -> None:
    """All vertebrae of a segmentation as outlines of one colour, without fill; their own colours are kept."""
    if segmentation.GetDisplayNode() is None:
        segmentation.CreateDefaultDisplayNodes()
    display = segmentation.GetDisplayNode()
    for name, segment_id in spine_segments.found_structures(segmentation).items():
        display.SetSegmentOverrideColor(segment_id, *color)
        display.SetSegmentVisibility(segment_id, vertebrae.is_vertebra(name) or name in SHOWN_LANDMARKS)
        display.SetSegmentVisibility2DFill(segment_id, False)
        display.SetSegmentVisibility2DOutline(segment_id, True)
        display.SetSegmentOpacity2DOutline(segment_id, segments.OUTLINE_OPACITY_2D)
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    display.SetOpacity2DOutline(1.0)


def clear_one_color(segmentation: Any) -> None:
    """The segments' own colours again, with fill."""
    display = segmentation.GetDisplayNode()
    if display is None:
        return
    for segment_id in spine_segments.found_structures(segmentation).values():
        display.SetSegmentOverrideColor(segment_id, *NO_COLOR)
        display.SetSegmentVisibility2DFill(segment_id, True)


def _outline(segmentation: Any, ids: dict[str, str], levels: Levels) -> None:
    if segmentation.GetDisplayNode() is None:
        segmentation.CreateDefaultDisplayNodes()
    display, core = segmentation.GetDisplayNode(), segmentation.GetSegmentation()
    own = segmentation_origin.is_made_here(segmentation)
    for place, (name, segment_id) in enumerate(ids.items()):
        is_target = name == levels.target
        shown = vertebrae.is_vertebra(name) or name in SHOWN_LANDMARKS
        if own:
            core.GetSegment(segment_id).SetColor(*_color(name, place, is_target))
        display.SetSegmentVisibility(segment_id, shown)
        display.SetSegmentVisibility2DFill(segment_id, True)
        display.SetSegmentVisibility2DOutline(segment_id, True)
        display.SetSegmentVisibility3D(segment_id, is_target)
        display.SetSegmentOpacity2DFill(segment_id, TARGET_FILL_OPACITY if is_target else OTHER_FILL_OPACITY)
        display.SetSegmentOpacity2DOutline(
            segment_id, segments.OUTLINE_OPACITY_2D if is_target else OTHER_OUTLINE_OPACITY
        )
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    display.SetVisibility3D(True)
    display.SetOpacity2DFill(1.0)
    display.SetOpacity2DOutline(1.0)


def _color(name: str, place: int, is_target: bool) -> tuple[float, float, float]:
    if is_target:
        return TARGET_COLOR
    return OTHER_COLORS[place % 2] if vertebrae.is_vertebra(name) else LANDMARK_COLOR


def make_surface(segmentation: Any, segment_id: str) -> None:
    """The closed surface of one segment. The others get an empty one, for Slicer shows surfaces only where every
    segment has one, and to make them all would keep the person waiting; Segmentations, Update makes them."""
    core = segmentation.GetSegmentation()
    surface = core.GetSegment(segment_id).GetRepresentation(segments.SURFACE)
    if surface is not None and surface.GetNumberOfPoints() > 0:
        return
    if core.GetSourceRepresentationName() != segments.LABELMAP:
        return  # surfaces or contours: Slicer shows what there is
    made = segments.surface_of(segmentation, segment_id)
    if made is None:
        return
    for index in range(core.GetNumberOfSegments()):
        segment = core.GetNthSegment(index)
        if segment.GetRepresentation(segments.SURFACE) is None:
            segment.AddRepresentation(segments.SURFACE, vtk.vtkPolyData())
    core.GetSegment(segment_id).AddRepresentation(segments.SURFACE, made)
