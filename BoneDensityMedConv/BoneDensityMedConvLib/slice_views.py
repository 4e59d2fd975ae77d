"""The three planes: CT in a bone window, centred on L1, with the layout left as it is where it serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import slicer

from BoneDensityMedConvLib.scene import matrix_of, vector3

# Width 1800, level 400: the bone window as radiology teaching gives it (for instance Radiopaedia, "Windowing (CT)").
# It changes the display only.
BONE_WINDOW_HU = 1800.0
BONE_LEVEL_HU = 400.0
FIELD_OF_VIEW_MM = 120.0  # a lumbar vertebra with its neighbours
PLANES = ("Axial", "Sagittal", "Coronal")


def slicer_slice_logics() -> list[Any]:
    """The slice logics of Slicer's window; the four-up layout is chosen if fewer than three slice views are shown."""
    application = getattr(slicer, "app", None)
    if application is None:
        return []
    layout = application.layoutManager()
    if layout is None:  # Slicer without its main window
        return []
    if len(layout.sliceViewNames()) < len(PLANES):
        layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    return [layout.sliceWidget(name).sliceLogic() for name in layout.sliceViewNames()]


def collected_slice_logics(application_logic: Any) -> list[Any]:
    """The slice logics that an application logic knows; for slicer-core, which has no window of its own."""
    collection = application_logic.GetSliceLogics()
    return [] if collection is None else [collection.GetItemAsObject(i) for i in range(collection.GetNumberOfItems())]


def use_bone_window(ct_node: Any) -> None:
    """Show the CT in the bone window."""
    if ct_node.GetDisplayNode() is None:
        ct_node.CreateDefaultDisplayNodes()
    display = ct_node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(BONE_WINDOW_HU, BONE_LEVEL_HU)


def show_planes(slice_logics: Iterable[Any], ct_node: Any, center_ras_mm: Any) -> None:
    """Put the CT into the background of every slice view and centre each on a point, 120 mm wide.

    Views keep their orientation; only if the three planes are not all there are the first three given one each.
    """
    logics = list(slice_logics)
    shown = {logic.GetSliceNode().GetOrientation() for logic in logics}
    if not set(PLANES) <= shown:
        for logic, plane in zip(logics, PLANES, strict=False):
            logic.GetSliceNode().SetOrientation(plane)
    for logic in logics:
        logic.GetSliceCompositeNode().SetBackgroundVolumeID(ct_node.GetID())
        center(logic.GetSliceNode(), center_ras_mm)


def center(slice_node: Any, center_ras_mm: Any, field_of_view_mm: float = FIELD_OF_VIEW_MM) -> None:
    """Centre one slice view on a world point; its shorter side spans `field_of_view_mm`."""
    width, height = (max(1, n) for n in slice_node.GetDimensions()[:2])
    scale = field_of_view_mm / min(width, height)
    depth = slice_node.GetFieldOfView()[2]
    was_modifying = slice_node.StartModify()
    try:
        slice_node.SetXYZOrigin(0.0, 0.0, 0.0)
        slice_node.SetFieldOfView(width * scale, height * scale, depth)
        slice_node.JumpSliceByCentering(*vector3(center_ras_mm))
    finally:
        slice_node.EndModify(was_modifying)


def show_box(slice_node: Any, points_ras_mm: Any, through_ras_mm: Any, margin_mm: float) -> None:
    """Show all these world points, shape (n, 3), with a margin, in one slice view that passes through another point."""
    axes = matrix_of(lambda matrix: matrix.DeepCopy(slice_node.GetSliceToRAS()))[:3, :3]  # columns: right, up, normal
    across = np.asarray(points_ras_mm, float) @ axes[:, :2]
    low, high = across.min(axis=0) - margin_mm, across.max(axis=0) + margin_mm
    depth = float(np.asarray(through_ras_mm, float) @ axes[:, 2])
    middle = axes @ (*((low + high) / 2), depth)
    pixels = np.maximum(slice_node.GetDimensions()[:2], 1)
    # `center` takes the length of the shorter side.
    center(slice_node, middle, max(*((high - low) / pixels * pixels.min()), FIELD_OF_VIEW_MM))
