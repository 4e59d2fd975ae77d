"""The map of what moved the answer, in the scene: a volume over the CT, with colours that leave the CT free at 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from BoneDensityMedConvLib import segments
from medconv.explanation import Explanation
from medconv.explanation_picture import TOWARDS_NORMAL_RGB, TOWARDS_OSTEOPOROSIS_RGB, colour_range, colours
from medconv.types import CTVolume

ATTRIBUTE = "BoneDensityMedConv.Explanation"  # on the map: the value that has the strongest colour
OUTLINED = "BoneDensityMedConv.Outlined"  # node reference of the map: the segmentation whose fill it replaces
COLOURS_TAG = "BoneDensityMedConvExplanationColours"
STEPS = 255  # odd: one step for 0
GROUND = 92.0  # the grey of soft tissue in the bone window, into which weak colours fade
LEGEND = (
    {"label": "towards osteoporosis", "color": "#{:02x}{:02x}{:02x}".format(*TOWARDS_OSTEOPOROSIS_RGB)},
    {"label": "towards normal", "color": "#{:02x}{:02x}{:02x}".format(*TOWARDS_NORMAL_RGB)},
)


def add(explanation: Explanation, ct_node: Any, segmentation: Any) -> Any:
    """A new `vtkMRMLScalarVolumeNode` with the map, in world coordinates, beside the CT in the subject hierarchy.

    segmentation: whose outlines stay over the map, without their fill.
    """
    scene = ct_node.GetScene()
    name = f"{ct_node.GetName()} {explanation.vertebra}: what moved the answer"
    node = segments.add_ct(scene, CTVolume(explanation.values_zyx, explanation.geometry), name)
    node.SetAttribute(ATTRIBUTE, repr(colour_range(explanation)))
    node.SetDescription("Log-odds per ml; above 0: towards osteoporosis. Research use only.")
    node.SetNodeReferenceID(OUTLINED, segmentation.GetID())
    segments.place_beside(scene, node, ct_node)
    dress(node)
    return node


def dress(node: Any) -> None:
    """The map's own colours and range. Again after a scene was loaded, which keeps the map and not the colours."""
    display, full = node.GetDisplayNode(), float(node.GetAttribute(ATTRIBUTE))
    if display is None:
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
    table = _colours(node.GetScene())
    if display.GetColorNodeID() != table.GetID():
        display.SetAndObserveColorNodeID(table.GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(-full, full)


def show(node: Any, slice_logics: list[Any], opacity: float) -> None:
    """Lay the map over what the slice views show; a segment's fill would change its colours."""
    _fill(node, 0.0)
    for logic in slice_logics:
        composite = logic.GetSliceCompositeNode()
        composite.SetForegroundVolumeID(node.GetID())
        composite.SetForegroundOpacity(opacity)


def hide(node: Any) -> None:
    """Take the map off every slice view; another volume that a person laid over the CT stays."""
    _fill(node, 1.0)
    composites = node.GetScene().GetNodesByClass("vtkMRMLSliceCompositeNode")
    for index in range(composites.GetNumberOfItems()):
        composite = composites.GetItemAsObject(index)
        if composite.GetForegroundVolumeID() == node.GetID():
            composite.SetForegroundVolumeID(None)
            composite.SetForegroundOpacity(0.0)


def is_map(node: Any) -> bool:
    """True for a volume node that this module made."""
    try:
        return node is not None and float(node.GetAttribute(ATTRIBUTE)) > 0
    except (TypeError, ValueError):
        return False


def _fill(node: Any, opacity: float) -> None:
    segmentation = node.GetNodeReference(OUTLINED)
    if segmentation is not None and segmentation.GetDisplayNode() is not None:
        segmentation.GetDisplayNode().SetOpacity2DFill(opacity)


def _colours(scene: Any) -> Any:
    """The diverging colour table; one in a scene, remade rather than saved."""
    known = scene.GetSingletonNode(COLOURS_TAG, "vtkMRMLColorTableNode")
    if known is not None:
        return known
    table = slicer.vtkMRMLColorTableNode()
    table.SetSingletonTag(COLOURS_TAG)
    table.SetName("What moved the answer")
    table.SetHideFromEditors(True)
    table.SetSaveWithScene(False)
    table.SetTypeToUser()
    table.SetNumberOfColors(STEPS)
    rgba = colours(np.linspace(-1.0, 1.0, STEPS))
    # The slice views know opaque and transparent only: what would be half transparent fades into grey.
    faded = (GROUND + rgba[:, 3:] * (rgba[:, :3] - GROUND)) / 255.0
    for step, (red, green, blue) in enumerate(faded.tolist()):
        table.SetColor(step, f"{step - STEPS // 2:+d}", red, green, blue, float(rgba[step, 3] > 0))
    return scene.AddNode(table)
