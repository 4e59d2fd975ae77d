"""Every folder below one, each once: links are followed, loops of links are not, what can't be read is told."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FileFacts:
    """Name, size in bytes, and time of the last change in ns. `is_plain` is False for links to nothing and pipes."""

    name: str
    size: int
    changed_ns: int
    is_plain: bool = True


@dataclass
class FolderWalk:
    """Goes through `root`, but not into `leave_out` (real paths).

    `unreadable` and `empty`, a count, fill as it goes.
    """

    root: Path
    leave_out: Collection[str] = ()
    unreadable: list[str] = field(default_factory=list)
    empty: int = 0

    def __iter__(self) -> Iterator[tuple[Path, list[FileFacts]]]:
        """Folders in the order of their names, each with its files; hidden ones are not shown."""
        seen: set[tuple[int, int] | str] = set()
        waiting = [str(self.root)]
        while waiting:
            folder = waiting.pop()
            if os.path.realpath(folder) in self.leave_out or (identity := _identity(folder)) in seen:
                continue
            seen.add(identity)
            try:
                with os.scandir(folder) as entries:
                    found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
                folders = [entry.path for entry in found if _is_folder(entry)]
            except OSError:
                self.unreadable.append(folder)
                continue
            waiting += reversed(folders)
            self.empty += not found
            inside = set(folders)
            yield Path(folder), [facts_of(entry) for entry in found if entry.path not in inside]


def fingerprint(paths: Iterable[Path]) -> str:
    """Sixteen digits that change with the size or time of any of the files; of a folder, of all that are in it."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            for folder, files in FolderWalk(path):
                digest.update(stamp_of(files, str(folder)).encode("ascii"))
        else:
            digest.update(stamp_of([facts_of(path)], str(path)).encode("ascii"))
    return digest.hexdigest()[:16]


def stamp_of(files: Iterable[FileFacts], name: str = "") -> str:
    """SHA-256 of names, sizes and times."""
    text = "\n".join([name, *(f"{f.name}\0{f.size}\0{f.changed_ns}" for f in files)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def facts_of(path: Path | os.DirEntry[str]) -> FileFacts:
    """Of one file, wherever it is listed; of a missing one, that it is missing."""
    try:
        told = path.stat()
    except OSError:
        return FileFacts(path.name, -1, -1, is_plain=False)
    return FileFacts(path.name, told.st_size, told.st_mtime_ns, stat.S_ISREG(told.st_mode))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: str) -> tuple[int, int] | str:
    """What tells a folder from another, by whatever way it was reached."""
    try:
        told = Path(folder).stat()
    except OSError:
        return folder
    return (told.st_dev, told.st_ino) if told.st_ino else os.path.realpath(folder)
