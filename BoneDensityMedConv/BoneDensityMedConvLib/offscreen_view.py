"""One slice view drawn without a window, by the displayable managers that Slicer's own views use.

Works in Slicer and, through EGL or an off-screen driver, on slicer-core without a display.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from BoneDensityMedConvLib import slice_views

DISPLAYABLE_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLMarkupsDisplayableManager")


class OffscreenSliceView:
    """A slice view of `size` pixels; `close` frees its node and its render window."""

    def __init__(self, scene: Any, application_logic: Any, plane: str, size: tuple[int, int] = (400, 400)) -> None:
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*size)
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window.AddRenderer(self._renderer)
        # The slice logic's image is ready to draw (8-bit colours); CTK's light box would show it in Slicer's
        # window. It is added before the segments' actors, or they would be blended with black and hide it.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)

        # The managers ask the renderer's interactor for the view's size; no event loop is started.
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._markups_logic = _markups_logic(scene, application_logic)
        self._managers = self._displayable_managers(application_logic)

        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        self.logic.SetMRMLScene(scene)
        self._scene = scene
        self.node = self.logic.AddSliceNode(f"MedConv{plane}")
        self.node.SetOrientation(plane)
        self._managers.SetMRMLDisplayableNode(self.node)
        self.logic.ResizeSliceNode(*size)

    def show(self, ct_node: Any, center_ras_mm: Any, field_of_view_mm: float = slice_views.FIELD_OF_VIEW_MM) -> None:
        """Put the CT into the background and centre on a point."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(ct_node.GetID())
        slice_views.center(self.node, center_ras_mm, field_of_view_mm)

    def pixels(self) -> NDArray[np.uint8]:
        """What the view shows, shape (rows, columns, 3), first row on top."""
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
        return np.ascontiguousarray(values[::-1, :, :3])

    def pixel_of(self, point_ras_mm: Any) -> tuple[float, float]:
        """Where a world point lies in `pixels()`: row and column."""
        to_ras = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), to_ras)
        x, y, _, _ = to_ras.MultiplyPoint((*map(float, point_ras_mm), 1.0))
        return self.node.GetDimensions()[1] - 1 - y, x

    def close(self) -> None:
        """Remove the view's nodes from the scene and free the window."""
        composite = self.logic.GetSliceCompositeNode()
        self._managers.SetMRMLDisplayableNode(None)
        for node in (composite, self.node):
            if node is not None and node.GetScene() is self._scene:
                self._scene.RemoveNode(node)
        self.logic.SetMRMLScene(None)
        self._window.Finalize()

    def _displayable_managers(self, application_logic: Any) -> Any:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        if factory.GetMRMLApplicationLogic() is not application_logic:
            factory.SetMRMLApplicationLogic(application_logic)
        for name in DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(self._renderer)
        group.Initialize(factory, self._renderer)
        return group


def _markups_logic(scene: Any, application_logic: Any) -> Any:
    """The logic that the markups' displayable manager asks for by name; Slicer has it, slicer-core needs it made."""
    known = application_logic.GetModuleLogic("Markups")
    if known is not None:
        return known
    made = slicer.vtkSlicerMarkupsLogic()
    made.SetMRMLApplicationLogic(application_logic)
    made.SetMRMLScene(scene)
    application_logic.SetModuleLogic("Markups", made)
    return made
