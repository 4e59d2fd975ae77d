"""The commands that the worker process is given, read while it works on an earlier one."""

from __future__ import annotations

import json
import queue
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any


class Commands:
    """The commands of a stream, read by a thread, which therefore notices at once when the stream closes.

    orphaned: called from that thread if it closes while a command is being worked on; it is to end the process.
    """

    def __init__(self, lines: Iterable[bytes], orphaned: Callable[[], None]) -> None:
        self._lines, self._orphaned = lines, orphaned
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._read = self._taken = self._finished = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def __iter__(self) -> Commands:
        return self

    def is_waited_for(self) -> bool:
        """Whether the next command is there already."""
        return not self._waiting.empty()

    def __next__(self) -> dict[str, Any]:
        self._finished = self._taken
        command = self._waiting.get()
        if command is None:
            raise StopIteration
        self._taken += 1
        return command

    def _listen(self) -> None:
        for line in self._lines:
            try:
                command = json.loads(line)
            except ValueError:
                traceback.print_exc()
                continue
            self._read += 1
            self._waiting.put(command)
            if command["command"] == "quit":
                return
        if self._finished < self._read:
            self._orphaned()
        self._waiting.put(None)
