"""The cases of a batch as a file: thousands of series with hundreds of file names each would not fit into memory."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from medconv.batch.case_ids import with_digest
from medconv.batch.jobs import BatchJob


class JobList:
    """First `add` every case, then `close_list`, then go through them; sorted by unique case ids."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("wb+")
        self._places: list[tuple[str, int]] = []  # case id, offset
        self._seen: dict[str, set[str]] = defaultdict(set)  # case id without upper case → its distinct inputs
        self.listed_twice = 0

    def __enter__(self) -> JobList:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, case_id: object) -> bool:
        return case_id in self._names

    def add(self, job: BatchJob) -> None:
        """A case; the same input under the same name counts once."""
        inputs = self._seen[job.case_id.casefold()]
        if (what := _input_of(job)) in inputs:
            self.listed_twice += 1
            return
        inputs.add(what)
        self._places.append((job.case_id, self._stream.tell()))
        self._stream.write(json.dumps(job.to_json()).encode("ascii") + b"\n")

    def close_list(self) -> None:
        """Sort, and give a longer name to each of several inputs that would share one."""
        self._stream.flush()
        self._places = [(self._unique(case_id, offset), offset) for case_id, offset in self._places]
        self._places.sort()
        self._names = {case_id for case_id, _ in self._places}
        assert len(self._names) == len(self._places)
        self._seen.clear()

    def __iter__(self) -> Iterator[BatchJob]:
        for case_id, offset in self._places:
            yield replace(self._read(offset), case_id=case_id)

    def _unique(self, case_id: str, offset: int) -> str:
        alone = len(self._seen[case_id.casefold()]) == 1
        return case_id if alone else with_digest(case_id, _input_of(self._read(offset)))

    def _read(self, offset: int) -> BatchJob:
        self._stream.seek(offset)
        return BatchJob.from_json(json.loads(self._stream.readline()))


def _input_of(job: BatchJob) -> str:
    return "\0".join((job.ct, job.series_uid, job.mask, str(job.label), job.label_map))
