"""What a command says while it works: one line that rewrites itself on a terminal, nothing where output is a file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

BEAT_S = 5.0


@dataclass(frozen=True)
class _Said:
    """The line that stands on the terminal, and since when (`time.monotonic`)."""

    stage: str
    fraction: float | None
    since_s: float


_said: _Said | None = None
_writing = threading.RLock()


def say(stage: str, fraction: float | None = None) -> None:
    """Show what is under way, with the percentage if it is known."""
    global _said
    if sys.stderr.isatty():
        with _writing:
            _said = _Said(stage, fraction, time.monotonic())
            _show(stage, fraction)


def _show(stage: str, fraction: float | None) -> None:
    percent = "" if fraction is None else f"  {fraction:4.0%}"
    # A longer line would wrap, and only its last row can be rewritten.
    told = f"{stage[: max(_columns() - len(percent) - 1, 0)]}{percent}"
    print(f"\r\033[K{told}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def heartbeat(every_s: float = BEAT_S) -> Iterator[None]:
    """While it is open, a line that has stood on the terminal for long says for how many seconds: nothing hangs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            with _writing:
                if _said is not None and (age_s := time.monotonic() - _said.since_s) >= every_s:
                    _show(f"{_said.stage} ({age_s:.0f} s)", _said.fraction)

    thread = threading.Thread(target=beat, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def _columns() -> int:
    """Width of the terminal; 0, which some terminals tell, and what can't be told count as the usual 80."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def clear() -> None:
    """Take the line away before an answer or an error is printed."""
    global _said
    if sys.stderr.isatty():
        with _writing:
            _said = None
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def can_ask() -> bool:
    """True if a person sits there who can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agrees(question: str) -> bool:
    """Ask yes or no; anything but yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class _Screen(logging.Handler):
    """Warnings of the core as lines on standard error, not into the line that shows progress."""

    def emit(self, record: logging.LogRecord) -> None:
        clear()
        print(f"medconv: {record.getMessage()}", file=sys.stderr)


def show_warnings() -> None:
    """From now on, what the core warns of appears on the screen; once, however often it is called."""
    log = logging.getLogger("medconv")
    if not any(isinstance(handler, _Screen) for handler in log.handlers):
        log.addHandler(_Screen(logging.WARNING))
