"""A crew of processes on this computer, one thread each. Who dies in C takes one case with him, not the batch."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from medconv import process_tree, processes, worker_errors
from medconv.batch import measuring, worker_process
from medconv.batch.jobs import BatchJob, CaseOutcome, Crashed, Done, Started
from medconv.batch.settings import BatchSettings
from medconv.types import MedConvError, MissingRequirement

FOLDER_PREFIX = "medconv-batch-"
TICK_S = 0.5
KILLED = 9  # SIGKILL, which Windows has no name for
STARTS_TRIED = 3  # in a row, without one process that became ready
# A worker with the shipped weights rests at 410 to 480 MB, whatever CTs it has seen (1,000 crops, 24 whole CTs): what
# rests above its first levels by this much has grown, and is replaced. A segmenter's networks come with the first case
# that reaches it.
GROWTH_MB = 600.0
STARTED_MB = 450.0
FIRST_CASES = 3

Event = Started | Done | Crashed

log = logging.getLogger(__name__)
_FOLDER_NUMBERS = itertools.count(1)  # several crews may work in one process (dask_case)


@dataclass
class _Worker:
    name: str
    process: Any
    pipe: connection.Connection
    temporary: Path
    ready: bool = False
    job: BatchJob | None = None
    started_at: float = 0.0
    rests_at_mb: float = STARTED_MB  # between cases, with nothing in hand
    needs_mb: float = 0.0  # beside that, for its case
    first_levels_mb: list[float] = field(default_factory=list)
    killed_for_memory: float = 0.0  # processes of this computer, when its case began
    overdue: bool = False
    retires: bool = False
    alone: bool = False

    @property
    def will_take_mb(self) -> float:
        """What it is going to take beyond what it has."""
        has = measuring.process_memory_mb(Path(f"/proc/{self.process.pid}/status")).get("resident_mb", 0.0)
        return max(self.rests_at_mb + self.needs_mb - has, 0.0) if self.job or not self.ready else 0.0


class LocalCrew:
    """Processes that work on cases. See `jobs.Crew`.

    known: the outcome of a case with these pixels. needs_mb: what a case will need of memory, for admission: cases
    that do not fit into the free memory together are begun one after the other, in their order; one that does not fit
    at all is begun when nobody else is there.
    """

    def __init__(
        self,
        settings: BatchSettings,
        out: Path,
        workers: int,
        time_limit_s: float,
        known: Callable[[str], CaseOutcome | None] = lambda pixels: None,
        needs_mb: Callable[[BatchJob], float] = lambda job: 0.0,
        growth_mb: float = GROWTH_MB,
    ) -> None:
        self._arguments = (settings.to_json(), str(out), time_limit_s)
        self._time_limit_s, self._known, self._needs_mb, self._growth_mb = time_limit_s, known, needs_mb, growth_mb
        self._out, self._wanted = out, workers
        self._waiting: deque[BatchJob] = deque()
        self._workers: list[_Worker] = []
        self._made = self._failed_starts = self.replaced = 0
        # "spawn": a forked child of a process that has used torch or OpenMP can hang.
        self._context = multiprocessing.get_context("spawn")

    @property
    def room(self) -> int:
        return 2 * self._wanted

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def submit(self, job: BatchJob) -> None:
        self._waiting.append(job)

    def events(self) -> Iterator[Event | None]:
        """See `jobs.Crew`. Raises MedConvError if no process can work: weights, packages, a full disk."""
        while self._waiting or any(worker.job for worker in self._workers):
            self._fill_up()
            self._let_go()
            self._hand_out()
            self._end_overdue()
            ready = connection.wait(
                [worker.pipe for worker in self._workers] + [worker.process.sentinel for worker in self._workers],
                TICK_S,
            )
            happened = False
            for worker in [w for w in self._workers if w.pipe in ready or w.process.sentinel in ready]:
                for event in self._heard_of(worker):
                    happened = True
                    yield event
            if not happened:
                yield None

    def close(self) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()
        self._waiting.clear()

    def _fill_up(self) -> None:
        busy = sum(worker.job is not None for worker in self._workers)
        if any(worker.alone for worker in self._workers if worker.job):
            return
        while len(self._workers) < min(self._wanted, busy + len(self._waiting)):
            try:
                self._workers.append(self._start())
            except OSError as error:  # no memory for one more, or the limit of processes
                self._not_started(worker_errors.not_started(error))
                return

    def _start(self) -> _Worker:
        self._made += 1
        temporary = Path(tempfile.gettempdir()) / f"{FOLDER_PREFIX}{os.getpid()}-{next(_FOLDER_NUMBERS)}"
        ours, theirs = self._context.Pipe()
        with processes.one_thread_each():
            process = self._context.Process(
                target=worker_process.serve, args=(theirs, *self._arguments, str(temporary)), daemon=False
            )
            process.start()
        theirs.close()
        return _Worker(str(self._made), process, ours, temporary, killed_for_memory=measuring.killed_for_memory())

    def _not_started(self, why: MedConvError) -> None:
        """The others go on without it. Raises MissingRequirement if there are none."""
        self._failed_starts += 1
        if self._failed_starts < STARTS_TRIED:
            return
        there = sum(worker.ready for worker in self._workers)
        if not there:
            raise MissingRequirement(
                "worker_not_started",
                f"No worker process can be started: {why.message}",
                "Try 'medconv predict' with one of the CTs; with fewer --workers less memory is needed.",
            )
        log.warning("Of %d processes only %d can be started: %s", self._wanted, there, why.message)
        self._wanted, self._failed_starts = there, 0

    def _let_go(self) -> None:
        """End those for whom there is nothing left: a case that is tried alone has the memory that they held."""
        free = [worker for worker in self._workers if worker.job is None and not worker.retires]
        for worker in free[len(self._waiting) :]:
            self._retire(worker)

    def _hand_out(self) -> None:
        """Give waiting cases to those who are free, as far as memory has room for them."""
        for worker in list(self._workers):
            if not (self._waiting and worker.ready and worker.job is None and not worker.retires):
                continue
            needed = self._needs_mb(self._waiting[0])
            others = [other for other in self._workers if other is not worker]
            fits = needed <= measuring.free_mb() - sum(other.will_take_mb for other in others)
            if not fits and any(other.job for other in others):
                return
            worker.job, worker.needs_mb, worker.alone = self._waiting.popleft(), needed, not fits
            worker.killed_for_memory = measuring.killed_for_memory()
            worker.started_at, worker.overdue = time.monotonic(), False
            with contextlib.suppress(OSError):  # it has just died, which its sentinel tells
                worker.pipe.send(worker.job.to_json())
            if worker.alone:
                for other in others:
                    self._retire(other)

    def _retire(self, worker: _Worker) -> None:
        worker.retires = True
        with contextlib.suppress(OSError):
            worker.pipe.send(None)

    def _heard_of(self, worker: _Worker) -> Iterator[Event]:
        """What a worker says, and that it has ended. Its last words count, if they are an outcome."""
        try:
            while worker.pipe.poll():
                yield from self._message(worker, worker.pipe.recv())
        except (EOFError, OSError):
            worker.process.join(processes.END_WITHIN_S)
            self._kill(worker)
            worker.process.join(processes.END_WITHIN_S)
        if not worker.process.is_alive() and worker in self._workers:
            yield from self._ended(worker)

    def _message(self, worker: _Worker, message: tuple[Any, ...]) -> Iterator[Event]:
        kind, *content = message
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            worker.rests_at_mb = content[0] or STARTED_MB
        elif kind == "started":
            yield Started(content[0], worker.name)
        elif kind == "known":
            outcome = self._known(content[0])
            worker.pipe.send(outcome.to_json() if outcome else None)
        elif kind == "broken":
            raise content[0]
        elif kind == "done":
            worker.job = None
            self._replace_if_grown(worker, content[1])
            yield Done(CaseOutcome.from_json(content[0]))

    def _replace_if_grown(self, worker: _Worker, rests_at_mb: float) -> None:
        """Tell it to end; when it has, another is started in its place. 0 MB: it can't be told here."""
        worker.rests_at_mb = rests_at_mb or STARTED_MB
        if len(worker.first_levels_mb) < FIRST_CASES:
            worker.first_levels_mb.append(rests_at_mb)
        elif rests_at_mb > max(worker.first_levels_mb) + self._growth_mb and not worker.retires:
            self.replaced += 1
            self._retire(worker)

    def _ended(self, worker: _Worker) -> Iterator[Event]:
        self._workers.remove(worker)
        exit_code = worker.process.exitcode or 0
        self._end(worker)
        if worker.job is not None:
            error = self._why(worker, exit_code)
            yield Crashed(worker.job.case_id, error.code, error.message)
        elif not worker.ready and not worker.retires:
            self._not_started(self._why(worker, exit_code))

    def _why(self, worker: _Worker, exit_code: int) -> MedConvError:
        if worker.overdue:
            return worker_errors.time_limit("case", self._time_limit_s)
        if exit_code == -KILLED and measuring.killed_for_memory() > worker.killed_for_memory:
            return worker_errors.no_memory()
        return worker_errors.death(exit_code, self._out / "none")

    def _end_overdue(self) -> None:
        for worker in self._workers:
            if worker.job and not worker.overdue and time.monotonic() - worker.started_at > self._time_limit_s:
                worker.overdue = True
                self._kill(worker)

    def _end(self, worker: _Worker) -> None:
        self._kill(worker)
        worker.process.join(processes.END_WITHIN_S)
        worker.pipe.close()
        shutil.rmtree(worker.temporary, ignore_errors=True)

    def _kill(self, worker: _Worker) -> None:
        """With all that a segmenter has started in it."""
        if os.name == "posix" and worker.temporary.exists():
            process_tree.kill(worker.process.pid, worker.temporary, processes.END_WITHIN_S)
        elif worker.process.is_alive():
            worker.process.kill()


def remove_abandoned_folders() -> None:
    """Remove folders of batches that were killed before they could: they may hold parts of a CT."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not processes.is_running(int(owner), folder):
            shutil.rmtree(folder, ignore_errors=True)
