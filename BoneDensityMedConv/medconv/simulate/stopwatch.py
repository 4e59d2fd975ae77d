"""CPU seconds by stage: where a cohort's time goes."""

from __future__ import annotations

from time import process_time


class Stopwatch:
    """`lap` adds what has passed since the last one to a stage. `seconds`: CPU seconds of this process by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = process_time()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = process_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
