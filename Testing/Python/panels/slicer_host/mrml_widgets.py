"""Slicer's widgets that show MRML nodes, on a real scene of slicer-core."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets


class QMRMLWidget(QtWidgets.QWidget):
    """A widget that hands the scene on."""

    HOST_INTERFACE = "slicer.qMRMLWidget"
    HOST_SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": "scene_changed"}  # noqa: RUF012
    scene_changed = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self._scene = scene
        self.scene_changed.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class QMRMLNodeComboBox(QtWidgets.QWidget):
    """The nodes of the scene that have one of the node types; node None is the entry `noneDisplay`.

    As in Slicer: without `noneEnabled` the first node that appears is chosen by itself; a chosen node that leaves the
    scene gives way to None, or to the last node; disabled as long as it has no scene.
    """

    HOST_INTERFACE = "slicer.qMRMLNodeComboBox"
    HOST_SIGNALS = {  # noqa: RUF012
        "currentNodeChanged(vtkMRMLNode*)": "node_changed",
        "currentNodeChanged(bool)": "has_node_changed",
        "currentNodeIDChanged(QString)": "id_changed",
    }
    node_changed = QtCore.Signal(object)
    has_node_changed = QtCore.Signal(object)
    id_changed = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._options: dict[str, Any] = {
            "nodeTypes": [], "noneEnabled": False, "noneDisplay": "None", "showChildNodeTypes": True,
            "showHidden": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False,
            "editEnabled": False, "selectNodeUponCreation": True, "hideChildNodeTypes": [],
        }  # fmt: skip
        self._scene: Any = None
        self._observations: list[int] = []
        self._shown_id = ""
        self._box = QtWidgets.QComboBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.currentIndexChanged.connect(self._report)
        self.setFocusProxy(self._box)
        self.setEnabled(False)

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self.stop_observing()
        self._scene = scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
                self._observations.append(scene.AddObserver(event, lambda *_: self._fill()))
        self.setEnabled(scene is not None)
        self._fill()

    def stop_observing(self) -> None:
        for tag in self._observations:
            self._scene.RemoveObserver(tag)
        self._observations = []

    def mrmlScene(self) -> Any:
        return self._scene

    def _nodes(self) -> list[Any]:
        nodes: dict[str, Any] = {}
        for kind in self._options["nodeTypes"] if self._scene is not None else ():
            for index in range(self._scene.GetNumberOfNodesByClass(kind)):
                node = self._scene.GetNthNodeByClass(index, kind)
                of_kind = self._options["showChildNodeTypes"] or node.GetClassName() == kind
                if of_kind and (self._options["showHidden"] or not node.GetHideFromEditors()):
                    nodes[node.GetID()] = node
        return list(nodes.values())

    def _fill(self) -> None:
        nodes = self._nodes()
        ids = [node.GetID() for node in nodes]
        wanted = self.currentNodeID_()
        with QtCore.QSignalBlocker(self._box):
            self._box.clear()
            if self._options["noneEnabled"]:
                self._box.addItem(self._options["noneDisplay"], "")
            for node in nodes:
                self._box.addItem(node.GetName(), node.GetID())
            if wanted in ids:
                self._box.setCurrentIndex(self._box.findData(wanted))
            elif self._options["noneEnabled"]:
                self._box.setCurrentIndex(0)
            else:
                self._box.setCurrentIndex(len(nodes) - 1 if wanted else 0 if nodes else -1)
        self._report()

    def _report(self, *_index: int) -> None:
        if self.currentNodeID_() == self._shown_id:
            return
        self._shown_id = self.currentNodeID_()
        node = self.currentNode()
        self.node_changed.emit(node)
        self.has_node_changed.emit(node is not None)
        self.id_changed.emit(self._shown_id)

    def currentNodeID_(self) -> str:
        return self._box.currentData() or ""

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self.currentNodeID_()) if self._scene is not None else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID("" if node is None else node.GetID())

    def setCurrentNodeID(self, node_id: str) -> None:
        index = self._box.findData(node_id) if node_id else -1
        self._box.setCurrentIndex(0 if index < 0 and self._options["noneEnabled"] else index)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def _set_option(self, name: str, value: Any) -> None:
        self._options[name] = list(value) if isinstance(value, list | tuple) else value
        self._fill()

    currentNodeID = QtCore.Property(str, currentNodeID_, setCurrentNodeID)


def _option(kind: Any, name: str) -> Any:
    return QtCore.Property(kind, lambda self: self._options[name], lambda self, value: self._set_option(name, value))


for _name in ("noneEnabled", "showChildNodeTypes", "showHidden", "addEnabled", "removeEnabled", "renameEnabled",
              "editEnabled", "selectNodeUponCreation"):  # fmt: skip
    setattr(QMRMLNodeComboBox, _name, _option(bool, _name))
for _name in ("nodeTypes", "hideChildNodeTypes"):
    setattr(QMRMLNodeComboBox, _name, _option("QStringList", _name))
QMRMLNodeComboBox.noneDisplay = _option(str, "noneDisplay")
