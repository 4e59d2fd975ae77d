"""The client of the worker process: events, damage, death, cancelling, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core import fake_segmenter
from core.worker_driver import events_of, is_running, wait_until

from medconv import pipeline, process_tree, processes, worker_client
from medconv.segmenter import SegmenterRequest
from medconv.types import Adjustment, Cancelled, InputRefused, MedConvError, MissingRequirement, UsageError
from medconv.worker_client import Done, Failure, Progress, Result, Segmented, WorkerClient

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="uses POSIX signals")

HEAD = """
import json, os, sys, time
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
say(event="ready")
for line in sys.stdin:
    command = json.loads(line); job = command.get("id")
"""


@pytest.fixture
def case(vertebra):
    return pipeline.prepare(vertebra.ct, vertebra.mask)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A private temporary folder, to see what is left in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def worker_of(temporary, tmp_path_factory):
    """Make a worker whose process runs `body` for every command."""
    made = []

    def make(body: str) -> WorkerClient:
        script = tmp_path_factory.mktemp("worker") / "worker.py"
        script.write_text(HEAD + textwrap.indent(textwrap.dedent(body), "    "))
        made.append(WorkerClient([sys.executable, str(script)]))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def segmenting(temporary):
    """Make a client of the real worker process whose segmenter behaves as told (see fake_segmenter)."""
    made = []

    def make(*behaviour: object, **options: float) -> WorkerClient:
        command = [sys.executable, fake_segmenter.__file__, *map(str, behaviour)]
        made.append(WorkerClient(command, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


DEMONSTRATION = SegmenterRequest("demonstration")

ANSWER = """
say(event="progress", id=job, stage="Measuring", fraction=0.25)
say(event="result", id=job, result={"case": os.path.exists(command["case"]), "command": command, "pid": os.getpid()})
"""


def test_progress_and_result_arrive_in_order_and_the_process_stays_warm(worker_of, case):
    worker = worker_of(ANSWER)
    worker.analyse(case, "name", "cpu", Adjustment("temperature", 1.0, 0.5))
    progress, result = events_of(worker)
    assert progress == Progress("Measuring", 0.25)
    assert result.document["case"] is True
    command = result.document["command"]
    assert (command["weights"], command["device"]) == ("name", "cpu")
    assert command["adjustment"] == {"method": "temperature", "tau1": 1.0, "tau2": 0.5}
    assert not Path(command["case"]).exists(), "the case, a part of someone's CT, must go once it is analysed"
    worker.analyse(case)
    again = events_of(worker)[-1]
    assert again.document["pid"] == result.document["pid"]
    assert again.document["command"]["weights"] is None


def test_warming_up_is_silent_and_is_no_job(worker_of, case):
    worker = worker_of("""
        if command["command"] == "warm":
            warmed = [command["weights"], command["device"]]
            say(event="warm", done=True)
        else:
            say(event="result", id=job, result={"warmed": warmed, "pid": os.getpid()})
    """)
    worker.warm("name", "cpu")
    process_id = worker.process_id
    assert process_id is not None
    assert not worker.busy
    worker.analyse(case)
    worker.warm("other", "cpu")  # not while there is work
    assert events_of(worker) == [Result({"warmed": ["name", "cpu"], "pid": process_id})]
    assert worker.poll() == []
    worker.close()
    wait_until(lambda: not is_running(process_id))


def test_a_process_that_ends_while_it_warms_up_is_no_failure(worker_of, case, tmp_path):
    flag = tmp_path / "died"
    worker = worker_of(f"""
        if command["command"] == "warm":
            open({str(flag)!r}, "w").close()
            os._exit(3)
        say(event="result", id=job, result={{}})
    """)
    worker.warm()
    wait_until(lambda: flag.exists() and not is_running(worker.process_id or 0))
    assert worker.poll() == []
    worker.analyse(case)
    assert events_of(worker) == [Result({})]


def test_an_error_of_the_worker_arrives_as_it_is(worker_of, case):
    worker = worker_of('say(event="error", id=job, code="hu", message="Not HU.", remedy="Use a CT.")')
    worker.analyse(case)
    assert events_of(worker) == [Failure("hu", "Not HU.", "Use a CT.")]


def test_half_lines_noise_and_other_jobs_events_do_no_harm(worker_of, case):
    worker = worker_of(r"""
        sys.stdout.buffer.write(b"Loading...\n{not json}\n[1, 2]\n\xff\n42\n"); sys.stdout.flush()
        say(event="result", id="999", result={"wrong": True})
        sys.stdout.write('50%%|####   {"event": "progress", "id": "%s", "stage": "S", "fra' % job); sys.stdout.flush()
        time.sleep(0.2)
        sys.stdout.write('ction": 7}\n'); sys.stdout.flush()
        say(event="progress", id=job, stage="T", fraction=None)
        say(event="result", id=job, result={"right": True})
    """)
    worker.analyse(case)
    assert events_of(worker) == [Progress("S", 1.0), Progress("T", 0.0), Result({"right": True})]


def test_a_second_analysis_while_busy_is_refused(worker_of, case):
    worker = worker_of("time.sleep(30)")
    worker.analyse(case)
    with pytest.raises(RuntimeError):
        worker.analyse(case)


def test_a_process_that_dies_is_told_with_its_last_words_and_the_next_analysis_works(worker_of, case, tmp_path):
    flag = tmp_path / "died"
    worker = worker_of(f"""
        if not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, "w").close()
            sys.stderr.write("first\\nsecond\\nthird\\nMemoryError: no more\\n"); sys.stderr.flush()
            os._exit(3)
        say(event="result", id=job, result={{}})
    """)
    worker.analyse(case)
    (failure,) = events_of(worker)
    assert failure.code == "worker_died"
    assert "exit code 3" in failure.message
    assert "MemoryError: no more" in failure.remedy
    assert "first" not in failure.remedy
    worker.analyse(case)
    assert events_of(worker) == [Result({})]


@posix_only
def test_killed_at_any_moment_it_recovers(worker_of, case):
    worker = worker_of("""
        say(event="progress", id=job, stage="S", fraction=0.5)
        time.sleep(0.15)
        say(event="result", id=job, result={})
    """)
    outcomes = []
    for delay_s in (0.0, 0.02, 0.1, 0.16, 0.3):
        worker.analyse(case)
        time.sleep(delay_s)
        os.kill(worker.process_id, signal.SIGKILL)
        last = events_of(worker)[-1]
        assert isinstance(last, Result) or "signal 9" in last.message
        outcomes.append(last)
    assert any(isinstance(outcome, Failure) for outcome in outcomes)
    worker.analyse(case)
    assert events_of(worker)[-1] == Result({})


@posix_only
def test_killed_while_idle_the_next_analysis_starts_a_new_process(worker_of, case):
    worker = worker_of(ANSWER)
    worker.analyse(case)
    first = events_of(worker)[-1].document["pid"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_running(first))
    worker.analyse(case)
    assert events_of(worker)[-1].document["pid"] != first


@posix_only
def test_cancel_ends_the_whole_tree_within_two_seconds_and_leaves_no_file(worker_of, case, temporary):
    worker = worker_of("""
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ignore = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", ignore])
        open(os.path.join(os.environ["TMPDIR"], "litter"), "w").close()
        say(event="progress", id=job, stage=str(child.pid), fraction=0)
        time.sleep(60)
    """)
    worker.analyse(case)
    found = []
    wait_until(lambda: found.extend(worker.poll()) or found)
    child, own = int(found[0].stage), worker.process_id
    assert is_running(child)
    assert is_running(own)
    assert [p.name for p in temporary.iterdir() if p.name.startswith("medconv")] != []
    worker.cancel()
    wait_until(lambda: not is_running(child) and not is_running(own), within_s=2.0)
    assert not worker.busy
    assert worker.poll() == []
    assert list(temporary.iterdir()) == []


def test_close_is_safe_at_any_time_and_leaves_no_file(worker_of, case, temporary):
    worker = worker_of(ANSWER)
    worker.close()
    worker.analyse(case)
    events_of(worker)
    worker.close()
    worker.close()
    assert list(temporary.iterdir()) == []
    worker.analyse(case)
    assert isinstance(events_of(worker)[-1], Result)


def test_a_command_that_does_not_exist_is_an_os_error_and_leaves_no_file(case, temporary):
    worker = WorkerClient([str(temporary / "no-such-python")])
    with pytest.raises(OSError, match="no-such-python"):
        worker.analyse(case)
    assert not worker.busy
    worker.close()
    assert list(temporary.iterdir()) == []


@posix_only
def test_the_worker_ends_when_the_application_is_killed(tmp_path, case):
    """The application can't tidy up then; the worker sees its standard input close."""
    application = tmp_path / "application.py"
    application.write_text(
        textwrap.dedent("""
        import sys, time
        from medconv.worker_client import WorkerClient
        worker = WorkerClient(); worker.start()
        print(worker.process_id, worker.folder, flush=True)
        time.sleep(60)
    """)
    )
    root = Path(processes.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, str(application)], stdout=subprocess.PIPE, env=environment, text=True)
    child, folder = parent.stdout.readline().split(maxsplit=1)
    assert is_running(int(child))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_running(int(child)), within_s=15.0)
    assert not Path(folder.strip()).exists(), "it may hold parts of a CT"


@posix_only
def test_folders_of_killed_applications_are_removed_at_the_next_start_and_others_stay(worker_of, case, temporary):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    abandoned = temporary / f"{processes.FOLDER_PREFIX}{gone.pid}-abc"
    in_use = temporary / f"{processes.FOLDER_PREFIX}{os.getppid()}-abc"
    foreign = temporary / f"{processes.FOLDER_PREFIX}notes"
    for folder in (abandoned, in_use, foreign):
        folder.mkdir()
    worker = worker_of(ANSWER)
    worker.start()
    assert not abandoned.exists()
    assert in_use.is_dir()
    assert foreign.is_dir()


def test_the_environment_lets_the_worker_import_medconv_and_keeps_files_private(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/somewhere", "/root"]))
    monkeypatch.setenv("PYTHONSTARTUP", "/startup.py")
    environment = processes.environment(Path("/root"), tmp_path)
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(Path("/root")), "/somewhere"]
    assert {environment[name] for name in ("TMPDIR", "TEMP", "TMP")} == {str(tmp_path / "tmp")}
    assert "PYTHONSTARTUP" not in environment


def test_in_slicer_the_worker_runs_on_pythonslicer_and_never_on_the_application(tmp_path, monkeypatch):
    import slicer

    assert processes.python_executable() == sys.executable
    monkeypatch.setattr(slicer, "app", object(), raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    with pytest.raises(FileNotFoundError, match="PythonSlicer"):
        processes.python_executable()
    launcher = tmp_path / ("PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer")
    launcher.touch(mode=0o755)
    assert processes.python_executable() == str(launcher)


def test_a_segmentation_arrives_on_the_cts_grid_and_nothing_of_the_ct_stays(segmenting, vertebra, temporary):
    worker = segmenting("steady")
    for _ in range(2):
        worker.segment(vertebra.ct, DEMONSTRATION)
        first, *events, last = events_of(worker)
        assert first == Progress("Handing over the CT", 0.0)
        assert Progress("Step 10", 0.5) in events
        assert isinstance(last, Segmented)
        assert np.array_equal(last.segmentation.labels_zyx, (vertebra.ct.array_zyx > 300) * 31)
        assert last.segmentation.ct_geometry == vertebra.ct.geometry
        assert sorted(path.name for path in worker.folder.iterdir()) == ["events.jsonl", "log.txt", "tmp"]
    worker.close()
    assert list(temporary.iterdir()) == []


def test_the_process_is_kept_for_the_next_ct(segmenting, vertebra):
    worker = segmenting("steady")
    pids = {worker.segment_and_wait(vertebra.ct, DEMONSTRATION).identity for _ in range(3)}
    assert pids == {str(worker.process_id)}


def test_the_ct_is_handed_over_piece_by_piece_from_poll_and_only_then_the_command_goes(
    worker_of, vertebra, monkeypatch
):
    worker = worker_of('say(event="done", id=job, text=str(os.path.getsize(command["ct"].replace("json", "raw"))))')
    depth, size = len(vertebra.ct.array_zyx), vertebra.ct.array_zyx.nbytes
    monkeypatch.setattr(worker_client, "HAND_OVER_BYTES", size // 10)
    worker.segment(vertebra.ct, DEMONSTRATION)
    assert list(worker.folder.glob("job-*/*")) == [], "segment itself writes nothing"
    written = []
    while not (written and written[-1] == size):
        assert worker.poll() == [Progress("Handing over the CT", 0.0)]
        written.append(next(worker.folder.glob("job-*/ct.raw")).stat().st_size)
    steps = np.diff([0, *written])
    assert steps.min() > 0
    assert steps.max() <= size // 10 + 8 * size // depth, "whole slices"
    assert events_of(worker) == [Done(str(size))]


def test_the_request_arrives_with_paths_that_hold_in_the_process_own_folder(worker_of, vertebra, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    worker = worker_of('say(event="done", id=job, text=json.dumps(command["request"]))')
    request = SegmenterRequest("nnunet", "fast", "models/a", "map.json", "weights ü", "cpu", True)
    for label_map, expected in (("map.json", str(tmp_path / "map.json")), ("verse", "verse"), ("", "")):
        worker.segment(vertebra.ct, replace(request, label_map=label_map))
        told = json.loads(events_of(worker)[-1].text)
        assert told == {
            "kind": "nnunet", "quality": "fast", "folder": str(tmp_path / "models" / "a"), "label_map": expected,
            "weights_folder": str(tmp_path / "weights ü"), "device": "cpu", "insist": True,
        }  # fmt: skip


def test_weights_are_fetched_and_imported_in_the_process(worker_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    worker = worker_of('say(event="done", id=job, text=json.dumps(command))')
    worker.fetch_weights("fast")
    command = json.loads(events_of(worker)[-1].text)
    assert [command[key] for key in ("command", "action", "quality", "weights_folder")] == [
        "weights", "fetch", "fast", "",
    ]  # fmt: skip
    worker.import_weights(Path("a b.zip"), "weights")
    command = json.loads(events_of(worker)[-1].text)
    assert [command[key] for key in ("action", "file", "weights_folder")] == [
        "import", str(tmp_path / "a b.zip"), str(tmp_path / "weights"),
    ]  # fmt: skip


@posix_only
@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_a_fetch_that_is_ended_leaves_nothing_beside_the_weights(worker_of, tmp_path, how):
    weights = tmp_path / "weights"
    (weights / "Dataset297").mkdir(parents=True)
    worker = worker_of("""
        os.mkdir(os.path.join(command["weights_folder"], f".medconv-incoming-{os.getpid()}-x"))
        say(event="progress", id=job, stage="Fetching", fraction=0.5)
        time.sleep(60)
    """)
    worker.fetch_weights("fast", str(weights))
    wait_until(worker.poll)
    assert len(list(weights.iterdir())) == 2
    if how == "cancelled":
        worker.cancel()
    else:
        os.kill(worker.process_id, signal.SIGKILL)
        events_of(worker)
    assert [path.name for path in weights.iterdir()] == ["Dataset297"]


@posix_only
def test_a_process_that_the_system_kills_is_explained_as_a_full_memory(segmenting, vertebra):
    worker = segmenting("endless")
    worker.segment(vertebra.ct, DEMONSTRATION)
    wait_until(lambda: Progress("Endless", 0.5) in worker.poll(), within_s=20)
    os.kill(worker.process_id, signal.SIGKILL)
    (failure,) = events_of(worker)
    assert failure.code == "worker_died"
    assert "signal 9" in failure.message
    assert "probably because the computer's memory is full" in failure.message
    assert "Close other programs" in failure.remedy


def test_after_its_time_limit_a_job_is_ended_with_its_process(segmenting, vertebra, temporary):
    worker = segmenting("endless", time_limit_s=2.0)
    worker.segment(vertebra.ct, DEMONSTRATION)
    pid = worker.process_id
    *_, failure = events_of(worker)
    assert failure.code == "time_limit"
    assert "segmentation took longer than its time limit (2 seconds)" in failure.message
    assert "'fast'" in failure.remedy
    assert not is_running(pid)
    assert list(temporary.iterdir()) == []


def test_an_answer_that_came_in_time_counts_however_late_it_is_looked_at(segmenting, vertebra, monkeypatch):
    worker = segmenting("steady")
    worker.segment(vertebra.ct, DEMONSTRATION)
    assert worker.poll() == [Progress("Handing over the CT", 0.0)]
    wait_until(lambda: b'"segmented"' in (worker.folder / "events.jsonl").read_bytes(), within_s=20)
    later = time.monotonic() + 24 * 3600
    monkeypatch.setattr(worker_client.time, "monotonic", lambda: later)
    assert isinstance(worker.poll()[-1], Segmented)


def test_a_fetch_of_weights_has_hours(worker_of, monkeypatch):
    worker = worker_of("time.sleep(60)")
    worker.fetch_weights("fast")
    later = time.monotonic() + 3.9 * 3600
    monkeypatch.setattr(worker_client.time, "monotonic", lambda: later)
    assert worker.poll() == []
    later += 0.2 * 3600
    (failure,) = worker.poll()
    assert failure.code == "time_limit"
    assert "240 minutes" in failure.message


@pytest.mark.parametrize(
    ("behaviour", "code", "kind"),
    [("leaving", "internal_error", MedConvError), ("greedy", "out_of_memory", MissingRequirement)],
)
def test_waiting_raises_what_went_wrong(segmenting, vertebra, behaviour, code, kind):
    worker = segmenting(behaviour)
    with pytest.raises(MedConvError) as raised:
        worker.segment_and_wait(vertebra.ct, DEMONSTRATION)
    assert type(raised.value) is kind
    assert raised.value.code == code
    assert not worker.busy


def test_an_error_keeps_its_kind_and_its_details_on_the_way(worker_of, vertebra):
    worker = worker_of("""
        say(event="error", id=job, code="c", message="M.", remedy="R.", details="D.", exit_code=int(job) + 1)
    """)
    for kind in (UsageError, InputRefused, MissingRequirement):
        with pytest.raises(kind, match=r"M\. R\. D\.") as raised:
            worker.segment_and_wait(vertebra.ct, DEMONSTRATION)
        assert raised.value.code == "c"
    assert isinstance(Failure.of(Cancelled()).error(), Cancelled)


def test_ctrl_c_while_waiting_ends_the_process_and_leaves_no_file(segmenting, vertebra, temporary):
    worker, told = segmenting("endless"), []

    def interrupted(stage, fraction):
        told.append((stage, worker.process_id))
        if stage == "Endless":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.segment_and_wait(vertebra.ct, DEMONSTRATION, interrupted)
    assert [stage for stage, _ in told] == ["Handing over the CT", "Loading the segmenter", "Endless"]
    assert not is_running(told[0][1])
    assert not worker.busy
    assert list(temporary.iterdir()) == []


def test_waiting_without_a_job_is_a_mistake(worker_of):
    with pytest.raises(RuntimeError):
        worker_of(ANSWER).wait()


def test_no_second_job_of_any_kind_while_one_is_under_way(worker_of, vertebra, case):
    worker = worker_of("time.sleep(30)")
    worker.segment(vertebra.ct, DEMONSTRATION)
    for start in (
        lambda: worker.segment(vertebra.ct, DEMONSTRATION),
        lambda: worker.analyse(case),
        lambda: worker.fetch_weights("fast"),
    ):
        with pytest.raises(RuntimeError, match="segmentation is under way"):
            start()


def test_a_damaged_answer_is_a_failure_and_the_next_job_works(worker_of, vertebra):
    worker = worker_of("""
        file = command["ct"].replace("ct.json", "segmentation.npz")
        open(file, "wb").write(b"PK damaged")
        say(event="segmented", id=job, file=file if job == "1" else file + ".gone")
    """)
    for _ in range(2):
        worker.segment(vertebra.ct, DEMONSTRATION)
        assert events_of(worker)[-1].code == "internal_error"


def test_a_folder_that_vanishes_during_the_hand_over_is_a_failure_and_the_next_job_works(segmenting, vertebra):
    worker = segmenting("steady")
    worker.segment(vertebra.ct, DEMONSTRATION)
    next(worker.folder.glob("job-*")).rmdir()
    (failure,) = worker.poll()
    assert failure.code == "worker_not_started"
    worker.segment(vertebra.ct, DEMONSTRATION)
    assert isinstance(events_of(worker)[-1], Segmented)


def test_a_case_that_can_not_be_written_leaves_the_client_ready(worker_of, case, monkeypatch):
    worker = worker_of(ANSWER)

    def failing(path, _):
        path.write_bytes(b"half a case")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker_client, "save_case", failing)
        with pytest.raises(OSError, match="No space"):
            worker.analyse(case)
    assert not worker.busy
    assert list(worker.folder.glob("job-*")) == []
    worker.analyse(case)
    assert isinstance(events_of(worker)[-1], Result)


@pytest.mark.parametrize("name", ["with spaces", "Ordner für Täglich", "日本"])
def test_any_name_of_the_folder_for_temporary_files_works(segmenting, vertebra, tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    pids_file = tmp_path / "pids"
    worker = segmenting("family", pids_file)
    found = worker.segment_and_wait(vertebra.ct, DEMONSTRATION)
    assert np.count_nonzero(found.labels_zyx) == np.count_nonzero(vertebra.ct.array_zyx > 300)
    pids = [int(pid) for pid in pids_file.read_text().split()]
    assert all(map(is_running, pids))
    worker.close()
    assert not any(map(is_running, pids))
    assert list(folder.iterdir()) == []


@posix_only
@pytest.mark.parametrize("listed_by", ["proc", "ps"])
def test_the_tree_is_found_and_ended_with_what_left_its_group(tmp_path, monkeypatch, listed_by):
    """`ps`, as on macOS, does not see the environment, so an orphan in a session of its own is found by proc alone."""
    if listed_by == "ps":
        monkeypatch.setattr(process_tree, "PROC", tmp_path)
    elif not Path("/proc/self/stat").is_file():
        pytest.skip("no /proc on this system")
    script = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from core.fake_segmenter import start_children
print(*start_children(), flush=True)
time.sleep(60)
"""
    folder = tmp_path / "private"
    environment = os.environ | {process_tree.FOLDER_VARIABLE: str(folder)}
    stranger = subprocess.Popen([sys.executable, "-c", fake_segmenter.DEAF], start_new_session=True)
    command = [sys.executable, "-c", script]
    root = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, **processes.own_group())
    with root, stranger:
        child, own_session, orphan = (int(pid) for pid in root.stdout.readline().split())
        expected = {root.pid, child, own_session} | ({orphan} if listed_by == "proc" else set())
        assert process_tree.members(root.pid, folder) == expected
        assert process_tree.members(root.pid, None) == expected - {orphan}
        process_tree.kill(root.pid, folder, 2.0)
        assert [is_running(pid) for pid in (root.pid, child, own_session)] == [False, False, False]
        assert is_running(stranger.pid)
        stranger.kill()
        if is_running(orphan):
            os.kill(orphan, signal.SIGKILL)


def test_the_real_worker_answers_and_its_document_follows_the_schema(case, only_untrained, temporary):
    import jsonschema

    from medconv.report import schema

    worker = WorkerClient()
    try:
        worker.analyse(case, device="cpu")
        *progress, result = events_of(worker, within_s=60.0)
        assert isinstance(result, Result), result
        assert [event.fraction for event in progress] == sorted(event.fraction for event in progress)
        assert result.document["status"] == "ok"
        jsonschema.validate(result.document, schema())
        assert json.dumps(result.document)
    finally:
        worker.close()
    assert list(temporary.iterdir()) == []
