# mypy: disable-error-code="attr-defined"
"""The modules `qt` and `ctk` as Slicer has them: only classes whose real interface the host knows."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from panels.slicer_host import ui_loader
from panels.slicer_host.interface import HostRefusal, UnknownName
from panels.slicer_host.proxy import Proxy, wrap
from PySide6 import QtCore, QtGui


class _StrictModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnknownName(f"the host's module '{self.__name__}' has no '{name}'")


def _timer(*arguments: Any) -> Proxy:
    """`qt.QTimer()`; PythonQt takes no keywords."""
    if arguments:
        raise HostRefusal("qt.QTimer: the host makes timers without a parent; keep a reference to it")
    return wrap(QtCore.QTimer())


def _icon(path: str) -> QtGui.QIcon:
    return QtGui.QIcon(path)


class _File:
    """As much of QFile as `slicer.util.loadUI` asks for."""

    ReadOnly = QtCore.QFile.OpenModeFlag.ReadOnly

    def __init__(self, path: str) -> None:
        if not isinstance(path, str):
            raise HostRefusal(f"a path is given to Qt as str, not {type(path).__name__}")
        self.path = path

    def exists(self) -> bool:
        return QtCore.QFile.exists(self.path)

    def open(self, _mode: Any) -> bool:
        return True


class _FileDialog:
    """The static functions of QFileDialog: the answer is what the test announced with `expect_dialog`."""

    def __init__(self, answer: Callable[[str, str], Any]) -> None:
        self._answer = answer

    def getOpenFileName(self, parent: Any, caption: str, folder: str, name_filter: str) -> str:
        if parent is not None or not all(isinstance(text, str) for text in (caption, folder, name_filter)):
            raise HostRefusal("getOpenFileName(None, caption, folder, filter): the host knows this form only")
        return str(self._answer("QFileDialog.getOpenFileName", caption))


class _UiLoader:
    def load(self, file: _File) -> Proxy:
        return ui_loader.load(file.path)


def make_qt(answer: Callable[[str, str], Any]) -> types.ModuleType:
    """answer: called with a dialog's function and its caption; gives what the person would choose."""
    module = _StrictModule("qt")
    module.QTimer = _timer
    module.QIcon = _icon
    module.QFile = _File
    module.QUiLoader = _UiLoader
    module.QFileDialog = _FileDialog(answer)
    return module


def make_ctk() -> types.ModuleType:
    return _StrictModule("ctk")
