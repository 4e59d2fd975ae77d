"""A crew of processes on this computer, one thread each. Who dies in C takes one case with him, not the batch."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
STARTS_TRIED = 3  # in a row, without one process that became ready
# A worker with the shipped weights rests at 410 to 480 MB, whatever CTs it has seen (1,000 crops, 24 whole CTs): what
# rests above its first level by this much has grown, and is replaced.
GROWTH_MB = 600.0

Event = Started | Done | Crashed

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
    needs_mb: float = 0.0
    resting_mb: float = 0.0
    overdue: bool = False
    retires: bool = False


class LocalCrew:
    """Processes that work on cases. See `jobs.Crew`.

    known: the outcome of a case with these pixels. needs_mb: what a case will need of memory, for admission: cases
    that do not fit into the free memory together are begun one after the other.
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
        while len(self._workers) < min(self._wanted, busy + len(self._waiting)):
            self._workers.append(self._start())

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
        return _Worker(str(self._made), process, ours, temporary)

    def _hand_out(self) -> None:
        """Give waiting cases to those who are free, as far as memory has room for them."""
        for worker in self._workers:
            if not (self._waiting and worker.ready and worker.job is None and not worker.retires):
                continue
            needed = self._needs_mb(self._waiting[0])
            others = [w for w in self._workers if w.job is not None]
            # What the others need is not all taken yet; what they have taken already counts twice, on the safe side.
            if others and needed + sum(w.needs_mb for w in others) > measuring.free_mb():
                return
            worker.job, worker.needs_mb = self._waiting.popleft(), needed
            worker.started_at, worker.overdue = time.monotonic(), False
            with contextlib.suppress(OSError):  # it has just died, which its sentinel tells
                worker.pipe.send(worker.job.to_json())

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
        elif kind == "started":
            yield Started(content[0], worker.name)
        elif kind == "known":
            outcome = self._known(content[0])
            worker.pipe.send(outcome.to_json() if outcome else None)
        elif kind == "broken":
            raise content[0]
        elif kind == "done":
            worker.job = None
            self._replace_if_grown(worker, float(content[0]["measured"].get("resident_mb", 0.0)))
            yield Done(CaseOutcome.from_json(content[0]))

    def _replace_if_grown(self, worker: _Worker, resident_mb: float) -> None:
        """Tell it to end; when it has, another is started in its place."""
        worker.resting_mb = worker.resting_mb or resident_mb
        if resident_mb > worker.resting_mb + self._growth_mb:
            worker.retires = True
            self.replaced += 1
            with contextlib.suppress(OSError):
                worker.pipe.send(None)

    def _ended(self, worker: _Worker) -> Iterator[Event]:
        self._workers.remove(worker)
        exit_code = worker.process.exitcode or 0
        self._end(worker)
        if worker.job is not None:
            error = self._why(worker, exit_code)
            yield Crashed(worker.job.case_id, error.code, error.message)
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS_TRIED:
                raise MissingRequirement(
                    "worker_not_started",
                    f"No worker process can be started: {self._why(worker, exit_code).message}",
                    "Try 'medconv predict' with one of the CTs; with fewer --workers less memory is needed.",
                )

    def _why(self, worker: _Worker, exit_code: int) -> MedConvError:
        if worker.overdue:
            return worker_errors.time_limit("case", self._time_limit_s)
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
