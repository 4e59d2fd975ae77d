"""Client of the analysis process (`python -m medconv.worker`), see docs/decisions/0001.

The process is started once and kept warm. Commands go to its standard input; its standard output goes to a file,
which `poll` reads on: no thread, and no pipe that could block, on any operating system. Cases and whatever the
process writes live in one private folder, which goes with the process.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import medconv
from medconv import processes
from medconv.case_file import save_case
from medconv.types import Adjustment, L1Case

LOG_LINES_SHOWN = 3


@dataclass(frozen=True)
class Progress:
    """What the worker is doing, and the fraction done, 0 to 1."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class Result:
    """The document of result.json."""

    document: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """Why there is no result, and what to do."""

    code: str
    message: str
    remedy: str


Event = Progress | Result | Failure


class WorkerClient:
    """Runs one analysis at a time in a process of its own.

    command: how to start the process; by default the Python that runs here (in Slicer: PythonSlicer).
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = list(command) if command else None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._output: IO[bytes] | None = None
        self._partial = b""
        self._numbers = itertools.count(1)
        self._job: str | None = None

    @property
    def busy(self) -> bool:
        """True from `analyse` until `poll` has returned the result or failure, or `cancel`."""
        return self._job is not None

    @property
    def process_id(self) -> int | None:
        """The running process's id, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process if it isn't running, so that a later analysis finds it warm. Raises OSError."""
        if self.process_id is not None:
            return
        self._end()
        processes.remove_abandoned_folders()
        self._folder = processes.private_folder()
        output, errors = self._folder / "events.jsonl", self._folder / "log.txt"
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command or [processes.python_executable(), "-m", "medconv.worker"],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                # The private folder holds no module that "-m" could mistake for one of ours.
                cwd=self._folder,
                env=processes.environment(Path(medconv.__file__).parents[1], self._folder),
                **processes.own_group(),
            )
        self._output = output.open("rb")
        self._partial = b""
        atexit.register(self.close)

    def analyse(
        self, case: L1Case, weights: str | None = None, device: str = "auto", adjustment: Adjustment | None = None
    ) -> None:
        """Hand a case over; `poll` tells what becomes of it. Raises RuntimeError while busy, OSError if it can't."""
        if self.busy:
            raise RuntimeError("an analysis is under way")
        self.start()
        assert self._folder is not None
        job = str(next(self._numbers))
        case_file = self._folder / f"case-{job}.npz"
        save_case(case_file, case)
        command = {
            "command": "analyse",
            "id": job,
            "case": str(case_file),
            "weights": weights,
            "device": device,
            "adjustment": asdict(adjustment) if adjustment else None,
        }
        self._job = job
        # A process that is already gone is told by `poll`, with its last words.
        with contextlib.suppress(OSError):
            self._send(command)

    def poll(self) -> list[Event]:
        """What happened since the last call, in order; at most one Result or Failure, the last of the list."""
        if self._process is None:
            return []
        exit_code = self._process.poll()  # before reading, so that nothing written before the end is missed
        events: list[Event] = []
        for message in self._new_messages():
            event = self._event(message)
            if event is not None:
                events.append(event)
        if exit_code is not None:
            if self._job is not None:
                events.append(self._death(exit_code))
            self._end()
        return events

    def cancel(self) -> None:
        """End the process and all it started, and remove its folder; the next analysis starts a new one."""
        self._end()

    def close(self) -> None:
        """End the process. Safe to call more than once; also called when the application ends."""
        self._end()
        atexit.unregister(self.close)

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(command) + "\n").encode("ascii"))
        self._process.stdin.flush()

    def _new_messages(self) -> list[dict[str, Any]]:
        """Complete lines since the last call that are JSON objects; a line still being written waits."""
        assert self._output is not None
        *lines, self._partial = (self._partial + self._output.read()).split(b"\n")
        messages = []
        for line in lines:
            # A library may have printed something without a line end before the event.
            with contextlib.suppress(ValueError):
                message = json.loads(line[max(line.find(b'{"event"'), 0) :])
                if isinstance(message, dict):
                    messages.append(message)
        return messages

    def _event(self, message: dict[str, Any]) -> Event | None:
        if self._job is None or message.get("id") != self._job:
            return None
        kind = message.get("event")
        if kind == "progress":
            return Progress(str(message.get("stage", "")), min(max(float(message.get("fraction") or 0.0), 0.0), 1.0))
        if kind not in ("result", "error"):
            return None
        self._forget_case()
        if kind == "result":
            return Result(message["result"])
        return Failure(*(str(message.get(key, "")) for key in ("code", "message", "remedy")))

    def _forget_case(self) -> None:
        assert self._folder is not None
        (self._folder / f"case-{self._job}.npz").unlink(missing_ok=True)
        self._job = None

    def _death(self, exit_code: int) -> Failure:
        assert self._folder is not None
        lines = (self._folder / "log.txt").read_text("utf-8", "replace").strip().splitlines()
        last_words = " | ".join(line.strip() for line in lines[-LOG_LINES_SHOWN:])
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        remedy = "Analyse again; if it happens again, close other programs (memory) and report this."
        return Failure(
            "worker_died",
            f"The analysis process ended unexpectedly ({how}).",
            f"{remedy} Its last words: {last_words}" if last_words else remedy,
        )

    def _end(self) -> None:
        self._job = None
        process, self._process = self._process, None
        if process is not None:
            processes.end_tree(process)
        if self._output is not None:
            self._output.close()
            self._output = None
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
