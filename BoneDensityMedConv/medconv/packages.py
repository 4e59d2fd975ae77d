"""What to type where a package is missing: the same words in every message."""

from __future__ import annotations

SETUP = "python3 run.py setup"


def how_to_install(extra: str = "", packages: str = "") -> str:
    """The remedy of a missing package.

    extra: the part of the project that brings it (`[project.optional-dependencies]` in pyproject.toml). packages: what
    pip takes where no part does.
    """
    wanted = packages or f'"bonedensity-medconv[{extra}]"'
    return f"In a checkout: {SETUP} (everything, into .venv). Elsewhere: pip install {wanted}"
