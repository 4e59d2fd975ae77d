"""A crew on a Dask cluster that exists: who it is, whether each worker can do the work, and cases handed out to it.

Only jobs and outcomes travel; CTs, masks and results are files that all see under the same paths. Dask runs a case
again elsewhere if its worker dies; what a case does to its own child process is told as on one's own computer.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medconv import worker_errors
from medconv.batch import dask_case, dask_cluster
from medconv.batch.jobs import BatchJob, CaseOutcome, Crashed, Done, Started
from medconv.batch.settings import BatchSettings
from medconv.types import MissingRequirement

TICK_S = 0.5
LOOK_EVERY_S = 2.0
ANSWER_WITHIN_S = 60.0  # a worker that is asked whether it can take part, or for an outcome that it holds
WITHOUT_WORKERS_S = 600.0  # so long may all workers be away (a queue, a restart) before the batch ends
OLD_BATCH_S = 3.0  # for the children of a killed batch in the same folder to see that it is over

Event = Started | Done | Crashed

log = logging.getLogger(__name__)


class DaskCrew:
    """Workers of a Dask scheduler. See `jobs.Crew`.

    left_out: workers that came later and can't take part, with the reason; those that are there at the start must all
    be able to.
    """

    def __init__(
        self,
        address: str,
        settings: BatchSettings,
        out: Path,
        time_limit_s: float,
        connect_within_s: float = dask_cluster.CONNECT_WITHIN_S,
    ) -> None:
        """Connect, and ask every worker. Raises UsageError, MissingRequirement."""
        self._address, self._settings, self._out = address, settings.to_json(), out
        self._time_limit_s = time_limit_s
        self._batch = uuid.uuid4().hex[:12]
        self._happened: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._at_work: dict[str, tuple[BatchJob, Any]] = {}
        self._threads: dict[str, int] = {}
        self._looked_at = self._workers_at = time.monotonic()
        self._submitted = 0
        self.left_out: dict[str, str] = {}
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(dask_cluster.quiet())
        self._client: Any = None
        try:
            self._client = dask_cluster.connect(address, connect_within_s)
            self._take_over()
            self._client.subscribe_topic(f"medconv-{self._batch}", self._heard)
            self._first_look(connect_within_s)
        except BaseException:
            self.close()
            raise

    @property
    def room(self) -> int:
        return max(2 * sum(self._threads.values()), 1)

    def submit(self, job: BatchJob) -> None:
        self._send(job, seen=True)

    def _send(self, job: BatchJob, seen: bool) -> None:
        self._submitted += 1
        arguments = (job.to_json(), self._settings, str(self._out), self._batch, self._time_limit_s, seen)
        # Preferred, not insisted on: a worker that was restarted has another address.
        future = self._client.submit(
            dask_case.work, *arguments, key=f"medconv-{self._batch}-{self._submitted}-{job.case_id}", pure=False,
            workers=list(self._threads) or None, allow_other_workers=bool(self._threads),
        )  # fmt: skip
        self._at_work[job.case_id] = job, future
        future.add_done_callback(lambda done: self._happened.put(("ended", job.case_id, done)))

    def events(self) -> Iterator[Event | None]:
        """See `jobs.Crew`. Raises MissingRequirement if the scheduler, or every worker, is gone."""
        while self._at_work:
            self._look_around()
            try:
                kind, *content = self._happened.get(timeout=TICK_S)
            except queue.Empty:
                yield None
                continue
            if kind == "started":
                yield Started(*content)
            else:
                yield self._ended(*content)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            (self._out / dask_case.TOKEN.format(self._batch)).unlink()  # ends what the workers still do for us
        client, self._client = self._client, None
        if client is not None:
            # Whatever is wrong with the connection is of no importance any more.
            with contextlib.suppress(Exception):
                client.cancel([future for _, future in self._at_work.values()], force=True)
            with contextlib.suppress(Exception):
                client.close(timeout=2)
        self._at_work.clear()
        self._quiet.close()

    def _take_over(self) -> None:
        """Put this batch's token into the folder; workers of one that was killed see that theirs is gone."""
        old = list(self._out.glob(dask_case.TOKEN.format("*")))
        for token in old:
            token.unlink(missing_ok=True)
        (self._out / dask_case.TOKEN.format(self._batch)).write_text(self._batch, "ascii")
        if old:
            time.sleep(OLD_BATCH_S)

    def _heard(self, event: tuple[float, dict[str, str]]) -> None:
        _, told = event
        self._happened.put(("started", told["case_id"], told["place"]))

    def _ended(self, case_id: str, future: Any) -> Event | None:
        if case_id not in self._at_work or self._at_work[case_id][1] is not future:
            return None
        if future.cancelled():
            raise self._lost()
        told = self._result(future)
        if told is None:  # the worker died with the outcome in its hands: Dask does the case again
            future.add_done_callback(lambda done: self._happened.put(("ended", case_id, done)))
            return None
        job, _ = self._at_work.pop(case_id)
        if "done" in told:
            return Done(CaseOutcome.from_json(told["done"]))
        if "crashed" in told:
            return Crashed(case_id, *told["crashed"])
        if "unfit" in told:
            self._leave_out(told["worker"], *told["unfit"])
        elif "unseen" in told and not dask_case.unseen(job):
            message = f"it does not see {told['unseen']}."
            remedy = "Mount it on all computers, under the same path; the same command then goes on."
            self._leave_out(told["worker"], "cluster_worker_unfit", message, remedy)
        self._send(job, seen="unseen" not in told or not dask_case.unseen(job))
        return None

    def _result(self, future: Any) -> dict[str, Any] | None:
        from distributed import KilledWorker, TimeoutError

        try:
            told: dict[str, Any] = future.result(timeout=ANSWER_WITHIN_S)
        except TimeoutError:
            return None
        except KilledWorker:
            return {"crashed": ("worker_died", "The computers that worked on it were lost, one after the other.")}
        except Exception as error:
            if self._client.status != "running":
                raise self._lost() from error
            explained = worker_errors.explain(error, "case")
            return {"crashed": (explained.code, f"Dask could not run the case ({type(error).__name__}).")}
        return told

    def _first_look(self, within_s: float) -> None:
        until = time.monotonic() + within_s
        while not (workers := self._client.nthreads()) and time.monotonic() < until:
            time.sleep(0.2)
        if not workers:
            raise MissingRequirement(
                "no_cluster_workers",
                f"The scheduler at {self._address} has no workers.",
                f"Start some: dask worker {self._address} (docs/cluster.md).",
            )
        problems = dask_cluster.unfit(self._client, workers, self._settings, self._out, self._batch)
        if problems:
            hosts = "; ".join(f"{who}: {why}" for who, why in sorted(problems.items()))
            raise MissingRequirement(
                "cluster_worker_unfit",
                f"{len(problems)} of {len(workers)} workers can't take part. {hosts}.",
                "Give all workers the same packages, weights and folders, under the same paths (docs/cluster.md).",
            )
        self._threads = dict(workers)

    def _look_around(self) -> None:
        """Now and then: who has gone, and who has come and can take part."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            workers = self._client.nthreads()
            new = {who: n for who, n in workers.items() if who not in self._threads and who not in self.left_out}
            problems = dask_cluster.unfit(self._client, new, self._settings, self._out, self._batch)
        except (OSError, AttributeError, RuntimeError) as error:
            raise self._lost() from error
        for who, why in problems.items():
            self._tell_left_out(who, why)
        self._threads = {who: n for who, n in workers.items() if who not in self.left_out}
        if self._threads:
            self._workers_at = now
        elif now - self._workers_at > WITHOUT_WORKERS_S:
            raise MissingRequirement(
                "cluster_workers_gone",
                f"No worker that can take part has been there for {WITHOUT_WORKERS_S / 60:.0f} minutes.",
                f"Start workers for {self._address}; the same command goes on where it stopped.",
            )

    def _leave_out(self, worker: str, code: str, message: str, remedy: str) -> None:
        """A worker has found that it can't work at all. Raises MissingRequirement if it was the last."""
        self._tell_left_out(worker, message)
        self._threads.pop(worker, None)
        if not self._threads:
            raise MissingRequirement(code, f"No worker of the cluster can work: {message}", remedy)

    def _tell_left_out(self, worker: str, why: str) -> None:
        self.left_out[worker] = why
        log.warning("The worker %s is left out: %s", worker, why)

    def _lost(self) -> MissingRequirement:
        return MissingRequirement(
            "scheduler_lost",
            f"The Dask scheduler at {self._address} is gone, or was restarted.",
            "Start it and its workers again; the same command goes on where it stopped.",
        )
