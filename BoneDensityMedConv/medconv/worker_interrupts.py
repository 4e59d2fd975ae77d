"""Interrupts (SIGINT) that belong to the job in which they arise, however late Python tells of them.

Nobody presses Ctrl+C in the worker process: a C library that gives up sends it the signal (OpenBLAS without memory).
Python raises KeyboardInterrupt for it only at its next chance. With other threads about that can be after the library
has raised an error of its own: then in the middle of telling that error, or between two jobs.
"""

from __future__ import annotations

import contextlib
import signal
from types import TracebackType
from typing import Any


class Interrupts:
    """`with interrupts:` around a job. Inside an interrupt is a KeyboardInterrupt; outside it is remembered at most.

    came: whether one came since the last entry.
    """

    def __init__(self) -> None:
        self.came = False
        self._inside = False

    def install(self) -> None:
        """Take the signal from now on; main thread only. Without it Python's own handler stays."""
        signal.signal(signal.SIGINT, self._take)

    def __enter__(self) -> None:
        self.came, self._inside = False, True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        _take_pending()

    def explains(self, error: BaseException) -> BaseException:
        """The error that a job ended with: the interrupt that caused it, where there was one, else itself."""
        if not self.came or isinstance(error, KeyboardInterrupt):
            return error
        interrupt = KeyboardInterrupt()
        interrupt.__cause__ = error
        return interrupt

    def _take(self, number: int, frame: Any) -> None:
        self.came = True
        if self._inside:
            self._inside = False
            raise KeyboardInterrupt


def _take_pending() -> None:
    """Let Python call the handler of a signal that has arrived: pthread_sigmask asks for that, whatever it changes."""
    with contextlib.suppress(AttributeError):  # Windows has no such call
        signal.pthread_sigmask(signal.SIG_BLOCK, [])
