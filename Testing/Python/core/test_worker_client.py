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
from pathlib import Path

import pytest

from medconv import pipeline, processes
from medconv.types import Adjustment
from medconv.worker_client import Failure, Progress, Result, WorkerClient

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="uses POSIX signals")

HEAD = """
import json, os, sys, time
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
say(event="ready")
for line in sys.stdin:
    command = json.loads(line); job = command["id"]
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


def events_of(worker, within_s=20.0):
    """Everything until the analysis has ended."""
    events, until = [], time.monotonic() + within_s
    while worker.busy:
        events += worker.poll()
        assert time.monotonic() < until, f"no end within {within_s} s, only {events}"
        time.sleep(0.01)
    return events


def wait_until(condition, within_s=5.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(process_id: int) -> bool:
    """False as well for a zombie that its parent has not collected yet."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


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
