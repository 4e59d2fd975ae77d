"""`slicer.app` and what hangs on it: event loop, layout with three slice views, start-up signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from panels.slicer_host.interface import HostRefusal, Interface, UnknownName, interface
from panels.slicer_host.proxy import slot_errors
from PySide6 import QtCore, QtWidgets

PLANES = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class _Judged:
    """An object of the host whose names are checked against the real class before they are looked up."""

    INTERFACE = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            judge: Interface = interface(type(self).INTERFACE)
            judge.check_name(name)
        try:
            return object.__getattribute__(self, name)
        except AttributeError:
            raise UnknownName(f"{type(self).INTERFACE}.{name} is real, but the host does not emulate it") from None


class SliceWidget:
    """A slice view without a window: its logic is all that Python code asks of it."""

    def __init__(self, application_logic: Any, name: str, plane: str) -> None:
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.AddSliceNode(name)
        self._logic.GetSliceNode().SetOrientation(plane)
        self._logic.ResizeSliceNode(300, 300)

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()


class LayoutManager(_Judged):
    INTERFACE = "slicer.app.layoutManager()"

    def __init__(self, application_logic: Any) -> None:
        self._widgets = {name: SliceWidget(application_logic, name, plane) for name, plane in PLANES.items()}

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._widgets)

    def sliceWidget(self, name: str) -> SliceWidget:
        return self._widgets[name]

    def mrmlSliceLogics(self) -> Any:
        logics = vtk.vtkCollection()
        for widget in self._widgets.values():
            logics.AddItem(widget.sliceLogic())
        return logics

    def setLayout(self, layout: int) -> None:
        if not isinstance(layout, int):
            raise HostRefusal(f"setLayout takes a number, not {layout!r}")

    def resetThreeDViews(self) -> None:
        pass


class Application(_Judged):
    INTERFACE = "slicer.app"

    def __init__(self, application_logic: Any) -> None:
        self._logic = application_logic
        self._layout_manager: LayoutManager | None = None
        self._slots: dict[str, list[Callable[..., Any]]] = {}
        self._testing = False

    def processEvents(self) -> None:
        slot_errors.outermost(QtWidgets.QApplication.processEvents)

    def applicationLogic(self) -> Any:
        return self._logic

    def layoutManager(self) -> LayoutManager:
        if self._layout_manager is None:
            self._layout_manager = LayoutManager(self._logic)
        return self._layout_manager

    def testingEnabled(self) -> bool:
        return self._testing

    def connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        interface(Application.INTERFACE).check_signal(signature)
        self._slots.setdefault(signature, []).append(slot)
        return True

    def _emit(self, signature: str) -> None:
        for slot in self._slots.get(signature, []):
            slot()

    @property
    def applicationName(self) -> str:
        return "Slicer"

    @property
    def slicerHome(self) -> str:
        return QtCore.QDir.tempPath()

    @property
    def temporaryPath(self) -> str:
        return QtCore.QDir.tempPath()
