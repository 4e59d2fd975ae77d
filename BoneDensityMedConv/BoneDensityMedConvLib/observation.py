"""Observers on MRML nodes that can all be taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import slicer
import vtk


class Observations:
    """Observers that were added together; `remove` takes them off. The callback gets no arguments."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []

    def add(self, node: Any, events: Iterable[Any], callback: Callable[[], None]) -> None:
        """Call `callback` at any of the events; nothing happens for a node that is None."""
        if node is None:
            return
        for event in events:
            self._tags.append((node, node.AddObserver(event, lambda _caller, _event: callback())))

    def remove(self) -> None:
        """Take all observers off."""
        for node, tag in self._tags:
            node.RemoveObserver(tag)
        self._tags.clear()


def content_events(node: Any) -> list[Any]:
    """Events after which what a volume or segmentation node shows may be something else."""
    events = [vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent]
    if node is None:
        return events
    if node.IsA("vtkMRMLVolumeNode"):
        events.append(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
    if node.IsA("vtkMRMLSegmentationNode"):
        core = slicer.vtkSegmentation
        events += [core.SourceRepresentationModified, core.SegmentModified, core.SegmentRemoved]
    return events
