"""The ledger: all that happened in a batch, one JSON object a line, appended by one writer.

A case's outcome stands there and nowhere else; the table is made from it alone. A line that a killed writer or a power
cut left torn is cut off when the ledger is opened again: what it told is done again. In memory stays where the
outcomes are, not what they say.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medconv.batch.jobs import BatchJob, CaseOutcome, Status

LEDGER_FILE = "ledger.jsonl"
SYNC_EVERY_S = 2.0  # so much can a power cut cost; a killed process costs nothing that was written


@dataclass
class Entry:
    """What the ledger says of a case. offset: of the line with its outcome, -1 without one.

    crashes: how often its process ended for which reason, (code, message).
    """

    fingerprint: str = ""
    offset: int = -1
    status: Status | None = None
    crashes: Counter[tuple[str, str]] = field(default_factory=Counter)


class Ledger:
    """Opened by one process at a time (`lock`); use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. Raises OSError."""
        self.path = folder / LEDGER_FILE
        self.entries: dict[str, Entry] = {}
        self.damaged_lines = 0
        self._size = self._read_all()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        os.ftruncate(self._file, self._size)
        self._reader = self.path.open("rb")
        self._synced = time.monotonic()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)
        self._reader.close()

    def note(self, event: str, **fields: Any) -> None:
        """Something about the batch as a whole."""
        self._write({"event": event, **fields})

    def started(self, case_id: str, worker: str) -> None:
        self._write({"event": "started", "case_id": case_id, "worker": worker})

    def crashed(self, job: BatchJob, code: str, message: str) -> int:
        """The process that worked on the case has ended; returns how often that has happened to it."""
        self._write({"event": "crashed", **_identity(job), "code": code, "message": message})
        return self.entries[job.case_id].crashes.total()

    def done(self, job: BatchJob, outcome: CaseOutcome) -> None:
        """A case has its outcome. The list of a series' files is not kept: there may be thousands."""
        told = outcome.to_json()
        self._write({"event": "done", **_identity(job), "job": replace(job, files=()).to_json(), "outcome": told})

    def forget(self, case_id: str, why: str) -> None:
        """A case is to be done again: its input has changed, or a person asked for it."""
        self._write({"event": "again", "case_id": case_id, "why": why})

    def is_done(self, job: BatchJob) -> bool:
        entry = self.entries.get(job.case_id)
        return entry is not None and entry.offset >= 0 and entry.fingerprint == job.fingerprint

    def outcome(self, case_id: str) -> tuple[BatchJob, CaseOutcome]:
        """From the disk. Raises KeyError for a case without an outcome."""
        entry = self.entries[case_id]
        if entry.offset < 0:
            raise KeyError(case_id)
        self._reader.seek(entry.offset)
        told = json.loads(self._reader.readline())
        return BatchJob.from_json(told["job"]), CaseOutcome.from_json(told["outcome"])

    def outcomes(self) -> Iterator[tuple[BatchJob, CaseOutcome]]:
        """All outcomes, sorted by case id, one at a time."""
        for case_id in sorted(case_id for case_id, entry in self.entries.items() if entry.offset >= 0):
            yield self.outcome(case_id)

    def counts(self) -> Counter[Status]:
        """How many cases ended how."""
        return Counter(entry.status for entry in self.entries.values() if entry.status is not None)

    def _write(self, fields: dict[str, Any]) -> None:
        """Raises OSError; the line is then cut off by the next writer."""
        line = json.dumps({**fields, "time": round(time.time(), 3)}).encode("ascii") + b"\n"
        os.lseek(self._file, self._size, os.SEEK_SET)
        written = 0
        while written < len(line):
            written += os.write(self._file, line[written:])
        self._apply(fields, self._size)
        self._size += len(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def _read_all(self) -> int:
        """Apply every whole line; returns where the last one ends."""
        end = 0
        if not self.path.exists():
            return end
        with self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                try:
                    fields = json.loads(line)
                    self._apply(fields, end)
                except (ValueError, KeyError, TypeError, AttributeError):
                    self.damaged_lines += 1
                end += len(line)
        return end

    def _apply(self, fields: dict[str, Any], offset: int) -> None:
        case_id = fields.get("case_id")
        if fields["event"] == "again":
            self.entries.pop(str(case_id), None)
        elif fields["event"] in ("crashed", "done"):
            entry = self.entries.setdefault(str(case_id), Entry())
            if entry.fingerprint != fields["fingerprint"]:
                entry = self.entries[str(case_id)] = Entry(fields["fingerprint"])
            if fields["event"] == "crashed":
                entry.crashes[fields["code"], fields["message"]] += 1
                return
            entry.offset, entry.status = offset, Status(fields["outcome"]["status"])


def _identity(job: BatchJob) -> dict[str, str]:
    return {"case_id": job.case_id, "fingerprint": job.fingerprint}
