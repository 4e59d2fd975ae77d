# mypy: disable-error-code="attr-defined"
"""Loads a .ui file: every class, property, signal and slot in it is checked against the real interfaces first.

Real Slicer's loader skips what it does not know; here that is an error. Connections between MRML widgets, whose
signals carry VTK pointers, are made by the host itself.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from panels.slicer_host.ctk_widgets import CtkCollapsibleButton, CtkDirectoryButton, CtkSliderWidget
from panels.slicer_host.interface import HostRefusal, WrongType, interface_of_ui_class
from panels.slicer_host.mrml_widgets import QMRMLNodeComboBox, QMRMLWidget
from panels.slicer_host.proxy import Proxy, check_type, wrap
from panels.slicer_host.segment_selector import QMRMLSegmentSelectorWidget
from PySide6 import QtCore, QtUiTools, QtWidgets

EMULATED = {
    "ctkCollapsibleButton": CtkCollapsibleButton,
    "ctkDirectoryButton": CtkDirectoryButton,
    "ctkSliderWidget": CtkSliderWidget,
    "qMRMLNodeComboBox": QMRMLNodeComboBox,
    "qMRMLSegmentSelectorWidget": QMRMLSegmentSelectorWidget,
    "qMRMLWidget": QMRMLWidget,
}
# What a .ui file writes as XML element for a property of the C++ type.
_ELEMENTS = {
    "QString": {"string"}, "bool": {"bool"}, "int": {"number"}, "double": {"double"}, "QStringList": {"stringlist"},
    "QRect": {"rect"}, "QSize": {"size"}, "QFont": {"font"}, "QIcon": {"iconset"}, "QSizePolicy": {"sizepolicy"},
}  # fmt: skip


def load(path: str) -> Proxy:
    """The top widget of the .ui file at `path`, wrapped. Raises HostRefusal for whatever Slicer would skip."""
    tree = ElementTree.parse(path)
    promoted = {entry.findtext("class") for entry in tree.iterfind("customwidgets/customwidget")}
    later = [_check_widget(element, promoted) for element in tree.iter("widget")]
    connections = tree.find("connections")
    to_connect = list(connections) if connections is not None else []
    if connections is not None:
        tree.getroot().remove(connections)
    text = io.BytesIO()
    tree.write(text)
    loader = _Loader()
    buffer = QtCore.QBuffer()
    buffer.setData(text.getvalue())
    top = loader.load(buffer)
    if top is None:
        raise HostRefusal(f"{Path(path).name} can't be loaded: {loader.errorString()}")
    by_name = {widget.objectName(): widget for widget in [top, *top.findChildren(QtWidgets.QWidget)]}
    for name, properties in later:
        for key, value in properties.items():
            setattr(wrap(by_name[name]), key, value)
    _check_tab_stops(tree, by_name)
    for connection in to_connect:
        _connect(connection, by_name)
    return wrap(top)


def _check_widget(element: Any, promoted: set[Any]) -> tuple[str, dict[str, Any]]:
    """Check one widget; take the properties of an emulated class out, to be set by name once it exists."""
    class_name, name = element.get("class"), element.get("name")
    interface = interface_of_ui_class(class_name)
    if (class_name in EMULATED) != (class_name in promoted):
        raise HostRefusal(f"{class_name} must be listed under customwidgets if and only if it is not a class of Qt")
    taken: dict[str, Any] = {}
    for entry in element.findall("property"):
        key, value = entry.get("name"), entry[0]
        kind = interface.property_type(key, writing=True)
        allowed = _ELEMENTS.get(kind, {"enum", "set"})
        if value.tag not in allowed:
            raise WrongType(f"{name}.{key} is {kind}, but the .ui file gives a <{value.tag}>")
        if class_name in EMULATED and value.tag in ("bool", "number", "double", "string", "stringlist"):
            taken[key] = _plain(value)
            check_type(kind, taken[key], f"{name}.{key}")
            element.remove(entry)
    return name, taken


def _plain(value: Any) -> Any:
    text = value.text or ""
    if value.tag == "stringlist":
        return [entry.text or "" for entry in value]
    return {"bool": lambda: text == "true", "number": lambda: int(text), "double": lambda: float(text)}.get(
        value.tag, lambda: text
    )()


def _check_tab_stops(tree: Any, by_name: dict[str, Any]) -> None:
    unknown = [stop.text for stop in tree.iterfind("tabstops/tabstop") if stop.text not in by_name]
    if unknown:
        raise HostRefusal(f"tab stops that are no widgets: {unknown}")


def _connect(connection: Any, by_name: dict[str, Any]) -> None:
    sender, receiver = (by_name[connection.findtext(end)] for end in ("sender", "receiver"))
    signal, slot = connection.findtext("signal"), connection.findtext("slot")
    source, target = wrap(sender), wrap(receiver)
    name, _, types = slot.rstrip(")").partition("(")
    if types not in target._interface.slots.get(name, []):
        raise HostRefusal(f"{target._interface.name} has no slot '{slot}'")
    if signal.partition("(")[2] != slot.partition("(")[2]:
        raise HostRefusal(f"'{signal}' and '{slot}' do not carry the same arguments")
    source.connect(signal, getattr(receiver, name))


class _Loader(QtUiTools.QUiLoader):
    """Makes the host's own widgets for the classes that Slicer's plugins provide."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[QtWidgets.QWidget] = []  # PySide would drop the Python half of a widget that C++ holds alone

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name not in EMULATED:
            return super().createWidget(class_name, parent, name)
        widget = EMULATED[class_name](parent)
        widget.setObjectName(name)
        self.made.append(widget)
        return widget
