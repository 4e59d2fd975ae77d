"""The real worker process with a segmenter that behaves as told: `python fake_segmenter.py BEHAVIOUR [PIDS_FILE]`.

It runs in the process that WorkerClient starts, so what it does there (fill the disk, print, exit) is real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medconv import segmenter, worker
from medconv.types import SpineSegmentation

STEPS = 20
DEAF = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(120)"
# A child that starts another and ends: nothing but the environment links the other to where it came from.
ORPHAN = f"""
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", {DEAF!r}], stdout=subprocess.DEVNULL, start_new_session=True).pid)
"""


def dense(ct) -> SpineSegmentation:
    """Everything above 300 HU is L1."""
    labels = (ct.array_zyx > 300).astype(np.uint8) * 31
    return SpineSegmentation(labels, (0, 0, 0), ct.geometry, {31: "L1"}, "fake", identity=str(os.getpid()))


def start_children() -> list[int]:
    """A child that ignores signals, one in a session of its own, and an orphan."""
    plain = subprocess.Popen([sys.executable, "-c", DEAF])
    own_session = subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True)
    orphan = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, check=True)
    return [plain.pid, own_session.pid, int(orphan.stdout)]


def litter(size: int) -> None:
    """A temporary file of that size (until the disk is full), as a library leaves it when it fails."""
    block = bytes(64 * 1024)
    descriptor, _ = tempfile.mkstemp()
    for _ in range(size // len(block)):
        os.write(descriptor, block)


class Segmenter:
    """One method for each behaviour."""

    def __init__(self, behaviour: str) -> None:
        self.segment = getattr(self, behaviour)

    def steady(self, ct, progress):
        litter(256 * 1024)
        for step in range(STEPS):
            progress(f"Step {step}", step / STEPS)
            time.sleep(0.02)
        return dense(ct)

    def family(self, ct, progress):
        pids = [os.getpid(), *start_children()]
        with Path(sys.argv[2]).open("a") as stream:
            stream.write("".join(f"{pid}\n" for pid in pids))
        return self.steady(ct, progress)

    def endless(self, ct, progress):
        progress("Endless", 0.5)
        time.sleep(120)

    def talkative(self, ct, progress):
        print('{"event": "error", "id": "1", "code": "fake", "message": "not an event", "remedy": ""}')
        os.write(1, b'{"event": "error", "id": "1", "code": "fake"}\n')
        subprocess.run(["echo", '{"event": "error", "id": "1", "code": "fake"}'], check=True)
        print("Ünprintable?", file=sys.stderr)
        return dense(ct)

    def curious(self, ct, progress):
        """Asks a question, as some libraries do before they go on."""
        input("Continue? [y/n] ")

    def leaving(self, ct, progress):
        sys.exit("no more of this")

    def greedy(self, ct, progress):
        progress("Allocating", 0.5)
        return np.ones(1 << 44, np.uint8)

    def greedy_once(self, ct, progress):
        flag = Path(sys.argv[2])
        if not flag.exists():
            flag.touch()
            return np.ones(4 << 30, np.uint8)
        return dense(ct)

    def odd(self, ct, progress):
        """Fails as extension modules and OpenBLAS do when memory is short, here after a limit is set (or not)."""
        how, is_short = sys.argv[2:4]
        if is_short == "True":
            import resource

            pages = int(Path("/proc/self/statm").read_text().split()[0])
            size = pages * resource.getpagesize() + (100 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        if how == "interrupt":
            signal.raise_signal(signal.SIGINT)
        raise SystemError("error return without exception set")

    def fills_disk(self, ct, progress):
        if ct.array_zyx.max() < 1000:
            progress("Filling the disk", 0.5)
            litter(1 << 40)
        return dense(ct)

    def fills_disk_and_goes_on(self, ct, progress):
        try:
            litter(1 << 40)
        except OSError:
            for step in range(1000):
                progress(f"Step {step} with a full disk", step / 1000)
        return dense(ct)

    def large_answer(self, ct, progress):
        labels = np.ones((512, 512, 200), np.uint8)
        return SpineSegmentation(labels, (0, 0, 0), ct.geometry, {31: "L1"}, "fake")


if __name__ == "__main__":
    segmenter.make_segmenter = lambda request: Segmenter(sys.argv[1])  # type: ignore[assignment]
    sys.exit(worker.main())
