"""What to type where a package is missing: the same words in every message."""

from __future__ import annotations

import os
import sys


def how_to_install(extra: str = "", packages: str = "") -> str:
    """The remedy of a missing package.

    extra: the part of the project that brings it (`[project.optional-dependencies]` in pyproject.toml). packages: what
    pip takes where no part does.
    """
    if _is_slicers_python():
        return _in_slicer(extra, packages.replace('"', ""))
    wanted = packages or f'"bonedensity-medconv[{extra}]"'
    return f"In a checkout: {_setup()} (everything, into .venv). Elsewhere: pip install {wanted}"


def _in_slicer(extra: str, packages: str) -> str:
    if packages:
        typed = f"slicer.util.pip_install('{packages}')"
        return f"In Slicer: let the panel install it where it asks, or type {typed} in the Python console."
    if extra == "segment":
        return "In Slicer: let the panel install it."
    return f"Slicer's Python does not have it. Run medconv outside Slicer; in a checkout, {_setup()} brings everything."


def _setup() -> str:
    return "py run.py setup" if sys.platform == "win32" else "python3 run.py setup"


def _is_slicers_python() -> bool:
    """In Slicer and in its worker; an environment of one's own that was started from Slicer's console is none."""
    return "SLICER_HOME" in os.environ and sys.prefix == sys.base_prefix
