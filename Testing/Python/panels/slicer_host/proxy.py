"""A widget as Python code in Slicer sees it: every access is judged by the real class's interface.

What PythonQt takes silently (an unknown signal, an exception in a slot) is an error here. What exists in Qt 5 but no
longer in Qt 6 is an error too, because PySide6 underneath is Qt 6.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from panels.slicer_host.interface import HostRefusal, Interface, UnknownName, UnknownSignal, WrongType
from PySide6 import QtCore, QtWidgets


class SlotErrors:
    """Exceptions from slots, kept until control is back in the test's own call, and raised there."""

    def __init__(self) -> None:
        self._errors: list[BaseException] = []
        self._depth = 0

    def run_slot(self, slot: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            slot(*arguments)
        except BaseException as error:  # noqa: BLE001  PySide would print and forget it
            self._errors.append(error)

    def outermost(self, call: Callable[[], Any]) -> Any:
        """Do `call`; once no other such call is under way, raise the first error that a slot left behind."""
        self._depth += 1
        try:
            result = call()
        finally:
            self._depth -= 1
        if self._depth == 0:
            self.raise_first()
        return result

    def raise_first(self) -> None:
        errors, self._errors = self._errors, []
        if errors:
            raise errors[0]


slot_errors = SlotErrors()
# Tests of the panel's own check of connect()'s answer set this to get PythonQt's silent False.
permissive_connect = False
_proxies: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # by id of the wrapped object

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "QString": (str,),
    "bool": (bool,),
    "int": (int,),
    "double": (int, float),
    "QStringList": (list, tuple),
}


def check_type(expected: str, value: Any, where: str) -> None:
    """Raise WrongType unless PythonQt would convert `value` to the C++ type `expected`."""
    if expected in ("QVariant", "QIcon", "QFont", "vtkMRMLNode*", "vtkMRMLScene*"):
        return
    kinds = _PYTHON_TYPES.get(expected)
    if kinds is None:
        raise HostRefusal(f"{where} takes {expected}: the host does not know that type; keep to plain types")
    is_bool_for_number = isinstance(value, bool) and expected in ("int", "double")
    if not isinstance(value, kinds) or is_bool_for_number:
        raise WrongType(f"{where} takes {expected}, not {type(value).__name__} ({value!r})")


class Proxy:
    """Wraps one PySide object; made by `wrap`, which gives the same proxy for the same object."""

    __slots__ = ("__weakref__", "_interface", "_object")

    def __init__(self, wrapped: QtCore.QObject, interface: Interface) -> None:
        object.__setattr__(self, "_object", wrapped)
        object.__setattr__(self, "_interface", interface)

    def __getattr__(self, name: str) -> Any:
        interface, wrapped = self._interface, self._object
        interface.check_name(name)
        if name in interface.properties:
            if wrapped.metaObject().indexOfProperty(name) < 0:
                raise UnknownName(f"{interface.name}.{name} exists in Qt 5 only")
            return wrapped.property(name)
        if name == "connect":
            return self._connect
        if any(signature.partition("(")[0] == name for signature in interface.signals):
            raise UnknownSignal(f"{interface.name}.{name} is a signal: use connect('{name}(…)', slot)")
        if not hasattr(wrapped, name):
            raise UnknownName(f"{interface.name}.{name} is not there in Qt 6 or not emulated by the host")
        return self._method(name)

    def __setattr__(self, name: str, value: Any) -> None:
        where = f"{self._interface.name}.{name}"
        check_type(self._interface.property_type(name, writing=True), value, where)
        target = _unwrap(value)
        if not slot_errors.outermost(lambda: self._object.setProperty(name, target)):
            raise WrongType(f"{where} did not take {value!r}")

    def __call__(self, *_arguments: Any, **_keywords: Any) -> Any:
        raise TypeError(f"'{self._interface.name}' object is not callable")

    def _method(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._check_arguments(name, arguments)
            method = getattr(self._object, name)
            return wrap(slot_errors.outermost(lambda: method(*[_unwrap(a) for a in arguments])))

        return call

    def _check_arguments(self, name: str, arguments: tuple[Any, ...]) -> None:
        overloads = self._interface.slots.get(name)
        if overloads is None:
            return
        refusals: list[str] = []
        for overload in overloads:
            types = [t for t in overload.split(",") if t]
            if len(types) != len(arguments):
                refusals.append(f"{name}({overload})")
                continue
            try:
                for expected, value in zip(types, arguments, strict=True):
                    check_type(expected, value, f"{self._interface.name}.{name}")
            except HostRefusal as refusal:
                refusals.append(str(refusal))
            else:
                return
        raise WrongType(f"{self._interface.name}.{name}{arguments!r}: no matching overload; {'; '.join(refusals)}")

    def _connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        if not callable(slot):
            raise WrongType(f"connect('{signature}', …) needs something callable, not {slot!r}")
        try:
            self._interface.check_signal(signature)
            signal = _signal(self._object, signature, self._interface.name)
        except UnknownSignal:
            if permissive_connect:
                return False
            raise
        count = len([t for t in signature.partition("(")[2].rstrip(")").split(",") if t])
        signal.connect(lambda *values: slot_errors.run_slot(slot, tuple(wrap(v) for v in values[:count])))
        return True


def _signal(wrapped: QtCore.QObject, signature: str, name: str) -> Any:
    """The PySide signal of that C++ signature; emulated widgets name theirs in HOST_SIGNALS."""
    emulated = getattr(wrapped, "HOST_SIGNALS", {})
    if signature in emulated:
        return getattr(wrapped, emulated[signature])
    if wrapped.metaObject().indexOfSignal(signature) < 0:
        raise UnknownSignal(f"{name} has '{signature}' in Qt 5, but not in Qt 6 (or the host does not emulate it)")
    signal_name, _, types = signature.rstrip(")").partition("(")
    signal = getattr(wrapped, signal_name)
    return signal if not types else signal[{"int": int, "bool": bool, "QString": str, "double": float}[types]]


def _unwrap(value: Any) -> Any:
    return value._object if isinstance(value, Proxy) else value


def interface_name(wrapped: QtCore.QObject) -> str:
    """The real class that a PySide object stands for."""
    emulated = getattr(wrapped, "HOST_INTERFACE", None)
    return emulated or f"qt.{wrapped.metaObject().className()}"


def wrap(value: Any) -> Any:
    """A proxy for a QObject of a known class; anything else as it is."""
    from panels.slicer_host.interface import interface

    if not isinstance(value, QtWidgets.QWidget | QtCore.QTimer):
        return value
    proxy = _proxies.get(id(value))
    if proxy is None:
        proxy = _proxies[id(value)] = Proxy(value, interface(interface_name(value)))
    return proxy
