"""This user's folder for what can be fetched, measured or computed again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """This user's folder for what can be fetched or computed again; MEDCONV_CACHE overrides it."""
    if environment.get("MEDCONV_CACHE"):
        return Path(environment["MEDCONV_CACHE"])
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"]) / "medconv" / "Cache"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "medconv"
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "medconv"
