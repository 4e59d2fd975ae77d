"""Answers that are there already, by the pixels that they rest on, read from the ledger while its writer goes on.

Any process that sees the batch's folder can ask: the batch itself for its own workers, a Dask worker for its child.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from medconv.batch.jobs import CaseOutcome, Status
from medconv.batch.ledger import LEDGER_FILE

ANSWERS = (Status.OK, Status.REFUSED)


class KnownAnswers:
    """Of one ledger; reads on where it stopped. In memory stays where the outcomes are, not what they say."""

    def __init__(self, folder: Path) -> None:
        self._file, self._read_to = folder / LEDGER_FILE, 0
        self._places: dict[str, tuple[str, int]] = {}  # pixels → case id, offset of the line
        self._pixels: dict[str, str] = {}  # case id → pixels

    def known(self, pixels: str) -> CaseOutcome | None:
        """The outcome of a case with these pixels that was answered or refused; None also where it can't be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), self._file.open("rb") as stream:
            stream.seek(self._read_to)
            # A line without its end is still being written; a network drive may show it late.
            while (line := stream.readline()).endswith(b"\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    self._take(json.loads(line), self._read_to)
                self._read_to += len(line)
            if place := self._places.get(pixels):
                stream.seek(place[1])
                outcome = CaseOutcome.from_json(json.loads(stream.readline())["outcome"])
                return outcome if outcome.pixels == pixels else None
        return None

    def _take(self, fields: dict[str, Any], offset: int) -> None:
        if fields["event"] not in ("done", "again"):
            return
        case_id = fields["case_id"]
        before = self._pixels.pop(case_id, "")
        if self._places.get(before, ("",))[0] == case_id:
            del self._places[before]
        if fields["event"] == "done":
            outcome = fields["outcome"]
            if outcome["pixels"] and outcome["status"] in ANSWERS:
                self._pixels[case_id] = outcome["pixels"]
                self._places[outcome["pixels"]] = case_id, offset
