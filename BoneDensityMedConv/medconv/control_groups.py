"""What of this computer a container (Docker, Kubernetes) or a cluster's job (SLURM) leaves to this process.

Each is a control group, Linux's: cgroups(7), and the kernel's cgroup-v1 and cgroup-v2 documents for the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
UNKNOWN = float("inf")


def cores(root: Path = ROOT) -> int:
    """Processors that this process may use; of a container's share of time the whole ones, at least one."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group in groups("cpu", root):
        if (group / "cpu.max").exists():
            quota, period = number(group / "cpu.max"), number(group / "cpu.max", 1)
        else:
            quota, period = number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us")
        if 0 < quota < UNKNOWN and 0 < period < UNKNOWN:  # -1 is no limit in version 1
            count = min(count, int(quota / period))
    return max(count, 1)


def groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control group and of all above it, of either version."""
    for line in lines(root / "proc/self/cgroup"):  # 4:memory:/job or, of version 2, 0::/job
        hierarchy, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        version_2 = hierarchy == "0" and not controllers
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
    for line in lines(root / "proc/self/mountinfo"):
        fields, _, behind = line.partition(" - ")
        kind, _, options = behind.partition(" ")
        has_it = kind == "cgroup" and controller in options.split(" ")[-1].split(",")
        if kind == "cgroup2" if version_2 else has_it:
            shown, place = fields.split(" ")[3:5]
            yield shown, root / place.lstrip("/")


def number(file: Path, place: int = 0) -> float:
    """A number in a file; infinite for "max" and where there is none."""
    try:
        return float(file.read_text("ascii").split()[place])
    except (OSError, ValueError, IndexError):
        return UNKNOWN


def lines(file: Path) -> list[str]:
    """A file's lines; none where there is no file."""
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
