"""What a batch says while it works: a line that fits a terminal, few plain lines in a log."""

from __future__ import annotations

import io
import os
from collections import Counter

import pytest

from medconv import console
from medconv.batch import progress
from medconv.batch.jobs import Status
from medconv.batch.progress import Progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Seconds that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_plain_line_now_and_then_and_stays_short_over_days(clock, monkeypatch) -> None:
    """Every half minute at first; after 100 minutes every 5, after 200 every 10: three days are less than 600 lines."""
    told = io.StringIO()
    monkeypatch.setattr("sys.stderr", told)
    shown = Progress(10_000, Counter({Status.OK: 100}))
    for second in range(1, 3 * 86_400, 5):
        clock[0] = 1000.0 + second
        if second % 60 == 1:
            shown.one_more(Status.REFUSED if second % 600 == 1 else Status.OK)
        shown.show()
    lines = told.getvalue().splitlines()
    assert "".join(lines).isprintable()
    assert lines[0] == "101 of 10000 CTs, 1.94 CT/min, 85.2 h left: 100 answered, 1 refused"
    assert 400 < len(lines) < 600


def test_rate_and_remaining_time_count_this_run_only(clock) -> None:
    shown = Progress(200, Counter({Status.OK: 100}))
    assert shown.line() == "100 of 200 CTs: 100 answered"
    for _ in range(20):
        shown.one_more(Status.OK)
    clock[0] += 600.0
    assert shown.line() == "120 of 200 CTs, 2 CT/min, 40 min left: 120 answered"


@pytest.mark.parametrize(("columns", "kept"), [(40, 40), (0, 80), (None, 80)])
def test_a_line_never_wraps_because_only_its_last_row_could_be_rewritten(capsys, monkeypatch, columns, kept) -> None:
    def size(_file: int) -> os.terminal_size:
        if columns is None:
            raise OSError
        return os.terminal_size((columns, 24))

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", size)
    console.say("x" * 200, 0.5)
    line = capsys.readouterr().err.removeprefix("\r\x1b[K")
    assert len(line) == kept - 1
    assert line.endswith("x   50%")
