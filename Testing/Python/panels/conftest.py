"""Fixtures of the panel tests. Qt draws into memory: no display is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from panels.slicer_host.host import SlicerHost

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture
def slicer_host() -> Iterator[SlicerHost]:
    """A strict emulation of Slicer's window side, taken down after the test."""
    from panels.slicer_host.host import SlicerHost

    host = SlicerHost()
    host.open()
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def module_file(repository: Any) -> Any:
    """The scripted module's file in the source checkout."""
    return repository / "BoneDensityMedConv" / "BoneDensityMedConv.py"
