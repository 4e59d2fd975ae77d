"""Who does what next: cases to the crew, what happens to the ledger, crashed ones again, and aside at last."""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from medconv.batch.case_files import CASES
from medconv.batch.jobs import BatchJob, CaseOutcome, Crashed, Crew, Done, Started, Status
from medconv.batch.ledger import Ledger
from medconv.ct_file import NO_SPACE
from medconv.types import MissingRequirement

CRASHES_ALLOWED = 3
OUT_OF_MEMORY = "out_of_memory"
DIED = "worker_died"  # for whatever reason
TRY_AGAIN = "Try it alone with 'medconv predict', or again with --retry set_aside."
NEEDS_MEMORY = "Give it more memory (of a container or a cluster's job: a higher limit), then --retry set_aside."


@dataclass
class Supervisor:
    """Has all jobs done by a crew, each until it has an outcome in the ledger.

    A case whose process ended is tried again when all others are done, the last time alone: what it wanted may have
    been all the memory there is. After CRASHES_ALLOWED such ends, earlier runs counted, it is set aside.
    ended: called for each outcome; tick: at least each second.
    """

    ledger: Ledger
    crew: Crew
    ended: Callable[[Status], None] = lambda status: None
    tick: Callable[[], None] = lambda: None
    crashes: int = 0
    _at_work: dict[str, BatchJob] = field(default_factory=dict)
    _again: deque[BatchJob] = field(default_factory=deque)
    _alone: str = ""

    def work_through(self, jobs: Iterable[BatchJob]) -> None:
        """Raises MissingRequirement if nobody can work or the ledger can't be written; a later run goes on."""
        waiting = iter(jobs)
        try:
            while self._submit(waiting):
                for event in self.crew.events():
                    self._take(event)
                    self._submit(waiting)
                    self.tick()
        except OSError as error:
            raise _not_written(error) from error

    def _submit(self, waiting: Iterator[BatchJob]) -> bool:
        """Fill the crew's room; True if it has anything to do."""
        while len(self._at_work) < self.crew.room and self._alone not in self._at_work:
            job = next(waiting, None) or self._next_again()
            if job is None:
                break
            if self._crashes_of(job) >= CRASHES_ALLOWED:
                self._set_aside(job)
                continue
            self._at_work[job.case_id] = job
            self.crew.submit(job)
        return bool(self._at_work)

    def _next_again(self) -> BatchJob | None:
        """A case that has crashed; its last try waits until nobody else works."""
        if not self._again:
            return None
        if self._crashes_of(self._again[0]) == CRASHES_ALLOWED - 1:
            if self._at_work:
                return None
            self._alone = self._again[0].case_id
        return self._again.popleft()

    def _take(self, event: Started | Done | Crashed | None) -> None:
        if isinstance(event, Started):
            self.ledger.started(event.case_id, event.worker)
        elif isinstance(event, Crashed):
            self._crashed(event)
        elif isinstance(event, Done):
            outcome = event.outcome
            if outcome.status is Status.FAILED and outcome.code == OUT_OF_MEMORY:
                self._crashed(Crashed(outcome.case_id, outcome.code, outcome.message))
            elif job := self._at_work.pop(outcome.case_id, None):
                self.ledger.done(job, outcome)
                self.ended(outcome.status)

    def _crashed(self, event: Crashed) -> None:
        if job := self._at_work.pop(event.case_id, None):
            self.crashes += 1
            self.ledger.crashed(job, event.code, event.message)
            self._again.append(job)

    def _crashes_of(self, job: BatchJob) -> int:
        entry = self.ledger.entries.get(job.case_id)
        return entry.crashes.total() if entry and entry.fingerprint == job.fingerprint else 0

    def _set_aside(self, job: BatchJob) -> None:
        """For a reason that is known for sure, then the most frequent one: kills by chance don't change the table."""
        crashes = self.ledger.entries[job.case_id].crashes
        code, why = max(crashes, key=lambda reason: (reason[0] != DIED, crashes[reason], reason))
        outcome = CaseOutcome(
            job.case_id,
            Status.SET_ASIDE,
            code=code,
            message=f"Tried {CRASHES_ALLOWED} times. {why}",
            remedy=NEEDS_MEMORY if code == OUT_OF_MEMORY else TRY_AGAIN,
        )
        shutil.rmtree(self.ledger.path.parent / CASES / job.case_id, ignore_errors=True)  # of a try that came far
        self.ledger.done(job, outcome)
        self.ended(outcome.status)


def _not_written(error: OSError) -> MissingRequirement:
    if error.errno in NO_SPACE or error.errno == errno.EROFS:
        return MissingRequirement(
            "disk_full",
            "The disk with the batch's folder is full or can't be written.",
            "Make room; the same command goes on where it stopped.",
        )
    return MissingRequirement(
        "ledger_not_written",
        f"The ledger can't be written ({error.strerror or type(error).__name__}).",
        "Check the batch's folder and its permissions; the same command goes on where it stopped.",
    )
