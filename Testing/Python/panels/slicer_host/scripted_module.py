"""`slicer.ScriptedLoadableModule`: the four base classes, with the behaviour that a module relies on."""

from __future__ import annotations

import types
import unittest
from pathlib import Path
from typing import Any

import slicer


class ModuleParent:
    """What Slicer's module factory hands to the module class; takes only the attributes that Slicer reads."""

    KNOWN = ("title", "categories", "dependencies", "contributors", "helpText", "acknowledgementText", "icon", "path",
             "hidden", "associatedNodeTypes", "index")  # fmt: skip

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.KNOWN:
            raise AttributeError(f"Slicer's module object has no '{name}'")
        object.__setattr__(self, name, value)


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)


class _Layout:
    """The layout of the module panel."""

    def __init__(self, layout: Any) -> None:
        self._layout = layout

    def addWidget(self, widget: Any) -> None:
        self._layout.addWidget(widget._object)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        self.layout = _Layout(parent._object.layout())

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(self.createParameterNode())
        if node.GetAttribute("ModuleName") != self.moduleName:  # closing the scene removes it
            node.SetAttribute("ModuleName", self.moduleName)
        return node

    def createParameterNode(self) -> Any:
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Runs every callable with "test" in its name, as Slicer's Reload & Test does; the first failure ends it."""

    def delayDisplay(self, message: str, requestedDelay: Any = None, msec: Any = None) -> None:
        slicer.app.processEvents()

    def runTest(self) -> None:
        names = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]
        if not names:
            raise AssertionError("no test is defined")
        for name in names:
            self.setUp()
            getattr(self, name)()
            self.tearDown()


def make_module() -> types.ModuleType:
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for kind in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(module, kind.__name__, kind)
    return module
