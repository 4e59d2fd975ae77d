"""How often a run's test set has been read: RUN/test_readings.json, written before the figures are shown.

A test set that was read before a choice was made is no longer unseen; the report tells the count. No identity is kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from medconv.types import InputRefused

READINGS_FILE = "test_readings.json"


@dataclass(frozen=True)
class TestReading:
    """One look at a test set: when (UTC), at how many cases, which (hash of their ids), and with which choice."""

    __test__ = False  # no test, whatever pytest makes of its name

    when: str
    cases: int
    case_ids_sha256: str
    choice_sha256: str


def readings_of(run: Path) -> list[TestReading]:
    """All readings so far, oldest first. Raises InputRefused if the file was damaged: the count would be wrong."""
    path = run / READINGS_FILE
    if not path.exists():
        return []
    try:
        return [TestReading(**reading) for reading in json.loads(path.read_text("utf-8"))["readings"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputRefused(
            "test_readings_unreadable",
            f"{path} can't be read ({error or type(error).__name__}), so it is not known how often the test was read.",
            "Restore the file. If that is not possible, train a new run and keep another test set for it.",
        ) from error


def record_reading(run: Path, cases: int, case_ids_sha256: str, choice_sha256: str) -> list[TestReading]:
    """Note one more reading; returns all of them, this one last."""
    run.mkdir(parents=True, exist_ok=True)
    reading = TestReading(datetime.now(UTC).isoformat(timespec="seconds"), cases, case_ids_sha256, choice_sha256)
    found = [*readings_of(run), reading]
    partial = run / f"{READINGS_FILE}.partial"
    partial.write_text(json.dumps({"readings": [asdict(r) for r in found]}, indent=1) + "\n", "utf-8")
    partial.replace(run / READINGS_FILE)
    return found


def sentences(readings: list[TestReading], read_before_choice: int) -> list[str]:
    """What the report says of the readings, the last one being its own.

    read_before_choice: how many there were when the choice was stored.
    """
    last = readings[-1]
    same = [r for r in readings if r.case_ids_sha256 == last.case_ids_sha256]
    told = [f"This test set has been read {times(len(same))} with this run, this reading included."]
    if read_before_choice:
        told.append(
            f"The choices were made after a test set had been read {times(read_before_choice)}: these figures may be "
            "better than on patients whom nothing has seen."
        )
    elif any(r.choice_sha256 != last.choice_sha256 for r in same):
        told.append("An earlier reading used other choices: the test set may have had a part in choosing.")
    return told


def times(count: int) -> str:
    """Once, twice, N times."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
