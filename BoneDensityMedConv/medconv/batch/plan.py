"""What a batch has to do: the cases that are listed, compared with what the ledger has of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medconv.batch.job_list import JobList
from medconv.batch.jobs import BatchJob, Status
from medconv.batch.known_answers import ANSWERS
from medconv.batch.ledger import Ledger


@dataclass(frozen=True)
class Plan:
    """missing: cases to do. there: outcomes that stay. changed: cases whose files have. gone: rows without a CT now.

    away: those of them that are still listed, whose CT or mask is not there at the moment.
    """

    missing: int
    there: Counter[Status]
    changed: int
    gone: int
    away: frozenset[str] = frozenset()
    shared_masks: int = 0


def make_plan(jobs: JobList, ledger: Ledger, retry: list[str]) -> Plan:
    """Compare what is listed with what the ledger has; what is to be done again is forgotten there."""
    missing = changed = 0
    there: Counter[Status] = Counter()
    away: set[str] = set()
    masks: dict[str, str] = {}
    shared = 0
    for job in jobs:
        shared += bool(job.mask) and masks.setdefault(job.mask, job.ct) != job.ct
        entry = ledger.entries.get(job.case_id)
        if entry is not None and entry.offset >= 0:
            if entry.fingerprint != job.fingerprint and entry.status in ANSWERS and not _is_there(job):
                away.add(job.case_id)  # a drive that is away: its answer was right when it was given
                there[entry.status] += 1
                continue
            if entry.fingerprint != job.fingerprint:
                changed += 1
                ledger.forget(job.case_id, "its files, or how they are read, have changed")
            elif entry.status in retry:
                ledger.forget(job.case_id, "asked for")
        if ledger.is_done(job):
            there[ledger.entries[job.case_id].status or Status.OK] += 1
        else:
            missing += 1
    gone = sum(entry.offset >= 0 and case_id not in jobs for case_id, entry in ledger.entries.items())
    return Plan(missing, there, changed, gone + len(away), frozenset(away), shared)


def _is_there(job: BatchJob) -> bool:
    return all(Path(path).exists() for path in (job.ct, job.mask) if path)
