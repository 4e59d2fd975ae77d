"""The ledger, the folder's lock, the table and the supervision: what is written is never lost, doubled or different."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medconv.batch import lock as lock_module
from medconv.batch.jobs import COLUMNS, BatchJob, CaseOutcome, Crashed, Done, Started, Status
from medconv.batch.known_answers import KnownAnswers
from medconv.batch.ledger import LEDGER_FILE, Ledger
from medconv.batch.lock import LOCK_FILE, FolderLock
from medconv.batch.settings import BatchSettings, check_same, read_settings, write_settings
from medconv.batch.supervision import CRASHES_ALLOWED, Supervisor
from medconv.batch.table import rows, write_table
from medconv.types import MissingRequirement, UsageError


def job(name: str, fingerprint: str = "f") -> BatchJob:
    return BatchJob(name, f"/cts/{name}.nii.gz", mask=f"/masks/{name}.nii.gz", label=31, fingerprint=fingerprint)


def refused(name: str, pixels: str = "") -> CaseOutcome:
    return CaseOutcome(name, Status.REFUSED, {"level": None}, "not_ct", "It is MR.", "Choose a CT.", pixels)


def answered(name: str, pixels: str = "", logit: float = 0.123456789) -> CaseOutcome:
    classes = ("normal", "osteopenia", "osteoporosis")
    document = {
        "t_score_class": "normal",
        "probabilities": dict(zip(classes, (0.7, 0.2, 0.1000004), strict=True)),
        "logits": dict(zip(classes, (logit, -0.0000001, 2.0), strict=True)),
        "prediction_set": ["normal", "osteopenia"],
        "attenuation": {"mean_hu": 150.12345, "median_hu": 149.0, "sd_hu": 30.0, "voxels": 1000, "volume_ml": 2.5},
        "l1": {"volume_ml": 44.04},
        "level": {"used_as": "L1", "doubts": []},
        "quality": [
            {"code": "b", "severity": "warning", "message": ""},
            {"code": "a", "severity": "warning", "message": ""},
            {"code": "c", "severity": "info", "message": ""},
        ],
        "model": {"name": "m", "sha256": "s", "trained_on": "t"},
    }
    measured = {"total": 1.5}
    return CaseOutcome(name, Status.OK, document, pixels=pixels, acquisition={"kvp": 120.0}, measured=measured)


def test_outcomes_come_back_as_they_were_written(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.done(job("b"), refused("b"))
        ledger.done(job("a"), answered("a"))
    with Ledger(tmp_path) as ledger:
        assert [outcome for _, outcome in ledger.outcomes()] == [answered("a"), refused("b")]
        assert [told for told, _ in ledger.outcomes()] == [job("a"), job("b")]
        assert ledger.counts() == Counter({Status.OK: 1, Status.REFUSED: 1})
        assert ledger.is_done(job("a"))
        assert not ledger.is_done(job("a", "another")), "a changed file is another case"


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_cut_off_and_done_again(tmp_path, cut) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.done(job("a"), refused("a"))
        ledger.done(job("b"), refused("b"))
    file = tmp_path / LEDGER_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    with Ledger(tmp_path) as ledger:
        assert ledger.is_done(job("a"))
        assert not ledger.is_done(job("b"))
        ledger.done(job("b"), refused("b"))
    assert [json.loads(line)["case_id"] for line in file.read_text().splitlines()] == ["a", "b"]


def test_a_damaged_line_costs_its_own_case_only(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        for name in "abc":
            ledger.done(job(name), refused(name))
    file = tmp_path / LEDGER_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"\0" * 50 + b"\n" + lines[2])
    with Ledger(tmp_path) as ledger:
        assert [ledger.is_done(job(name)) for name in "abc"] == [True, False, True]
        assert ledger.damaged_lines == 1
        assert ledger.outcome("c") == (job("c"), refused("c"))


def test_forgotten_cases_are_open_again_and_may_crash_anew(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        for _ in range(3):
            ledger.crashed(job("a"), "worker_died", "signal 11")
        ledger.done(job("a"), refused("a", "pixels"))
        ledger.forget("a", "asked for")
        assert not ledger.is_done(job("a"))
        assert KnownAnswers(tmp_path).known("pixels") is None
        assert ledger.crashed(job("a"), "worker_died", "signal 11") == 1
    with Ledger(tmp_path) as ledger:
        assert ledger.entries["a"].crashes.total() == 1


def test_equal_pixels_are_known_while_the_ledger_is_written(tmp_path) -> None:
    answers = KnownAnswers(tmp_path)
    assert answers.known("same") is None, "there is no ledger yet"
    with Ledger(tmp_path) as ledger:
        ledger.done(job("a"), answered("a", "same"))
        ledger.done(job("z"), CaseOutcome("z", Status.FAILED, code="internal_error", pixels="failed"))
        assert answers.known("same") == KnownAnswers(tmp_path).known("same") == answered("a", "same")
        assert answers.known("other") is None
        assert answers.known("") is None
        assert answers.known("failed") is None, "a failure is nobody else's answer"
        ledger.done(job("b"), refused("b", "late"))
        assert answers.known("late") == refused("b", "late")
        ledger.done(job("b", "changed"), refused("b", "other"))
        assert answers.known("late") is None, "b has other pixels now"
        ledger.forget("a", "asked for")
        assert answers.known("same") is None


def test_what_is_not_wholly_written_yet_is_known_later(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.note("begun")
        ledger.done(job("a"), answered("a", "same"))
    file = tmp_path / LEDGER_FILE
    whole = file.read_bytes()
    answers = KnownAnswers(tmp_path)
    file.write_bytes(whole[:-40])
    assert answers.known("same") is None
    file.write_bytes(b"\0" * 30 + b"\n" + whole)
    assert KnownAnswers(tmp_path).known("same") == answered("a", "same"), "a damaged line costs itself only"
    file.write_bytes(whole)
    assert answers.known("same") == answered("a", "same")


def test_a_path_with_any_bytes_goes_through_ledger_and_table(tmp_path) -> None:
    path = "/cts/" + os.fsdecode(b"M\xc3\xbcller\n\xff,.nii.gz")
    odd = replace(job("a"), ct=path)
    with Ledger(tmp_path) as ledger:
        ledger.done(odd, refused("a"))
        assert ledger.outcome("a")[0].ct == path
        write_table(tmp_path, ledger)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as stream:
        assert next(csv.DictReader(stream))["ct"] == "/cts/Müller\n\\xff,.nii.gz"


def test_the_table_does_not_depend_on_order_retries_or_times(tmp_path) -> None:
    contents = []
    for name, order in (("one", "abc"), ("two", "cab")):
        folder = tmp_path / name
        folder.mkdir()
        with Ledger(folder) as ledger:
            for case in order:
                if name == "two":
                    ledger.started(case, "7")
                    ledger.crashed(job(case), "worker_died", "signal 9")
                outcome = refused(case) if case == "c" else answered(case, "same")
                ledger.done(job(case), replace(outcome, measured={"total": len(contents) + 1.0}, details=name))
            files = write_table(folder, ledger)
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2, "CSV and Parquet"


def test_the_tables_text_is_fixed(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.done(job("b"), answered("b", "same"))
        ledger.done(job("a"), answered("a", "same"))
        write_table(tmp_path, ledger)
        assert [row["same_pixels_as"] for row in rows(ledger)] == [None, "a"]
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert tuple(first) == COLUMNS
    expected = {
        "case_id": "a", "status": "ok", "code": "", "p_osteoporosis": "0.100000", "logit_normal": "0.12346",
        "logit_osteopenia": "0.00000", "hu_mean": "150.123", "roi_voxels": "1000",
        "prediction_set": "normal osteopenia",
        "warnings": "a b", "notes": "c", "level_in_doubt": "false", "kvp": "120.000", "kernel": "",
        "ct": "/cts/a.nii.gz", "same_pixels_as": "",
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert second["same_pixels_as"] == "a"


def test_parquet_holds_the_same_values_with_types(tmp_path) -> None:
    from pyarrow import parquet

    with Ledger(tmp_path) as ledger:
        ledger.done(job("a"), answered("a"))
        ledger.done(job("b"), refused("b"))
        write_table(tmp_path, ledger)
    first, second = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert tuple(first) == COLUMNS
    assert (first["roi_voxels"], first["hu_mean"], first["level_in_doubt"]) == (1000, 150.123, False)
    assert (second["status"], second["code"], second["hu_mean"]) == ("refused", "not_ct", None)
    assert (second["message"], second["next_step"], first["next_step"]) == ("It is MR.", "Choose a CT.", None)


HOLD = "import sys, time; from medconv.batch.lock import FolderLock; from pathlib import Path\n"
HOLD += "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_a_second_batch_is_refused_and_a_killed_ones_lock_is_free(tmp_path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(UsageError, match=f"process {other.pid} on "):
            FolderLock(tmp_path)
    finally:
        other.kill()
        other.wait()
    FolderLock(tmp_path).release()
    FolderLock(tmp_path).release()


def test_a_batch_on_another_computer_is_believed_while_its_file_is_touched(tmp_path, monkeypatch) -> None:
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": "elsewhere", "process": 5}))
    with pytest.raises(UsageError, match="process 5 on elsewhere"):
        FolderLock(tmp_path)
    os.utime(tmp_path / LOCK_FILE, (1, 1))
    FolderLock(tmp_path).release()
    monkeypatch.setattr(lock_module, "_system_lock", lambda file: False)
    with pytest.raises(UsageError, match="Another batch is working"):
        FolderLock(tmp_path)


def eventually(ask: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not (true := ask()) and time.monotonic() < until:
        time.sleep(0.01)
    return true


@pytest.fixture
def held(tmp_path) -> Iterator[FolderLock]:
    """A lock that is kept every few milliseconds; the test's own thread never touches it."""
    lock = FolderLock(tmp_path, touch_every_s=0.01)
    yield lock
    lock.release()


def test_the_lock_stays_fresh_while_nobody_calls_it(held, tmp_path) -> None:
    file = tmp_path / LOCK_FILE
    os.utime(file, (1, 1))
    assert eventually(lambda: file.stat().st_mtime > 1)
    held.check()
    held.release()
    assert not [t for t in threading.enumerate() if t.name == "medconv-batch-lock"]
    FolderLock(tmp_path).release()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.write_text('{"host": "elsewhere", "process": 5}'), r"taken over .*process 5 on elsewhere"),
        (lambda file: file.write_text(""), "removed or overwritten"),
        (lambda file: file.unlink(), "removed or overwritten"),
    ],
)
def test_a_lock_that_became_another_s_ends_the_batch_and_is_left_alone(held, tmp_path, change, told) -> None:
    file = tmp_path / LOCK_FILE
    change(file)
    after = file.read_bytes() if file.exists() else None

    def is_lost() -> bool:
        try:
            held.check()
        except UsageError as error:
            return error.code == "batch_taken_over"
        return False

    assert eventually(is_lost)
    with pytest.raises(UsageError, match=told):
        held.check()
    held.release()
    assert (file.read_bytes() if file.exists() else None) == after


def test_a_batch_that_was_stopped_looks_at_its_lock_before_it_writes(tmp_path, monkeypatch) -> None:
    lock = FolderLock(tmp_path, touch_every_s=3600.0)
    (tmp_path / LOCK_FILE).write_text('{"host": "elsewhere", "process": 5}')
    lock.check()  # nobody has looked yet
    now = time.time()
    monkeypatch.setattr(lock_module.time, "time", lambda: now + 3 * 3600.0)
    with pytest.raises(UsageError, match="taken over"):
        lock.check()
    lock.release()


def test_other_settings_in_the_folder_are_named(tmp_path) -> None:
    settings = BatchSettings(inputs=("/in",), label=31, adjustment={"method": "none", "tau1": 1.0, "tau2": 0.0})
    assert read_settings(tmp_path) is None
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
    check_same(tmp_path, settings, read_settings(tmp_path))
    other = replace(settings, label=20, adjustment={"method": "none", "tau1": 2.0, "tau2": 0.0})
    with pytest.raises(UsageError, match=r"adjustment.tau1 1.0 \(asked for: 2.0\); label 31 \(asked for: 20\)"):
        check_same(tmp_path, settings, other)


def test_a_folder_of_an_older_version_is_refused_with_what_to_do(tmp_path) -> None:
    write_settings(tmp_path, BatchSettings(inputs=("/in",)))
    file = tmp_path / "batch.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UsageError, match=r"another version of MedConv \(format 1, here 2\)") as refused:
        read_settings(tmp_path)
    assert "Go on with that version, or choose another --out." in refused.value.remedy


class Script:
    """A crew that does what it is told for each case, one after the other, and notes what it was given."""

    room = 2

    def __init__(self, told: dict[str, list[str]]) -> None:
        self.told, self.waiting, self.begun, self.together = told, [], [], []

    def submit(self, job: BatchJob) -> None:
        self.waiting.append(job.case_id)

    def events(self) -> Iterator[Started | Done | Crashed | None]:
        while self.waiting:
            self.together.append(tuple(self.waiting))
            name = self.waiting.pop(0)
            self.begun.append(name)
            yield Started(name, "1")
            yield None
            what = self.told.get(name, ["ok"]).pop(0)
            if what == "ok":
                yield Done(answered(name))
            elif what == "no memory":
                yield Done(CaseOutcome(name, Status.FAILED, code="out_of_memory", message="Full."))
            else:
                yield Crashed(name, "worker_died", what)

    def close(self) -> None:
        self.waiting.clear()


def test_crashed_cases_are_tried_when_all_others_are_done_and_the_last_time_alone(tmp_path) -> None:
    crew = Script({"a": ["signal 11"] * 3, "b": ["signal 9", "ok"], "c": ["no memory", "ok"]})
    ended: list[Status] = []
    with Ledger(tmp_path) as ledger:
        supervisor = Supervisor(ledger, crew, ended.append)
        supervisor.work_through(job(name) for name in "abcdef")
        outcomes = {told.case_id: outcome for told, outcome in ledger.outcomes()}
    assert crew.begun[:6] == list("abcdef")
    assert crew.begun[6:] == ["a", "b", "c", "a"]
    assert crew.together[-1] == ("a",)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        **dict.fromkeys("bcdef", Status.OK), "a": Status.SET_ASIDE,
    }  # fmt: skip
    assert (outcomes["a"].code, outcomes["a"].message) == ("worker_died", f"Tried {CRASHES_ALLOWED} times. signal 11")
    assert supervisor.crashes == 5
    assert Counter(ended) == Counter({Status.OK: 5, Status.SET_ASIDE: 1})


def test_crashes_of_earlier_runs_count_and_one_chance_kill_changes_no_reason(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        for why in ("signal 11", "signal 11", "signal 9"):
            ledger.crashed(job("a"), "worker_died", why)
    crew = Script({})
    with Ledger(tmp_path) as ledger:
        Supervisor(ledger, crew).work_through([job("a")])
        assert ledger.outcome("a")[1].message == "Tried 3 times. signal 11"
    assert crew.begun == []


def test_a_reason_that_is_known_counts_more_than_two_kills_by_somebody(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        for code, why in (("worker_died", "signal 9"), ("time_limit", "Too long."), ("worker_died", "signal 9")):
            ledger.crashed(job("a"), code, why)
        Supervisor(ledger, Script({})).work_through([job("a")])
        outcome = ledger.outcome("a")[1]
    assert (outcome.code, outcome.message) == ("time_limit", "Tried 3 times. Too long.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_the_batch_and_says_that_it_goes_on(tmp_path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.done(job("a"), refused("a"))
        own, ledger._file = ledger._file, os.open("/dev/full", os.O_RDWR)
        with pytest.raises(MissingRequirement, match="the same command goes on"):
            Supervisor(ledger, Script({})).work_through([job("b")])
        os.close(ledger._file)
        ledger._file = own
        ledger.done(job("b"), refused("b"))
    with Ledger(tmp_path) as ledger:
        assert [told.case_id for told, _ in ledger.outcomes()] == ["a", "b"]
