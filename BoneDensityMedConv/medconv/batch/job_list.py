"""The cases of a batch as a file: thousands of series with hundreds of file names each would not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from medconv.batch.jobs import BatchJob
from medconv.types import UsageError


class JobList:
    """First `add` every case, then `close_list`, then go through them; sorted by case ids."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("wb+")
        self._places: dict[str, int] = {}  # case id → offset
        self.listed_twice = 0

    def __enter__(self) -> JobList:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, case_id: object) -> bool:
        return case_id in self._places

    def add(self, job: BatchJob) -> None:
        """A case; the same once more counts once. Raises UsageError for another one of the same name."""
        if job.case_id in self._places:
            earlier = self._read(self._places[job.case_id])
            if _input_of(earlier) != _input_of(job):
                raise _same_name(earlier, job)
            self.listed_twice += 1
            return
        self._places[job.case_id] = self._stream.seek(0, 2)
        self._stream.write(json.dumps(job.to_json()).encode("ascii") + b"\n")

    def close_list(self) -> None:
        self._stream.flush()
        self._places = dict(sorted(self._places.items()))

    def __iter__(self) -> Iterator[BatchJob]:
        for offset in self._places.values():
            yield self._read(offset)

    def differing_in_case(self) -> tuple[str, str] | None:
        """Two case ids that differ in upper and lower case only, if there are any."""
        ordered = sorted(self._places, key=str.casefold)
        return next((pair for pair in pairwise(ordered) if pair[0].casefold() == pair[1].casefold()), None)

    def _read(self, offset: int) -> BatchJob:
        self._stream.seek(offset)
        return BatchJob.from_json(json.loads(self._stream.readline()))


def _input_of(job: BatchJob) -> tuple[object, ...]:
    return job.ct, job.series_uid, job.mask, job.label, job.label_map


def _same_name(one: BatchJob, other: BatchJob) -> UsageError:
    told = [
        f"{job.ct} (mask {job.mask or 'none'}, label {job.label or job.label_map or 'any'})" for job in (one, other)
    ]
    return UsageError(
        "case_named_twice",
        f"Two cases are called '{one.case_id}': {' and '.join(told)}.",
        "Give each a case_id of its own in a CSV list.",
    )
