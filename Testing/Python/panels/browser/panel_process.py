"""A panel as a subprocess, its output read by a thread."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[4]
COMMAND = "import sys; from medconv.cli import main; sys.exit(main(sys.argv[1:]))"
ADDRESS = re.compile(r"^Panel: (http://127\.0\.0\.1:\d+/)$")


class PanelProcess:
    """Starts `command` and waits for the line with the address."""

    def __init__(
        self, command: Sequence[str], timeout_s: float = 60.0, environment: dict[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(environment or {}),
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news: queue.Queue[str] = queue.Queue()
        for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True).start()
        self.url = self._address(timeout_s)

    @staticmethod
    def environment(changes: dict[str, str]) -> dict[str, str]:
        """This process's environment with the project and these tests on the path."""
        here = Path(__file__).parent
        paths = [str(ROOT / "BoneDensityMedConv"), str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), **changes}

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rsplit(":", 1)[1])

    def show(self, **changes: Any) -> None:
        """Change the scripted view model."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(changes) + "\n")
        self.process.stdin.flush()

    def calls(self) -> list[list[Any]]:
        """What the page asked of the scripted presenter so far."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("[")]

    def wait_for_call(self, call: list[Any], timeout_s: float = 10.0) -> None:
        """Raise AssertionError unless the page makes that call in time."""
        deadline = time.monotonic() + timeout_s
        while call not in self.calls():
            assert time.monotonic() < deadline, f"{call} was not called, only {self.calls()}"
            time.sleep(0.02)

    def descendants(self) -> list[int]:
        """Process ids of everything that this panel started, from /proc."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except (OSError, IndexError):
                    continue
                parents[int(entry.name)] = int(fields[1])
        found, wanted = [], {self.process.pid}
        while wanted:
            wanted = {pid for pid, parent in parents.items() if parent in wanted and pid not in found}
            found += sorted(wanted)
        return found

    def interrupt(self, timeout_s: float = 15.0) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)

    def _collect(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            self._news.put(line)

    def _address(self, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in list(self.lines):
                if match := ADDRESS.match(line):
                    return match[1]
            time.sleep(0.02)
        self.close()
        raise AssertionError("The panel didn't print its address:\n" + "\n".join([*self.lines, *self.errors]))


def is_running(pid: int) -> bool:
    """True unless the process has ended (a zombie has ended)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_ended(pids: Sequence[int], timeout_s: float = 5.0) -> None:
    """Raise AssertionError if one of the processes still runs after that time."""
    deadline = time.monotonic() + timeout_s
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, f"of {pids} some still run"
        time.sleep(0.05)


def run_apart(work: Any) -> Any:
    """The result of a coroutine, run on a loop and thread of its own: Playwright keeps a loop in the main thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
