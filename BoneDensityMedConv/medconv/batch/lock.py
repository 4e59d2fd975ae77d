"""One batch at a time in a folder. A killed process leaves no lock behind: the system lets go of it.

The lock is the operating system's own, on a file in the folder. Some network drives do not tell other computers of
it; therefore the file also says who works here, and a thread touches it for as long as the lock is held, whatever the
batch is doing: a listing or a table may take longer than another computer waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import threading
import time
import uuid
from pathlib import Path

from medconv.types import UsageError

LOCK_FILE = "batch.lock"
TOUCH_EVERY_S, ALIVE_WITHIN_S = 10.0, 60.0


class FolderLock:
    """Held from `__init__` until `release`. Raises UsageError if another batch works in the folder."""

    def __init__(self, folder: Path, touch_every_s: float = TOUCH_EVERY_S) -> None:
        self._path, self._touch_every_s = folder / LOCK_FILE, touch_every_s
        # The number tells this batch from another process of the same id, in another container or after a restart.
        self._owner = {"host": platform.node(), "process": os.getpid(), "number": uuid.uuid4().hex}
        self._lost: UsageError | None = None
        self._guard, self._released = threading.Lock(), threading.Event()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        self._touched = time.time()
        self._thread = threading.Thread(target=self._keep, name="medconv-batch-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise UsageError if the folder has become another batch's. Call it before anything is written there."""
        # A process that was stopped for a while (a virtual machine, SIGSTOP) looks before it goes on.
        if time.time() - self._touched > 2 * self._touch_every_s:
            self._touch()
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Safe to call more than once."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join(self._touch_every_s)  # a drive that does not answer keeps nobody
        if self._lost is None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)

    def _keep(self) -> None:
        while self._lost is None and not self._released.wait(self._touch_every_s):
            self._touch()

    def _touch(self) -> None:
        """See whether the file is still ours, and tell other computers by its time that the work goes on."""
        with self._guard:
            try:
                owner = _read_owner(self._path)
                if owner == self._owner:
                    os.utime(self._path)
                    self._touched = time.time()
                else:
                    self._lost = _taken_over(owner)
            except FileNotFoundError:
                self._lost = _taken_over({})
            except OSError:  # a drive that is away for a moment: the next touch sees
                pass

    def _take(self) -> None:
        try:
            owner = _read_owner(self._path)
        except OSError:
            owner = {}
        if not _system_lock(self._file):
            raise _running(owner)
        elsewhere = owner.get("host") not in (None, platform.node())
        if elsewhere and time.time() - os.fstat(self._file).st_mtime < ALIVE_WITHIN_S:
            raise _running(owner)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, json.dumps(self._owner).encode("ascii"))


def _read_owner(path: Path) -> dict[str, object]:
    """Who works here or did last; {} if that is not told. Raises OSError."""
    try:
        told = json.loads(path.read_bytes())
    except ValueError:
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
    return UsageError(
        "batch_is_running",
        f"Another batch is working in this folder{_who(owner)}.",
        "Wait for it, end it, or choose another --out.",
    )


def _taken_over(owner: dict[str, object]) -> UsageError:
    if not owner:
        message = f"The file {LOCK_FILE} of this batch was removed or overwritten: another batch may be in its folder."
    else:
        message = f"Another batch has taken over this folder{_who(owner)}; it had not heard of this one for a while."
    remedy = "What was answered is kept. Let the other batch finish, or end it; the same command then goes on."
    return UsageError("batch_taken_over", message, remedy)


def _who(owner: dict[str, object]) -> str:
    return f" (process {owner['process']} on {owner['host']})" if {"process", "host"} <= set(owner) else ""
