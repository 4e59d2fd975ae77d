"""What a container leaves of memory and processors, whom memory makes wait, and who is replaced or blamed for it."""

from __future__ import annotations

import errno
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medconv.batch import local_workers, measuring, memory_needs
from medconv.batch.jobs import BatchJob, CaseOutcome, Crashed, Done, Started, Status
from medconv.batch.local_workers import LocalCrew
from medconv.batch.settings import BatchSettings
from medconv.types import MissingRequirement

GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712  # what a kernel of 64 bits with pages of 4 KiB shows
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {shown} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 31 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
)


def computer(root: Path, cgroup: str, mounts: str, files: dict[str, object]) -> Path:
    """A computer with 16 GiB free, as its files tell it; files below /sys/fs/cgroup."""
    told: dict[str, object] = {
        "proc/meminfo": f"MemTotal: {32 << 20} kB\nMemFree: 100 kB\nMemAvailable: {16 << 20} kB\n",
        "proc/self/cgroup": cgroup + "\n",
        "proc/self/mountinfo": "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts + "\n",
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in told.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n", "ascii")
    return root


STAT_V2 = f"anon {GIB}\nfile {3 * GIB // 2}\ninactive_file {GIB}\nactive_file {GIB // 2}\nfile_mapped {GIB // 4}"
STAT_V1 = (
    f"inactive_file 0\nactive_file 0\ntotal_inactive_file {GIB}\ntotal_active_file {GIB // 2}\n"
    f"total_mapped_file {GIB // 4}"
)
WITHIN = {
    "Docker": ("0::/", V2, {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "memory.stat": STAT_V2}),
    "SLURM, limit above the step's group": (
        "0::/job_7/step_0", V2,
        {"job_7/memory.max": 4 * GIB, "job_7/memory.current": 3 * GIB, "job_7/memory.stat": STAT_V2,
         "job_7/step_0/memory.max": "max", "job_7/step_0/memory.current": GIB},
    ),
    "slowed down before the limit": (
        "0::/a", V2,
        {"a/memory.max": 9 * GIB, "a/memory.high": 4 * GIB, "a/memory.current": 3 * GIB, "a/memory.stat": STAT_V2},
    ),
    "version 1, seen from outside": (
        "9:name=systemd:/\n4:memory:/slurm/job_7\n0::/", V1.format(shown="/"),
        {"memory/slurm/job_7/memory.limit_in_bytes": 4 * GIB, "memory/slurm/job_7/memory.usage_in_bytes": 3 * GIB,
         "memory/slurm/job_7/memory.stat": STAT_V1, "memory/memory.limit_in_bytes": UNLIMITED_V1,
         "memory/memory.usage_in_bytes": 30 * GIB},
    ),
    "version 1, Docker": (
        "4:memory:/docker/abc", V1.format(shown="/docker/abc"),
        {"memory/memory.limit_in_bytes": 4 * GIB, "memory/memory.usage_in_bytes": 3 * GIB,
         "memory/memory.stat": STAT_V1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", WITHIN)
def test_a_containers_limit_counts_and_files_that_were_read_are_free(tmp_path, where) -> None:
    """4 GiB, 3 in use, of which 1.5 hold files and 0.25 of these run as programs: 4 - 3 + 1.25."""
    assert measuring.free_mb(computer(tmp_path, *WITHIN[where])) == pytest.approx(2.25 * GIB / 1e6)


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files"),
    [
        ("0::/", V2, {"memory.max": "max", "memory.current": 3 * GIB}),
        ("0::/", V2, {}),
        ("4:memory:/", V1.format(shown="/"), {"memory/memory.limit_in_bytes": UNLIMITED_V1,
                                              "memory/memory.usage_in_bytes": GIB}),
        ("0::/../other", V2, {"memory.max": "max"}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_without_a_limit_the_computers_own_memory_counts(tmp_path, cgroup, mounts, files) -> None:
    assert measuring.free_mb(computer(tmp_path, cgroup, mounts, files)) == pytest.approx(16 * GIB / 1e6)


def test_a_computer_that_tells_nothing_limits_nothing(tmp_path) -> None:
    assert measuring.free_mb(tmp_path) == float("inf")
    assert measuring.killed_for_memory(tmp_path) == 0


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "cores"),
    [
        ("0::/a/b", V2, {"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/", V2, {"cpu.max": "50000 100000"}, 1),
        ("0::/", V2, {"cpu.max": "max 100000"}, 8),
        ("3:cpu,cpuacct:/x", V1.format(shown="/x"), {"cpu,cpuacct/cpu.cfs_quota_us": 300000,
                                                     "cpu,cpuacct/cpu.cfs_period_us": 100000}, 3),
        ("3:cpu,cpuacct:/x", V1.format(shown="/x"), {"cpu,cpuacct/cpu.cfs_quota_us": -1,
                                                     "cpu,cpuacct/cpu.cfs_period_us": 100000}, 8),
    ],
)  # fmt: skip
def test_a_share_of_time_is_told_in_whole_processors(tmp_path, monkeypatch, cgroup, mounts, files, cores) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert measuring.cores(computer(tmp_path, cgroup, mounts, files)) == cores


def test_workers_by_default_are_as_many_as_the_limits_carry(monkeypatch) -> None:
    monkeypatch.setattr(measuring, "cores", lambda: 4)
    monkeypatch.setattr(measuring, "free_mb", lambda: 3200.0)
    assert [memory_needs.default_workers(segmenting, "cpu") for segmenting in (False, True)] == [2, 1]


def test_a_case_needs_what_its_ct_and_its_mask_hold(tmp_path) -> None:
    for name, megabytes in (("ct.nii", 100), ("one_byte.nii", 50), ("eight_bytes.nii", 400)):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(megabytes * 10**6)
    ct = str(tmp_path / "ct.nii")
    small, large = (
        memory_needs.needs_mb(BatchJob("a", ct, mask=str(tmp_path / name)))
        for name in ("one_byte.nii", "eight_bytes.nii")
    )
    assert large - small == pytest.approx(350)
    assert small > memory_needs.CASE_MB + 150


# --- the crew, with workers that are no processes


@dataclass
class Computer:
    """Memory as the crew sees it. takes_mb: of a case beside a resting worker; leaks_mb: what a case leaves behind."""

    total_mb: float
    takes_mb: dict[str, float] = field(default_factory=dict)
    leaks_mb: dict[str, float] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    together: list[set[str]] = field(default_factory=list)
    kills: int = 0

    def there(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.exitcode is None]

    def free_mb(self) -> float:
        return self.total_mb - sum(worker.has_mb for worker in self.there())


class Worker:
    """Process and pipe of a worker in one. It ends its case when the crew waits for it."""

    def __init__(self, computer: Computer) -> None:
        self.computer, self.job = computer, ""
        self.pid = len(computer.workers)
        self.exitcode: int | None = None
        self.rests_mb = self.has_mb = 400.0
        self.says: deque[Any] = deque([("ready", self.rests_mb)])
        self.sentinel = self

    def send(self, told: dict[str, Any] | None) -> None:
        if told is None:
            self.exitcode = 0
            return
        self.job = told["case_id"]
        self.has_mb += self.computer.takes_mb.get(self.job, 0.0)
        self.computer.together.append({worker.job for worker in self.computer.there() if worker.job})
        self.says.append(("started", self.job))

    def work(self) -> None:
        if self.computer.free_mb() < 0 and self.job:
            self.exitcode = -9
            self.computer.kills += 1
        elif self.job and not self.says:
            self.rests_mb += self.computer.leaks_mb.get(self.job, 0.0)
            self.has_mb = self.rests_mb
            self.says.append(("done", CaseOutcome(self.job, Status.OK).to_json(), self.rests_mb))
            self.job = ""

    def poll(self) -> bool:
        return bool(self.says) or self.exitcode is not None

    def recv(self) -> Any:
        if not self.says:
            raise EOFError
        return self.says.popleft()

    def join(self, within_s: float) -> None: ...

    def close(self) -> None: ...

    def kill(self) -> None:
        self.exitcode = -9

    def is_alive(self) -> bool:
        return self.exitcode is None


@pytest.fixture
def hire(monkeypatch, tmp_path) -> Callable[..., LocalCrew]:
    """A crew on such a computer; of its first starts, `fail` fail."""

    def make(computer: Computer, workers: int, fail: int = 0, **options: Any) -> LocalCrew:
        starts = itertools.count()

        def start(crew: LocalCrew) -> local_workers._Worker:
            if computer.workers and next(starts) < fail:
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            computer.workers.append(Worker(computer))
            new: Any = computer.workers[-1]
            return local_workers._Worker(str(len(computer.workers)), new, new, tmp_path / "none")

        def wait(those: list[Worker], timeout_s: float) -> list[Worker]:
            for worker in computer.there():
                worker.work()
            return [worker for worker in those if worker.poll()]

        def memory_mb(status: Path) -> dict[str, float]:
            return {"resident_mb": computer.workers[int(status.parent.name)].has_mb}

        monkeypatch.setattr(LocalCrew, "_start", start)
        monkeypatch.setattr(local_workers.connection, "wait", wait)
        monkeypatch.setattr(measuring, "process_memory_mb", memory_mb)
        monkeypatch.setattr(measuring, "free_mb", computer.free_mb)
        monkeypatch.setattr(measuring, "killed_for_memory", lambda: computer.kills)
        return LocalCrew(BatchSettings(), tmp_path, workers, 1e6, needs_mb=computer_needs(computer), **options)

    return make


def computer_needs(computer: Computer) -> Callable[[BatchJob], float]:
    return lambda job: computer.takes_mb.get(job.case_id, 0.0)


def ended(crew: LocalCrew, names: Iterable[str]) -> list[tuple[str, str]]:
    """(case, "done" or the code of its crash), in order."""
    for name in names:
        crew.submit(BatchJob(name, f"/{name}"))
    found = []
    for number, event in enumerate(crew.events()):
        assert number < 1000, "it does not end"
        if isinstance(event, Done):
            found.append((event.outcome.case_id, "done"))
        elif isinstance(event, Crashed):
            found.append((event.case_id, event.code))
    return found


def test_cases_that_do_not_fit_together_wait_for_one_another(hire) -> None:
    computer = Computer(2000.0, dict.fromkeys("abcd", 700.0))
    assert sorted(ended(hire(computer, 2), "abcd")) == [(name, "done") for name in "abcd"]
    assert [len(those) for those in computer.together] == [1, 1, 1, 1]
    assert computer.kills == 0


def test_cases_that_fit_together_are_done_together(hire) -> None:
    """2 × 400 MB at rest and 2 × 600 MB: what a case has already taken is not counted again."""
    computer = Computer(2000.0, dict.fromkeys("abcd", 600.0))
    ended(hire(computer, 2), "abcd")
    assert max(len(those) for those in computer.together) == 2
    assert computer.kills == 0


def test_a_case_that_never_fits_has_its_chance_alone_and_small_ones_do_not_overtake_it_for_ever(hire) -> None:
    """Alone with one worker it fits; beside another that only rests it would not."""
    computer = Computer(2000.0, {"big": 1500.0, **dict.fromkeys("abcdef", 100.0)})
    found = ended(hire(computer, 2), ["a", "b", "big", *"cdef"])
    assert {name for name, how in found if how == "done"} == {"big", *"abcdef"}
    assert {"big"} in computer.together
    assert [name for name, _ in found].index("big") <= 3
    assert computer.kills == 0


def test_who_is_killed_for_memory_is_told_so_and_the_others_are_answered(hire) -> None:
    computer = Computer(2000.0, {"huge": 5000.0})
    found = ended(hire(computer, 2), ["a", "huge", "b"])
    assert sorted(found) == [("a", "done"), ("b", "done"), ("huge", "out_of_memory")]


def test_who_is_killed_by_another_is_not_told_that_memory_was_short(hire) -> None:
    computer = Computer(2000.0)
    crew = hire(computer, 1)
    crew.submit(BatchJob("a", "/a"))
    found = []
    for event in crew.events():
        if isinstance(event, Started):
            computer.workers[0].kill()
        found.append(event)
    (crashed,) = [event for event in found if isinstance(event, Crashed)]
    assert crashed.code == "worker_died"


def test_a_worker_that_has_grown_is_replaced_between_two_cases(hire) -> None:
    """400 MB at rest, 100 MB more after each case: after three cases 700 MB are its level, 800 MB are grown."""
    names = "abcdefgh"
    computer = Computer(1e6, leaks_mb=dict.fromkeys(names, 100.0))
    crew = hire(computer, 1, growth_mb=90.0)
    assert ended(crew, names) == [(name, "done") for name in names]
    assert crew.replaced == 2
    assert [worker.rests_mb for worker in computer.workers] == [800.0, 800.0]


def test_processes_that_can_not_be_started_leave_the_work_to_the_others(hire, caplog) -> None:
    computer = Computer(1e6)
    assert len(ended(hire(computer, 3, fail=100), "abcdef")) == 6
    assert len(computer.workers) == 1
    assert "Of 3 processes only 1 can be started" in caplog.text


def test_nobody_who_can_be_started_ends_the_batch(hire, monkeypatch) -> None:
    crew = hire(Computer(1e6), 2)

    def refuse(crew: LocalCrew) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(LocalCrew, "_start", refuse)
    with pytest.raises(MissingRequirement, match="No worker process can be started: The computer's memory is full"):
        ended(crew, "a")
