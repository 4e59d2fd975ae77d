"""What PythonQt keeps quiet about, said aloud: signals that do not exist, and errors inside slots."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import slicer

from medconv.types import MedConvError

NEXT_STEP_AFTER_A_FAULT = (
    "Nothing that was there before is lost: try again. If it happens again, please report it with the text under "
    "“Show Details” and the application's log (menu Help, Report a Bug)."
)


def connect(sender: Any, name: str, signal: str, slot: Callable[..., None]) -> None:
    """Connect `slot` to `signal` of the widget or timer called `name`.

    Raises RuntimeError where the signal does not exist: PythonQt would only return False, and the button stay dead.
    """
    if not sender.connect(signal, slot):
        raise RuntimeError(f"{name} has no signal {signal}")


def shows_errors(action: str) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Decorate a slot: what goes wrong in it is shown to the person and logged; `action` names what was tried.

    PythonQt prints an exception in a slot to the Python console and goes on. A slot takes no arguments: it asks the
    widgets, so that it does not matter how many arguments Qt 5, Qt 6 or PythonQt pass.
    """

    def decorate(method: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(method)
        def slot(self: Any, *_signal_arguments: Any) -> None:
            try:
                method(self)
            except MedConvError as error:
                logging.exception("%s: %s", action, error.code)
                slicer.util.errorDisplay(f"{action} is not possible.\n\n{error.message}\n\n{error.remedy}")
            except Exception as error:  # the last place where a person can still be told
                logging.exception(action)
                slicer.util.errorDisplay(
                    f"{action} failed: {error}\n\n{NEXT_STEP_AFTER_A_FAULT}", detailedText=_details(error)
                )

        return slot

    return decorate


def _details(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


@contextmanager
def quiet(*widgets: Any) -> Iterator[None]:
    """While the panel itself changes widgets, they do not report it as if the person had."""
    before = [widget.blockSignals(True) for widget in widgets]
    try:
        yield
    finally:
        for widget, blocked in zip(widgets, before, strict=True):
            widget.blockSignals(blocked)
