"""The memory of this process, and what this computer, container or batch job leaves for others.

Linux; elsewhere nothing is known of memory and nothing is limited. A container (Docker, Kubernetes) or a job (SLURM) is
a control group, whose limits /proc/meminfo does not tell: cgroups(7), and the kernel's cgroup-v1/memory and cgroup-v2
documents for the files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROOT = Path("/")
UNKNOWN = float("inf")


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


def free_mb(root: Path = ROOT) -> float:
    """Memory that programs can have without swapping, within a container's limit; infinite where it can't be told."""
    told = [_counts(root / "proc/meminfo", "MemAvailable:").get("MemAvailable:", UNKNOWN) * 1024]
    for group in _groups("memory", root):
        if (group / "memory.max").exists() or (group / "memory.current").exists():
            limit = min(_number(group / "memory.max"), _number(group / "memory.high"))  # above "high" it is slowed down
            used, prefix, mapped = _number(group / "memory.current"), "", "file_mapped"
        else:
            limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
            prefix, mapped = "total_", "mapped_file"  # with those of the groups below
        if limit < UNKNOWN and used < UNKNOWN:
            told.append(limit - used + _reclaimable(group / "memory.stat", prefix, mapped))
    return max(min(told), 0.0) / 1e6


def cores(root: Path = ROOT) -> int:
    """Processors that this process may use; of a container's share of time the whole ones, at least one."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group in _groups("cpu", root):
        if (group / "cpu.max").exists():
            quota, period = _number(group / "cpu.max"), _number(group / "cpu.max", 1)
        else:
            quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if 0 < quota < UNKNOWN and 0 < period < UNKNOWN:  # -1 is no limit in version 1
            count = min(count, int(quota / period))
    return max(count, 1)


def killed_for_memory(root: Path = ROOT) -> float:
    """So many processes the kernel has killed for their memory since it started, in any container; 0 if untold."""
    return _counts(root / "proc/vmstat", "oom_kill").get("oom_kill", 0.0)


def _reclaimable(stat: Path, prefix: str, mapped: str) -> float:
    """Bytes of read files that the kernel gives up when memory is wanted; not those of programs that run."""
    names = [prefix + name for name in ("inactive_file", "active_file", mapped)]
    counts = _counts(stat, *names)
    inactive, active, running = (counts.get(name, 0.0) for name in names)
    return max(inactive + active - running, 0.0)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control group and of all above it, of either version."""
    for line in _lines(root / "proc/self/cgroup"):  # 4:memory:/job or, of version 2, 0::/job
        number, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        version_2 = number == "0" and not controllers
        if not version_2 and controller not in controllers.split(","):
            continue
        for shown, place in _mounts(controller, version_2, root):
            # A container may see its own group as the root of what is mounted, whatever it is called outside.
            inside = own == shown or own.startswith(shown.rstrip("/") + "/")
            folder = place / own.removeprefix(shown).strip("/") if inside and ".." not in own else place
            yield folder
            while folder != place:
                folder = folder.parent
                yield folder


def _mounts(controller: str, version_2: bool, root: Path) -> Iterator[tuple[str, Path]]:
    """(group that is its root, folder) of each mounted hierarchy of control groups with this controller."""
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, behind = line.partition(" - ")
        kind, _, options = behind.partition(" ")
        has_it = kind == "cgroup" and controller in options.split(" ")[-1].split(",")
        if kind == "cgroup2" if version_2 else has_it:
            shown, place = fields.split(" ")[3:5]
            yield shown, root / place.lstrip("/")


def _counts(file: Path, *names: str) -> dict[str, float]:
    """Of lines `name number …`, those with these names."""
    words = [line.split() for line in _lines(file)]
    return {found[0]: float(found[1]) for found in words if len(found) > 1 and found[0] in names}


def _number(file: Path, place: int = 0) -> float:
    """A number in a file; infinite for "max" and where there is none."""
    try:
        return float(file.read_text("ascii").split()[place])
    except (OSError, ValueError, IndexError):
        return UNKNOWN


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
