"""The worker process and its private folder: started, listened to, ended without a trace.

Commands go to its standard input; its standard output goes to a file, which `messages` reads on: no thread, and no
pipe that could block, on any operating system. Jobs' files and whatever the process writes lie in the folder.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import medconv
from medconv import processes, worker_errors
from medconv.types import MedConvError

REMOVE_WITHIN_S = 1.0


class WorkerProcess:
    """One process at a time; after `end` it can be started again.

    command: how to start it; by default the Python that runs here (in Slicer: PythonSlicer).
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = list(command) if command else None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._partial = b""
        self.folder: Path | None = None

    @property
    def process_id(self) -> int | None:
        """The running process's id, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before it was started."""
        return self._process.poll() if self._process else None

    def start(self) -> Path:
        """Start it if it isn't running; its private folder. Raises OSError."""
        if self.process_id is not None and self.folder is not None:
            return self.folder
        self.end()
        processes.remove_abandoned_folders()
        self.folder = processes.private_folder()
        output, errors = self.folder / "events.jsonl", self.folder / "log.txt"
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command or [processes.python_executable(), "-m", "medconv.worker"],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                # The private folder holds no module that "-m" could mistake for one of ours.
                cwd=self.folder,
                env=processes.environment(Path(medconv.__file__).parents[1], self.folder),
                **processes.own_group(),
            )
        self._output = output.open("rb")
        return self.folder

    def send(self, command: dict[str, Any]) -> None:
        """Hand over a command. A process that is already gone is told by `exit_code`, with its last words."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write((json.dumps(command) + "\n").encode("ascii"))
            self._process.stdin.flush()

    def messages(self) -> list[dict[str, Any]]:
        """Complete lines since the last call that are JSON objects; a line still being written waits."""
        if self._output is None:
            return []
        *lines, self._partial = (self._partial + self._output.read()).split(b"\n")
        messages = []
        for line in lines:
            # A library may have printed something without a line end before the event.
            with contextlib.suppress(ValueError):
                message = json.loads(line[max(line.find(b'{"event"'), 0) :])
                if isinstance(message, dict):
                    messages.append(message)
        return messages

    def death(self) -> MedConvError:
        """Why it ended by itself, from its exit code and its last words."""
        assert self.folder is not None
        assert self.exit_code is not None
        return worker_errors.death(self.exit_code, self.folder / "log.txt")

    def end(self) -> None:
        """End it and all it started, and remove its folder. Interrupted (Ctrl+C), it can be called again."""
        if self._process is not None:
            assert self.folder is not None
            processes.end_tree(self._process, self.folder)
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output, self._partial = None, b""
        if self.folder is not None:
            _remove(self.folder)
            self.folder = None


def _remove(folder: Path) -> None:
    """Remove a folder that a dying process may have written into a moment ago (Windows: may still hold open)."""
    until = time.monotonic() + REMOVE_WITHIN_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return  # the next start removes it, when this application is gone
        if folder.exists():
            time.sleep(0.02)
