"""The one job of the worker process that is under way: how far it is, and who takes up what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from medconv import worker_errors
from medconv.types import MedConvError
from medconv.worker_client import Failure, Outcome, Progress

Span = tuple[float, float]


class Work:
    """At most one job at a time. `worker` is a `WorkerClient`, or stands for one in a test."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._take: Callable[[Any], None] | None = None
        self._steps: Iterator[tuple[str, float]] | None = None
        self._span: Span = (0.0, 1.0)
        self._warmed: tuple[str | None, str] | None = None
        self.failed: Callable[[MedConvError], None] = lambda error: None
        self.stage = ""
        self.fraction = 0.0

    @property
    def busy(self) -> bool:
        return self._take is not None or self._steps is not None

    def start(
        self, hand_over: Callable[[Any], None], take: Callable[[Any], None], stage: str, span: Span = (0.0, 1.0)
    ) -> None:
        """Hand a job to the worker.

        hand_over: called with the worker, starts the job there. take: called by `poll` with the outcome; it may start
        the next job. span: the share of the whole work that this job is. Raises MedConvError if it can't be started.
        """
        try:
            hand_over(self._worker)
        except (OSError, MemoryError) as error:
            raise worker_errors.not_started(error) from error
        self._take, self._span = take, span
        self.stage, self.fraction = stage, span[0]

    def start_steps(self, steps: Iterator[tuple[str, float]], stage: str, span: Span = (0.0, 1.0)) -> None:
        """Work for this process, in steps so short that a window stays alive: `poll` does one, up to its next yield.

        steps: yields the stage and the fraction done.
        """
        self._steps, self._span = steps, span
        self.stage, self.fraction = stage, span[0]

    def warm(self, weights: str | None, device: str) -> None:
        """Let the worker load weights in the background.

        Nobody asked for it, so that nobody is told what goes wrong: the analysis will tell.
        """
        self._warmed = (weights, device)
        with suppress(OSError, MemoryError):
            self._worker.warm(weights, device)

    def may_warm(self, weights: str | None, device: str) -> bool:
        """Whether the worker has nothing to do and has not been told to load these."""
        return not self.busy and self._warmed != (weights, device)

    def poll(self) -> bool:
        """Take up what the worker reported; True if anything happened. What goes wrong is told to `failed`."""
        if self._steps is not None:
            self._step(self._steps)
            return True
        if self._take is None:
            return False
        events = self._worker.poll()
        for event in events:
            if isinstance(event, Progress):
                self._tell(event.stage, event.fraction)
            else:
                self._end(event)
        return bool(events)

    def stop(self) -> None:
        """End the job, if there is one, within two seconds."""
        self._steps = None
        if self._take is not None:
            self._take = None
            self._warmed = None
            self._worker.cancel()

    def close(self) -> None:
        """End the worker as well."""
        self._take = self._steps = None
        self._worker.close()

    def _tell(self, stage: str, fraction: float) -> None:
        low, high = self._span
        self.stage, self.fraction = stage, low + (high - low) * fraction

    def _step(self, steps: Iterator[tuple[str, float]]) -> None:
        self._steps = None  # whatever goes wrong, it does not come again
        with self._telling():
            try:
                self._tell(*next(steps))
            except StopIteration:
                return
            self._steps = steps

    def _end(self, outcome: Outcome) -> None:
        take, self._take = self._take, None
        if take is None:
            return
        with self._telling():
            if isinstance(outcome, Failure):
                raise outcome.error()
            take(outcome)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except MedConvError as error:
            self.failed(error)
        except (OSError, MemoryError) as error:
            self.failed(worker_errors.explain(error, "analysis"))
