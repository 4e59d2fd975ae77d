"""Simulated patients in parallel processes, one thread each; Ctrl-C ends them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

from medconv import processes
from medconv.simulated_cohort import Job, run_job
from medconv.types import MissingRequirement


def run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[Mapping[str, float]]:
    """Do all jobs, in any order; yields each one's CPU seconds by stage.

    Raises MissingRequirement if a process is killed from outside, which is what a system without memory does.
    """
    if not jobs:
        return
    # "spawn": a forked child of a process that has used torch or OpenMP can hang.
    context = multiprocessing.get_context("spawn")
    with processes.one_thread_each():
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _follow_the_parent)
        futures = [pool.submit(run_job, job) for job in jobs]
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise MissingRequirement(
            "simulation_killed",
            "A simulating process was killed, most likely because memory ran out.",
            "Start the same command again with fewer --workers; it goes on where it was.",
        ) from error
    finally:
        children = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        if any(not future.done() for future in futures):
            for child in children:
                child.terminate()
        for child in children:
            child.join()


def _follow_the_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it: a parent that is killed can't tell its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
