"""Peak resident memory of this process, of a stretch of its work, and what is free on the computer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): the peak becomes what is resident now


def peak_mb() -> float:
    """Largest resident memory of this process since it began, or since `forget_peak`; in 10^6 bytes.

    NaN where the system doesn't tell (Windows).
    """
    if STATUS.is_file():  # ru_maxrss on Linux also counts what the process was before exec
        return _status("VmHWM")
    try:
        import resource
    except ImportError:
        return float("nan")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


def resident_mb() -> float | None:
    """Resident memory now, in 10^6 bytes; None where the system doesn't tell it this way."""
    return _status("VmRSS") if STATUS.is_file() else None


def forget_peak() -> bool:
    """Begin anew with the peak; False where the system has no such thing (elsewhere than on Linux)."""
    try:
        CLEAR.write_text(RESET_PEAK, "ascii")
    except OSError:
        return False
    return True


def peak_of(action: Callable[[], object]) -> float | None:
    """Largest resident memory while the action ran, in 10^6 bytes; None elsewhere than on Linux."""
    fresh = forget_peak()
    action()
    return peak_mb() if fresh else None


class Laps:
    """Peak memory of stretches of work that follow each other, the largest of each name; none elsewhere than on Linux.

    peaks: where they are kept, in 10^6 bytes. The first stretch begins with the object, each other with a `lap`.
    """

    def __init__(self, peaks: dict[str, float]) -> None:
        self._peaks, self._fresh = peaks, forget_peak()

    def lap(self, name: str) -> None:
        """The stretch of that name has ended."""
        if self._fresh:
            self._peaks[name] = max(self._peaks.get(name, 0.0), peak_mb())
            forget_peak()


def available_mb() -> float | None:
    """Memory that a new process could have, in 10^6 bytes; None where the system doesn't tell."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    line = next(line for line in info.read_text("ascii").splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024 / 1e6


def total_mb() -> float | None:
    """Memory of the computer, in 10^6 bytes; None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    except (AttributeError, OSError, ValueError):
        return None


def hold(emit: Callable[[object], None], megabytes: float, seconds: float = 0.0) -> dict[str, float]:
    """Allocate so much, and say what was measured of it: to check the measuring, in a process of its own."""
    emit({"process": os.getpid()})
    held = bytearray(b"x" * 1000) * int(megabytes * 1e3)
    print("held", len(held))  # as libraries do
    peak = peak_mb()
    sleep(seconds)
    del held
    forget_peak()
    return {"peak_mb": peak, "after_forgetting_mb": peak_mb()}


def _status(field: str) -> float:
    line = next(line for line in STATUS.read_text("ascii").splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6
