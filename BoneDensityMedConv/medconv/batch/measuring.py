"""The memory of this process, and of this computer (Linux; elsewhere nothing is known and nothing is limited)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def restart_peak() -> None:
    """From now on, `memory_mb` tells the peak since now (proc(5): 5 resets the high-water mark)."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", "ascii")


def memory_mb() -> dict[str, float]:
    """{"peak_mb", "resident_mb"} of this process; {} where it can't be told."""
    return process_memory_mb(STATUS)


def process_memory_mb(status: Path) -> dict[str, float]:
    """The same from any process's /proc/PID/status."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text("ascii", "replace").splitlines() if ":" in line)
        pairs = (("peak_mb", "VmHWM"), ("resident_mb", "VmRSS"))
        return {name: int(lines[key].split()[0]) * 1024 / 1e6 for name, key in pairs}
    except (OSError, KeyError, ValueError, IndexError):
        return {}


def free_mb() -> float:
    """Memory that programs can have without swapping, within a container's limit; infinite where it can't be told."""
    free = float("inf")
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024 / 1e6
    for limit in CGROUP_LIMITS:
        used = limit.with_name("memory.current" if limit.name == "memory.max" else "memory.usage_in_bytes")
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            free = min(free, (int(limit.read_text()) - int(used.read_text())) / 1e6)
    return free


def cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
