# mypy: disable-error-code="attr-defined"
"""`slicer.parameterNodeWrapper` for plain fields: str, int, float, bool and MRML nodes.

Text forms and checks as in Slicer: numbers and truth values by str(); a node as a node reference beside an empty
parameter; values are read once and again whenever the node reports a change; a wrong type raises.
"""

from __future__ import annotations

import types
import typing
from typing import Any

import slicer
import vtk

RESERVED = {"default", "isCached", "dataType", "getValue", "setValue", "connectGui", "disconnectGui", "StartModify",
            "EndModify", "AddObserver", "RemoveObserver", "Modified", "allParameters"}  # fmt: skip


class _Field:
    def __init__(self, name: str, kind: type, default: Any) -> None:
        self.name, self.kind, self.default = name, kind, default
        self.is_node = issubclass(kind, slicer.vtkMRMLNode)
        if not self.is_node and kind not in (str, int, float, bool):
            raise TypeError(f"the host has no serializer for {name}: {kind}")

    def check(self, value: Any) -> None:
        accepted = (int, float) if self.kind is float else self.kind
        if not (self.is_node and value is None) and not isinstance(value, accepted):
            raise TypeError(f"{self.name} takes {self.kind.__name__}, not {type(value).__name__}")

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        if self.is_node:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, None if value is None else value.GetID())
        else:
            node.SetParameter(self.name, str(value))

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        text = node.GetParameter(self.name)
        return text == "True" if self.kind is bool else self.kind(text)


def parameterNodeWrapper(described: type) -> type:
    """Class decorator: instances wrap a `vtkMRMLScriptedModuleNode` and give typed access to its fields."""
    fields = {}
    for name, kind in typing.get_type_hints(described).items():
        if name in RESERVED:
            raise ValueError(f"'{name}' is a reserved name")
        default = getattr(described, name, None if issubclass(kind, slicer.vtkMRMLNode) else kind())
        fields[name] = _Field(name, kind, default)
        setattr(described, name, _property(fields[name]))

    def initialise(self: Any, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._cache = {}
        for field in fields.values():
            if not parameterNode.HasParameter(field.name):
                field.write(parameterNode, field.default)
        parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._cache.clear())

    described.__init__ = initialise
    described.StartModify = lambda self: self.parameterNode.StartModify()
    described.EndModify = lambda self, before: self.parameterNode.EndModify(before)
    described.AddObserver = lambda self, event, callback: self.parameterNode.AddObserver(event, callback)
    described.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return described


def _property(field: _Field) -> property:
    def read(self: Any) -> Any:
        if field.is_node:  # never cached: the reference follows the scene
            return field.read(self.parameterNode)
        if field.name not in self._cache:
            self._cache[field.name] = field.read(self.parameterNode)
        return self._cache[field.name]

    def write(self: Any, value: Any) -> None:
        field.write(self.parameterNode, value)
        self._cache.pop(field.name, None)

    return property(read, write)


def make_module() -> types.ModuleType:
    module = types.ModuleType("slicer.parameterNodeWrapper")
    module.parameterNodeWrapper = parameterNodeWrapper
    return module
