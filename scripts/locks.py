"""The lock files: every package of a set with its exact version, so that pip never has to choose."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path

LINE = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(\s*;\s*sys_platform\s*==\s*\"(?P<platform>\w+)\")?$"
)


def normalized(name: str) -> str:
    """A package name as it is compared: `PySide6_Essentials` → `pyside6-essentials`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(lock: Path, platform: str = sys.platform) -> dict[str, str]:
    """Normalized name → version, for this platform.

    Raises ValueError for a line that is not `name==version`, with at most a `sys_platform` marker.
    """
    pins = {}
    for number, raw in enumerate(lock.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        match = LINE.match(line)
        if not match:
            raise ValueError(f"{lock.name}, line {number}: expected name==version, got {line!r}")
        if match["platform"] in (None, platform):
            pins[normalized(match["name"])] = match["version"]
    return pins


def read_own_version(folder: Path) -> str:
    """The version of a package of the project's own.

    Raises OSError or ValueError if its pyproject.toml can't be read.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    try:
        return str(project["project"]["version"])
    except KeyError as error:
        raise ValueError(f"{folder.name}/pyproject.toml has no {error}") from error


def digest(*files: Path) -> str:
    """A hash that changes when any of the files does (line ends do not count)."""
    result = hashlib.sha256()
    for file in files:
        result.update(file.name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return result.hexdigest()
