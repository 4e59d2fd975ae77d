"""Fixtures of the fault tests: workers of the real kind, a private folder for temporary files, a CT."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core import fake_segmenter
from core.conftest import vertebra  # noqa: F401

from medconv.worker_client import WorkerClient


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files, to see what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def segmenting(temporary: Path) -> Iterator[Callable[..., WorkerClient]]:
    """Make a client of the real worker process whose segmenter behaves as told (see fake_segmenter)."""
    made = []

    def make(*behaviour: object) -> WorkerClient:
        made.append(WorkerClient([sys.executable, fake_segmenter.__file__, *map(str, behaviour)]))
        return made[-1]

    yield make
    for worker in made:
        worker.close()
