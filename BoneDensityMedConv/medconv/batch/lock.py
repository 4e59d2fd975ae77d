"""One batch at a time in a folder. A killed process leaves no lock behind: the system lets go of it.

The lock is the operating system's own, on a file in the folder. Some network drives do not tell other computers of
it; therefore the file also says who works here, and is touched while the work goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from medconv.types import UsageError

LOCK_FILE = "batch.lock"
TOUCH_EVERY_S, ALIVE_WITHIN_S = 10.0, 60.0


class FolderLock:
    """Held from `__init__` until `release`. Raises UsageError if another batch works in the folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._touched = time.monotonic()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise

    def touch(self) -> None:
        """Call it often: other computers see from the file's time that the work goes on."""
        if time.monotonic() - self._touched > TOUCH_EVERY_S:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
        os.close(self._file)

    def _take(self) -> None:
        owner = self._owner()
        if not _system_lock(self._file):
            raise _running(owner)
        elsewhere = owner.get("host") not in (None, platform.node())
        if elsewhere and time.time() - os.fstat(self._file).st_mtime < ALIVE_WITHIN_S:
            raise _running(owner)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, json.dumps({"host": platform.node(), "process": os.getpid()}).encode("ascii"))

    def _owner(self) -> dict[str, object]:
        """Who works here or did last; {} if that is not known."""
        try:
            told = json.loads(self._path.read_text("ascii"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}


def _system_lock(file: int) -> bool:
    """Take the system's lock on an open file; False if another process has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 30, os.SEEK_SET)  # far behind the text, which others may then read
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: what the file says must do
        return True
    return True


def _running(owner: dict[str, object]) -> UsageError:
    who = f" (process {owner['process']} on {owner['host']})" if {"process", "host"} <= set(owner) else ""
    return UsageError(
        "batch_is_running",
        f"Another batch is working in this folder{who}.",
        "Wait for it, end it, or choose another --out.",
    )
