"""All that a process started, on Linux and macOS: found although a child has left its group, and ended without a gap.

A process can leave the group that `os.killpg` ends (its own session), and when its parent dies nothing links it to
where it came from. So members are known by descent, group and session, and on Linux by their environment as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
FOLDER_VARIABLE = "MEDCONV_WORKER_FOLDER"  # tells a process which private folder is its own; its children inherit it


class _Entry(NamedTuple):
    parent: int
    group: int
    session: int
    is_ours: bool


def kill(root: int, folder: Path | None, within_s: float) -> None:
    """End process `root`, its descendants, and whoever has `folder` in FOLDER_VARIABLE; wait until they are gone.

    All are stopped before the first is killed, so that none can start another meanwhile. Gives up after `within_s`.
    """
    until = time.monotonic() + within_s
    stopped: set[int] = set()
    while (new := members(root, folder) - stopped) and time.monotonic() < until:
        _signal_all(new, signal.SIGSTOP)
        stopped |= new
    _signal_all(stopped, signal.SIGKILL)
    # The group outlives its first process as long as a child is left. Also what is left where nothing can be listed.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root, signal.SIGKILL)
    while (left := members(root, folder)) and time.monotonic() < until:
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.01)


def members(root: int, folder: Path | None) -> set[int]:
    """The process ids of the tree that still run; zombies and this one don't count."""
    # Never an empty text, which every environment holds.
    mark = os.fsencode(f"{FOLDER_VARIABLE}={folder}\0") if folder is not None else None
    table = _from_proc(mark) if (PROC / "self" / "stat").is_file() else _from_ps()
    found = {pid for pid, entry in table.items() if root in (pid, entry.group, entry.session) or entry.is_ours}
    while more := {pid for pid, entry in table.items() if entry.parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _signal_all(process_ids: set[int], number: int) -> None:
    for process_id in process_ids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process_id, number)


def _from_proc(mark: bytes | None) -> dict[int, _Entry]:
    table = {}
    for place in PROC.iterdir():
        if not place.name.isdigit():
            continue
        try:
            # The name, in parentheses, may hold anything; behind it comes proc(5)'s field 3.
            fields = (place / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has just ended
            continue
        state, parent, group, session, threads = *fields[:4], int(fields[17])
        # A zombie with several threads has some that have yet to end, and may still be writing.
        if state == b"X" or (state == b"Z" and threads <= 1):
            continue
        environment = b""
        with contextlib.suppress(OSError):  # another user's
            environment = (place / "environ").read_bytes()
        table[int(place.name)] = _Entry(int(parent), int(group), int(session), mark is not None and mark in environment)
    return table


def _from_ps() -> dict[int, _Entry]:
    command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=1.0, check=False)
    except (OSError, subprocess.SubprocessError):
        return {}
    table = {}
    for line in answer.stdout.splitlines():
        pid, parent, group, state = line.split()[:4]
        if not state.startswith("Z"):
            table[int(pid)] = _Entry(int(parent), int(group), int(group), False)
    return table
