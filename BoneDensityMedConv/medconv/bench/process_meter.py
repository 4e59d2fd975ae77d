"""Memory and processor time of a process with all its children, read from /proc while it runs (Linux)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from time import perf_counter

from medconv import process_tree

EVERY_S = 0.1


class ProcessMeter:
    """Watches a process tree inside a `with` block; afterwards `peak_mb`, `cpu_s` and `wall_s` say what it took.

    peak_mb: the largest sum of proportional set sizes (memory that several share counts once); NaN elsewhere than on
    Linux. cpu_s: of all processes that were seen; one that lives shorter than `EVERY_S` may be missed.
    """

    def __init__(self, process_id: int) -> None:
        self.peak_mb, self.cpu_s, self.wall_s = float("nan"), float("nan"), 0.0
        self._root = process_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._ticks: dict[int, int] = {}
        self._before: dict[int, int] = {}

    def __enter__(self) -> ProcessMeter:
        self._started = perf_counter()
        if Path("/proc/self/smaps_rollup").is_file():
            self._sample()
            self._before = dict(self._ticks)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = perf_counter() - self._started
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._sample()
            used = sum(ticks - self._before.get(pid, 0) for pid, ticks in self._ticks.items())
            self.cpu_s = used / os.sysconf("SC_CLK_TCK")

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        kilobytes = 0
        for pid in process_tree.members(self._root, None):
            try:
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
            except OSError:  # it has just ended
                continue
            self._ticks[pid] = int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
            kilobytes += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        if kilobytes:
            peak = kilobytes * 1024 / 1e6
            self.peak_mb = peak if self.peak_mb != self.peak_mb else max(self.peak_mb, peak)
