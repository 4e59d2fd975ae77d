"""What the real widgets offer, read from data/slicer_api.json, and the errors for whatever they don't."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "data" / "slicer_api.json"


NOT_WIDGETS = {"qt.QTimer", "slicer.app", "slicer.app.layoutManager()"}
QOBJECT_NAMES = {
    "blockSignals", "children", "className", "connect", "delete", "deleteLater", "destroyed", "disconnect",
    "dynamicPropertyNames", "event", "findChild", "findChildren", "inherits", "metaObject", "objectName", "parent",
    "property", "setParent", "setProperty", "signalsBlocked",
}  # fmt: skip


class HostRefusal(AssertionError):
    """The code does something that real Slicer would not take, or would take silently and wrongly."""


class UnknownName(HostRefusal, AttributeError):
    """No such attribute on the real class."""


class UnknownSignal(HostRefusal):
    """connect() would only return False in Slicer."""


class WrongType(HostRefusal, TypeError):
    """The real property or slot takes another type."""


@cache
def _data() -> dict[str, Any]:
    return json.loads(DATA.read_text(encoding="utf-8"))


def slicer_version() -> str:
    return _data()["slicer_version"]


def python_names(module: str) -> set[str]:
    """Public names of a Python module of Slicer."""
    return set(_data()["python"][module])


def python_signature(module: str, name: str) -> Any:
    """Signature of a function, or the methods of a class, as Slicer's `inspect` printed it."""
    return _data()["python"][module][name]


def layout_names() -> set[str]:
    return set(_data()["layouts"])


def _qobject_part(qwidget: dict[str, Any]) -> dict[str, Any]:
    """Of QWidget's list, what every QObject has."""
    return {
        "properties": {"objectName": qwidget["properties"]["objectName"]},
        "python_names": [name for name in qwidget["python_names"] if name in QOBJECT_NAMES],
        "signals": [s for s in qwidget["signals"] if s.startswith(("destroyed", "objectNameChanged"))],
        "slots": ["deleteLater()"],
    }


class Interface:
    """Properties, names, signals and slots of one real class, with those it has from QWidget."""

    def __init__(self, name: str) -> None:
        classes = _data()["classes"]
        if name not in classes:
            raise HostRefusal(f"{name} is not among the real classes in {DATA.name}")
        self.name = name
        base, own = classes["qt.QWidget"], classes[name]
        if name in NOT_WIDGETS:
            base = _qobject_part(base)
        self.properties: dict[str, Any] = {**base["properties"], **own["properties"]}
        self.names: set[str] = {*base["python_names"], *own["python_names"]}
        self.signals: set[str] = {*base["signals"], *own["signals"]}
        self.slots: dict[str, list[str]] = {}
        for slot in (*base["slots"], *own["slots"]):
            self.slots.setdefault(slot.partition("(")[0], []).append(slot.partition("(")[2].rstrip(")"))

    def check_name(self, name: str) -> None:
        if name not in self.names and name not in self.properties:
            raise UnknownName(f"{self.name} has no attribute '{name}' in Slicer {slicer_version()}")

    def check_signal(self, signature: str) -> None:
        if signature not in self.signals:
            alike = sorted(s for s in self.signals if s.partition("(")[0] == signature.partition("(")[0])
            raise UnknownSignal(f"{self.name} has no signal '{signature}'" + (f"; it has {alike}" if alike else ""))

    def property_type(self, name: str, *, writing: bool) -> str:
        if name not in self.properties:
            raise UnknownName(f"{self.name} has no property '{name}' that could be set")
        if writing and not self.properties[name]["writable"]:
            raise UnknownName(f"{self.name}.{name} can only be read")
        return str(self.properties[name]["type"])


@cache
def interface(name: str) -> Interface:
    """Of a class by its full name ("ctk.ctkSliderWidget")."""
    return Interface(name)


@cache
def interface_of_ui_class(class_name: str) -> Interface:
    """Of a class as a .ui file names it ("ctkSliderWidget")."""
    for module in ("qt", "ctk", "slicer"):
        if f"{module}.{class_name}" in _data()["classes"]:
            return interface(f"{module}.{class_name}")
    raise HostRefusal(f"'{class_name}' is not among the real classes in {DATA.name}")
