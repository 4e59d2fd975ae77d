"""How far a batch is: one line that rewrites itself on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections import Counter
from time import monotonic

from medconv import console
from medconv.batch.jobs import STATUS_WORDS, Status
from medconv.simulate_command import duration

# Where no terminal shows a line that rewrites itself: less often the longer it takes, so that a log stays short.
SAID_EVERY_S, SAID_AT_LEAST_EVERY_S, SHARE_OF_TIME = 30.0, 600.0, 0.05
SHOWN_EVERY_S = 0.2


class Progress:
    """Counts cases as they end. there: those that had ended before."""

    def __init__(self, total: int, there: Counter[Status]) -> None:
        self._total, self._counts, self._this_run = total, Counter(there), 0
        self._started = self._shown = monotonic()
        self._said = self._started

    @property
    def elapsed_s(self) -> float:
        return monotonic() - self._started

    @property
    def this_run(self) -> int:
        """Cases that ended since the start of this run."""
        return self._this_run

    def one_more(self, status: Status) -> None:
        self._counts[status] += 1
        self._this_run += 1

    def show(self) -> None:
        """Call it often: it says something only now and then."""
        now = monotonic()
        if sys.stderr.isatty():
            if now - self._shown >= SHOWN_EVERY_S:
                self._shown = now
                console.say(self.line(), self._counts.total() / max(self._total, 1))
        elif now - self._said >= min(max(SAID_EVERY_S, SHARE_OF_TIME * self.elapsed_s), SAID_AT_LEAST_EVERY_S):
            self._said = now
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """`120 of 1000 CTs, 45 CT/min, 20 min left: 110 answered, 8 refused, 2 failed`."""
        told = [f"{self._counts.total()} of {self._total} CTs"]
        if self._this_run:
            rate = self._this_run / max(self.elapsed_s, 1e-6)
            left_s = (self._total - self._counts.total()) / rate
            told += [f"{60 * rate:.3g} CT/min", f"{duration(max(left_s, 0.0))} left"]
        return ", ".join(told) + (f": {spoken(self._counts)}" if self._counts else "")


def spoken(counts: Counter[Status]) -> str:
    """`110 answered, 8 refused`."""
    return ", ".join(f"{counts[status]} {word}" for status, word in STATUS_WORDS.items() if counts[status]) or "none"
