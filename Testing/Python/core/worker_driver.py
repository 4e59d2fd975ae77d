"""What tests of the worker process share: waiting for it, and looking at it from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from medconv.worker_client import Event, WorkerClient


def events_of(worker: WorkerClient, within_s: float = 20.0) -> list[Event]:
    """Everything until the job has ended."""
    events: list[Event] = []
    until = time.monotonic() + within_s
    while worker.busy:
        events += worker.poll()
        assert time.monotonic() < until, f"no end within {within_s} s, only {events}"
        time.sleep(0.01)
    return events


def wait_until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Raise AssertionError if it does not become true."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(process_id: int) -> bool:
    """False as well for a zombie that its parent has not collected yet."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
