"""Puts the emulated modules in place for a test, on the real MRML scene of slicer-core, and takes them out again."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
import slicer.util
from panels.slicer_host import (
    application,
    parameter_node_wrapper,
    proxy,
    qt_modules,
    sample_data_module,
    scripted_module,
)
from panels.slicer_host.interface import HostRefusal, interface, python_names
from panels.slicer_host.mrml_widgets import QMRMLWidget
from PySide6 import QtWidgets

PROJECT_PACKAGES = ("BoneDensityMedConv", "BoneDensityMedConvLib")


class UnexpectedDialog(HostRefusal):
    """The code opened a dialog that the test did not announce."""


class SlicerHost:
    """One Slicer: made for one test, closed after it."""

    def __init__(self) -> None:
        self._qt_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        self._modules_before: dict[str, Any] = {}
        self._attributes_before: list[tuple[Any, str, Any]] = []
        self._answers: list[tuple[str, Any]] = []
        self._widgets: dict[str, Any] = {}
        self._module_file: Path | None = None
        self.dialogs: list[tuple[str, str]] = []
        self.sample_data = sample_data_module.Register()

    def open(self) -> None:
        """Start: a new scene, its logics, and the modules that only Slicer's window has."""
        for name in [n for n in sys.modules if n.split(".")[0] in PROJECT_PACKAGES]:
            self._modules_before[name] = sys.modules.pop(name)
        self._make_scene()
        self._put_python_slicer_on_the_path()
        self._install("qt", qt_modules.make_qt(self._answer))
        self._install("ctk", qt_modules.make_ctk())
        translations = {"tr": lambda text: text, "translate": lambda _context, text: text}
        self._install("slicer.i18n", _module("slicer.i18n", **translations))
        self._install("slicer.packaging", _module("slicer.packaging"))
        self._install("slicer.ScriptedLoadableModule", scripted_module.make_module())
        self._install("slicer.parameterNodeWrapper", parameter_node_wrapper.make_module())
        self._install("SampleData", sample_data_module.make_module(self.sample_data))
        for name in ("errorDisplay", "warningDisplay", "infoDisplay"):
            self._set(slicer.util, name, self._message(name))
        for name in ("confirmOkCancelDisplay", "confirmYesNoDisplay"):
            self._set(slicer.util, name, self._question(name))
        self._set(slicer.util, "childWidgetVariables", child_widget_variables)
        self._set(slicer.util, "getModuleWidget", lambda name: self._widgets[name])
        self._set(slicer.util, "tryWithErrorDisplay", try_with_error_display)
        self._set(slicer.util, "saveScene", save_scene)
        self._set(slicer.util, "loadScene", load_scene)

    def close(self) -> None:
        """End: widgets gone, modules and attributes as before. Raises what a slot left behind."""
        for widget in self._widgets.values():
            widget.cleanup()
            for child in widget.parent._object.findChildren(QtWidgets.QWidget):
                if hasattr(child, "stop_observing"):
                    child.stop_observing()
            widget.parent._object.deleteLater()
        self._widgets.clear()
        slicer.mrmlScene.Clear()
        for owner, name, value in reversed(self._attributes_before):
            delattr(owner, name) if value is _ABSENT else setattr(owner, name, value)
        for name in [n for n in sys.modules if n.split(".")[0] in PROJECT_PACKAGES]:
            del sys.modules[name]
        for name, module in self._modules_before.items():
            if module is _ABSENT:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        os.environ["PATH"] = self._path_before
        self._bin.cleanup()
        proxy.slot_errors.raise_first()
        if self._answers:
            raise AssertionError(f"announced dialogs that never came: {self._answers}")

    def expect_dialog(self, function: str, answer: Any = None) -> None:
        """Announce the next dialog, by the name of its function in slicer.util or QFileDialog; any other raises."""
        if function not in python_names("slicer.util") and not _is_file_dialog(function):
            raise HostRefusal(f"slicer.util has no {function}")
        self._answers.append((function, answer))

    def load_module(self, path: Path) -> types.ModuleType:
        """Load a scripted module as Slicer's factory does: its folder joins sys.path, then start-up completes."""
        self._module_file = path
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        name = path.stem
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        getattr(module, name)(scripted_module.ModuleParent(path))
        self.application._emit("startupCompleted()")
        return module

    def open_module(self, module: types.ModuleType) -> Any:
        """Show the module's panel for the first time; returns its widget object, entered."""
        parent = QMRMLWidget()
        parent.setLayout(QtWidgets.QVBoxLayout())
        parent.resize(440, 900)
        widget = getattr(module, f"{module.__name__}Widget")(proxy.wrap(parent))
        self._widgets[module.__name__] = widget
        widget.setup()
        widget.enter()
        parent.show()
        self.application.processEvents()
        return widget

    @property
    def application(self) -> application.Application:
        return slicer.app

    def install_torch_extension(self, install: Callable[[], Any]) -> None:
        """Let `import PyTorchUtils` find an extension whose installTorch calls `install`."""

        class PyTorchUtilsLogic:
            def installTorch(self, askConfirmation: bool = False, **_more: Any) -> Any:
                return install()

        self._install("PyTorchUtils", _module("PyTorchUtils", PyTorchUtilsLogic=PyTorchUtilsLogic))

    def _make_scene(self) -> None:
        scene = slicer.vtkMRMLScene()
        self._set(slicer, "mrmlScene", scene)
        application_logic = slicer.vtkSlicerApplicationLogic()
        application_logic.SetMRMLScene(scene)
        application_logic.GetColorLogic().SetMRMLScene(scene)
        application_logic.GetColorLogic().AddDefaultColorNodes()
        modules = types.SimpleNamespace()
        kinds = {"volumes": "vtkSlicerVolumesLogic", "segmentations": "vtkSlicerSegmentationsModuleLogic"}
        for name, kind in kinds.items():
            logic = getattr(slicer, kind)()
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(scene)
            setattr(modules, name, types.SimpleNamespace(logic=lambda logic=logic: logic))
        self._set(slicer, "modules", modules)
        self._set(slicer, "app", application.Application(application_logic))

    def _put_python_slicer_on_the_path(self) -> None:
        """`PythonSlicer` is how code in Slicer starts a Python process; here it is the Python of the tests."""
        self._bin = tempfile.TemporaryDirectory(prefix="slicer-host-")
        launcher = Path(self._bin.name) / "PythonSlicer"
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        launcher.chmod(0o755)
        self._path_before = os.environ["PATH"]
        os.environ["PATH"] = os.pathsep.join([self._bin.name, self._path_before])

    def _install(self, name: str, module: types.ModuleType) -> None:
        self._modules_before.setdefault(name, sys.modules.get(name, _ABSENT))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            self._set(importlib.import_module(parent), child, module)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._attributes_before.append((owner, name, getattr(owner, name, _ABSENT)))
        setattr(owner, name, value)

    def _message(self, function: str) -> Callable[..., Any]:
        def show(text: str, windowTitle: Any = None, parent: Any = None, **more: Any) -> Any:
            known = {"standardButtons", "detailedText", "informativeText", "dontShowAgainSettingsKey", "icon"}
            unknown = set(more) - known
            if unknown:
                raise HostRefusal(f"a message box has no {sorted(unknown)}")
            return self._answer(function, text)

        return show

    def _question(self, function: str) -> Callable[..., Any]:
        def ask(text: str, windowTitle: Any = None, parent: Any = None, **_more: Any) -> Any:
            return self._answer(function, text)

        return ask

    def _answer(self, function: str, text: str) -> Any:
        self.dialogs.append((function, text))
        if not self._answers or self._answers[0][0] != function:
            raise UnexpectedDialog(f"{function} was not announced: {text}")
        return self._answers.pop(0)[1]


def _is_file_dialog(function: str) -> bool:
    owner, _, name = function.partition(".")
    return owner == "QFileDialog" and name in interface("qt.QFileDialog").names


def child_widget_variables(widget: proxy.Proxy) -> Any:
    """Named child widgets as attributes of an object, as `slicer.util.childWidgetVariables` gives them."""
    ui = types.SimpleNamespace()
    for child in [widget._object, *widget._object.findChildren(QtWidgets.QWidget)]:
        if child.objectName() and not child.objectName().startswith("qt_"):
            setattr(ui, child.objectName(), proxy.wrap(child))
    return ui


@contextmanager
def try_with_error_display(message: str | None = None, show: bool = True, waitCursor: bool = False) -> Iterator[None]:
    """Shows what went wrong inside, and lets it go on."""
    try:
        yield
    except Exception as error:
        if show:
            slicer.util.errorDisplay(f"{message}\n\n{error}" if message else str(error))
        raise


def save_scene(filename: str, properties: Any = None) -> bool:
    """Write the scene with its data as an .mrb."""
    if not filename.endswith(".mrb"):
        raise HostRefusal("the host saves scenes as .mrb")
    return bool(slicer.mrmlScene.WriteToMRB(str(Path(filename).resolve())))


def load_scene(filename: str, properties: Any = None) -> bool:
    """Replace the scene by the one in an .mrb, as File → Add Data does with a scene."""
    scene = slicer.mrmlScene
    with tempfile.TemporaryDirectory() as cache:
        logic = slicer.vtkMRMLRemoteIOLogic()
        logic.SetMRMLScene(scene)
        logic.GetCacheManager().SetRemoteCacheDirectory(cache)
        logic.AddDataIOToScene()
        try:
            return bool(scene.ReadFromMRB(str(filename), True))
        finally:
            logic.RemoveDataIOFromScene()


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    return module


_ABSENT = object()
