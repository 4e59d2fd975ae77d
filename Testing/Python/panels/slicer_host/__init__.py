"""Slicer's window side on PySide6, without Slicer: stricter than PythonQt, judged by real interfaces (data/)."""

from __future__ import annotations

import ctypes
import sys

# PySide 6.12 returns None and True without taking a reference to them, which is right only since Python 3.12 made
# them immortal; before, enough calls end the interpreter ("deallocating None"). So they are made immortal here.
if sys.version_info < (3, 12):
    for _constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_constant)).value += 1 << 40
