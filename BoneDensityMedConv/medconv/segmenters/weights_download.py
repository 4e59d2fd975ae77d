"""TotalSegmentator's own download of its weights, with progress, a time limit on silence, and reasons for failures."""

from __future__ import annotations

import contextlib
import functools
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from medconv.packages import how_to_install
from medconv.segmenters.package_changes import environment, replaced
from medconv.types import MissingRequirement

CONNECT_S, SILENCE_S = 15, 60


def download(task_id: int, address: str, place: Path, tell: Callable[[float], None]) -> None:
    """Let the package fetch and unpack a network's weights into `place` (an empty folder, not the usual one).

    tell: called with the fraction done, 0 to 1; it may raise Cancelled.
    Raises MissingRequirement if the package is not installed or the file can't be fetched.
    """
    import requests

    libs = _package()
    try:
        with _fetching_into(libs, place, tell), contextlib.redirect_stdout(sys.stderr):
            libs.download_pretrained_weights(task_id)
    except (requests.RequestException, zipfile.BadZipFile) as error:
        raise _not_fetched(address, error) from error


def _package() -> ModuleType:
    try:
        from totalsegmentator import libs
    except ImportError as error:
        raise MissingRequirement(
            "totalsegmentator_missing",
            "The package TotalSegmentator is not installed.",
            how_to_install("segment"),
            str(error),
        ) from error
    return libs


@contextlib.contextmanager
def _fetching_into(libs: ModuleType, place: Path, tell: Callable[[float], None]) -> Iterator[None]:
    """The package writes to TOTALSEG_WEIGHTS_PATH, tells progress through tqdm, and would wait for ever."""
    import requests

    class Bar:
        def __init__(self, total: int = 0, **_: Any) -> None:
            self._total, self._done = total, 0

        def update(self, count: int) -> None:
            self._done += count
            # The last percent is for unpacking; without a stated size there is nothing to tell.
            tell(0.99 * min(self._done / self._total, 1.0) if self._total else 0.0)

        def close(self) -> None:
            pass

    get = functools.partial(requests.get, timeout=(CONNECT_S, SILENCE_S))
    with (
        environment(TOTALSEG_WEIGHTS_PATH=str(place)),
        replaced(libs, tqdm=Bar, requests=SimpleNamespace(get=get)),
    ):
        yield


def _not_fetched(address: str, error: Exception) -> MissingRequirement:
    reason = str(error).split("(Caused by")[-1].strip(" )") or type(error).__name__
    return MissingRequirement(
        "segmenter_weights_not_fetched",
        f"TotalSegmentator's weights could not be fetched from github.com ({type(error).__name__}: {reason[:200]}).",
        f"Try again, set HTTPS_PROXY if your network needs a proxy, or get {address} on another computer and import "
        "the file.",
    )
