"""The memory of this process, and what this computer, container or batch job leaves for others.

Linux; elsewhere nothing is known of memory and nothing is limited. A container (Docker, Kubernetes) or a job (SLURM) is
a control group, whose limits /proc/meminfo does not tell: cgroups(7), and the kernel's cgroup-v1/memory and cgroup-v2
documents for the files.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from medconv.control_groups import ROOT, UNKNOWN, groups, lines, number
from medconv.control_groups import cores as cores

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    for group in groups("memory", root):
        if (group / "memory.max").exists() or (group / "memory.current").exists():
            limit = min(number(group / "memory.max"), number(group / "memory.high"))  # above "high" it is slowed down
            used, prefix, mapped = number(group / "memory.current"), "", "file_mapped"
        else:
            limit, used = number(group / "memory.limit_in_bytes"), number(group / "memory.usage_in_bytes")
            prefix, mapped = "total_", "mapped_file"  # with those of the groups below
        if limit < UNKNOWN and used < UNKNOWN:
            told.append(limit - used + _reclaimable(group / "memory.stat", prefix, mapped))
    return max(min(told), 0.0) / 1e6


def killed_for_memory(root: Path = ROOT) -> float:
    """So many processes the kernel has killed for their memory since it started, in any container; 0 if untold."""
    return _counts(root / "proc/vmstat", "oom_kill").get("oom_kill", 0.0)


def _reclaimable(stat: Path, prefix: str, mapped: str) -> float:
    """Bytes of read files that the kernel gives up when memory is wanted; not those of programs that run."""
    names = [prefix + name for name in ("inactive_file", "active_file", mapped)]
    counts = _counts(stat, *names)
    inactive, active, running = (counts.get(name, 0.0) for name in names)
    return max(inactive + active - running, 0.0)


def _counts(file: Path, *names: str) -> dict[str, float]:
    """Of lines `name number …`, those with these names."""
    words = [line.split() for line in lines(file)]
    return {found[0]: float(found[1]) for found in words if len(found) > 1 and found[0] in names}
