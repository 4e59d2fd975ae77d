"""Slicer's selector of a segmentation and one of its segments, with the real one's habits.

- When another segmentation is chosen and holds no segment of the remembered id, it chooses that segmentation's first
  segment and reports it before it reports the new node.
- The remembered id outlives a segmentation that has gone.
"""

from __future__ import annotations

from typing import Any

from panels.slicer_host.mrml_widgets import QMRMLNodeComboBox, QMRMLWidget
from PySide6 import QtCore, QtWidgets


class QMRMLSegmentSelectorWidget(QMRMLWidget):
    """A node box above a box of segments; the segment box is hidden while there is nothing to choose."""

    HOST_INTERFACE = "slicer.qMRMLSegmentSelectorWidget"
    HOST_SIGNALS = {  # noqa: RUF012
        "currentNodeChanged(vtkMRMLNode*)": "node_changed",
        "currentNodeChanged(bool)": "has_node_changed",
        "currentSegmentChanged(QString)": "segment_changed",
    }
    node_changed = QtCore.Signal(object)
    has_node_changed = QtCore.Signal(object)
    segment_changed = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._nodes = QMRMLNodeComboBox()
        self._nodes.setProperty("nodeTypes", ["vtkMRMLSegmentationNode"])
        self._segments = QtWidgets.QComboBox()
        self._message = QtWidgets.QLabel()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._nodes, self._segments, self._message):
            layout.addWidget(widget)
        self._segmentation: Any = None
        self._observations: list[tuple[Any, int]] = []
        self._segment_id = ""
        self._segments.currentIndexChanged.connect(self._segment_index_changed)
        self._nodes.node_changed.connect(self._node_changed)
        self._nodes.has_node_changed.connect(self.has_node_changed)
        self.setFocusProxy(self._nodes)
        self._fill()

    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        self._nodes.setMRMLScene(scene)

    def stop_observing(self) -> None:
        self._nodes.stop_observing()
        for observed, tag in self._observations:
            observed.RemoveObserver(tag)
        self._observations = []

    def _node_changed(self, node: Any) -> None:
        for observed, tag in self._observations:
            observed.RemoveObserver(tag)
        self._observations = []
        self._segmentation = node
        if node is not None:
            core = node.GetSegmentation()
            for event in (core.SegmentAdded, core.SegmentRemoved, core.SegmentModified):
                self._observations.append((node, node.AddObserver(event, lambda *_: self._fill())))
        self._fill()
        self.node_changed.emit(node)

    def _fill(self) -> None:
        core = None if self._segmentation is None else self._segmentation.GetSegmentation()
        with QtCore.QSignalBlocker(self._segments):
            self._segments.clear()
        if core is None or core.GetNumberOfSegments() == 0:
            self._segments.hide()
            self._message.setText("No node is selected" if core is None else "No segments in segmentation")
            self._message.show()
            return
        self._message.hide()
        self._segments.show()
        ids = [core.GetNthSegmentID(index) for index in range(core.GetNumberOfSegments())]
        none_enabled = self._nodes.property("noneEnabled")
        with QtCore.QSignalBlocker(self._segments):
            if none_enabled:
                self._segments.addItem("None", "")
            for segment_id in ids:
                self._segments.addItem(core.GetSegment(segment_id).GetName(), segment_id)
            if self._segment_id in ids or (none_enabled and not self._segment_id):
                self.setCurrentSegmentID(self._segment_id)
                return
            self._segments.setCurrentIndex(-1)
        self._segments.setCurrentIndex(1 if none_enabled else 0)

    def _segment_index_changed(self, index: int) -> None:
        if self._segmentation is not None:
            self._segment_id = self._segments.itemData(index) or ""
            self.segment_changed.emit(self._segment_id)

    def currentNode(self) -> Any:
        return self._nodes.currentNode()

    def currentNodeID(self) -> str:
        return str(self._nodes.property("currentNodeID"))

    def setCurrentNode(self, node: Any) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._nodes.setCurrentNodeID(node_id)

    def currentSegmentID(self) -> str:
        return self._segment_id

    def setCurrentSegmentID(self, segment_id: str) -> None:
        index = 0 if not segment_id and self._nodes.property("noneEnabled") else self._segments.findData(segment_id)
        if index >= 0:
            self._segments.setCurrentIndex(index)

    def _set_none_enabled(self, enabled: bool) -> None:
        self._nodes.setProperty("noneEnabled", enabled)
        self._fill()

    noneEnabled = QtCore.Property(bool, lambda self: self._nodes.property("noneEnabled"), _set_none_enabled)
