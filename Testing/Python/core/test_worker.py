"""The worker process over its real pipes: ASCII JSON lines, errors told, one model and segmenter for many cases."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from core import fake_segmenter
from core.worker_driver import is_running, wait_until

import medconv
from medconv import pipeline, processes, segmenter, weights, worker_errors
from medconv import worker as worker_module
from medconv.case_file import save_case
from medconv.ct_file import CTFileWriter
from medconv.inference import LoadedModel
from medconv.segmentation_file import load_segmentation
from medconv.types import InputRefused, SpineSegmentation
from medconv.worker import Worker
from medconv.worker_commands import Commands
from medconv.worker_interrupts import Interrupts

NNUNET = {"kind": "nnunet", "folder": "/models/a"}


@contextmanager
def running(command, **environment):
    """A worker on pipes: its process, a function that sends a command, one that reads up to an event."""
    environment = os.environ | {"PYTHONPATH": str(Path(medconv.__file__).parents[1]), "LC_ALL": "C"} | environment
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:

        def ask(**request):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()

        def until(*events):
            seen = []
            while True:
                line = process.stdout.readline()
                assert line, "the worker ended"
                seen.append(json.loads(line.decode("ascii")))
                if seen[-1]["event"] in events:
                    return seen

        yield process, ask, until
        process.kill()


@pytest.fixture
def worker(only_untrained):
    with running([sys.executable, "-m", "medconv.worker"]) as parts:
        yield parts


@pytest.fixture
def ct_path(tmp_path, vertebra):
    """The phantom's CT, handed over."""
    folder = tmp_path / "Fäll 1"
    folder.mkdir()
    writer = CTFileWriter(folder, vertebra.ct)
    assert writer.write_some(1 << 40)
    return writer.path


def answers_of(*commands):
    """What a Worker in this process says to these commands, without "ready"."""
    output = io.StringIO()
    worker, before = Worker(output), signal.getsignal(signal.SIGINT)
    worker.interrupts.install()
    try:
        worker.serve(commands)
    finally:
        signal.signal(signal.SIGINT, before)
    return [json.loads(line) for line in output.getvalue().splitlines()][1:]


@pytest.fixture
def segment_with(monkeypatch, ct_path):
    """`segment_with(f)`: the events of a Worker whose segmenter is the function f(ct, progress)."""

    class Fake:
        def __init__(self, function):
            self.segment = function

    def events(*functions):
        made = iter(functions)
        monkeypatch.setattr(segmenter, "make_segmenter", lambda request: Fake(next(made)))
        jobs = [{"command": "segment", "id": str(n), "ct": str(ct_path)} for n in range(len(functions))]
        # Each asks for another folder, so that each function is made into a segmenter.
        return answers_of(*(job | {"request": NNUNET | {"folder": f"/{n}"}} for n, job in enumerate(jobs)))

    return events


def test_it_answers_case_after_case_like_the_pipeline(worker, vertebra, tmp_path):
    process, ask, until = worker
    assert until("ready")[-1] == {"event": "ready"}
    path = tmp_path / "Fäll ü" / "case.npz"
    path.parent.mkdir()
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    save_case(path, case)
    expected = pipeline.analyse(case, LoadedModel.load(None, "cpu"))
    for job in ("1", "2"):
        ask(command="analyse", id=job, case=str(path), weights=None, device="cpu", adjustment=None)
        events = until("result", "error")
        assert {e["event"] for e in events[:-1]} == {"progress"}
        assert {e["id"] for e in events} == {job}
        assert events[-1]["result"]["logits"] == {str(c): z for c, z in expected.logits.items()}
    ask(command="quit")
    assert process.wait(20) == 0


@pytest.fixture
def loads(monkeypatch):
    """What `LoadedModel.load` is asked for in this process; it gives the weights that are there."""
    asked, load = [], LoadedModel.load

    def counted(weights=None, device="auto", **more):
        asked.append((weights, device))
        return load(weights, device, **more)

    monkeypatch.setattr(worker_module.LoadedModel, "load", counted)
    return asked


def test_a_warm_worker_answers_with_what_it_has_loaded(only_untrained, loads, vertebra, tmp_path):
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    save_case(tmp_path / "c.npz", case)
    expected = pipeline.analyse(case, LoadedModel.load(None, "cpu"))
    loads.clear()
    analyse = {"command": "analyse", "id": "1", "case": str(tmp_path / "c.npz"), "device": "cpu"}
    events = answers_of({"command": "warm", "weights": None, "device": "cpu"}, analyse)
    assert events[0] == {"event": "warm", "done": True}
    assert events[-1]["result"]["logits"] == {str(c): z for c, z in expected.logits.items()}
    assert loads == [(None, "cpu")], "once, not again for the case"


def test_weights_that_were_imported_anew_under_the_same_name_are_loaded_again(
    only_untrained, loads, vertebra, tmp_path, monkeypatch
):
    user = tmp_path / "weights"
    shutil.copytree(only_untrained, user)
    monkeypatch.setenv("MEDCONV_WEIGHTS_DIR", str(user))
    save_case(tmp_path / "c.npz", pipeline.prepare(vertebra.ct, vertebra.mask))
    card, file = weights.find_model(None)

    def commands():
        analyse = {"command": "analyse", "case": str(tmp_path / "c.npz"), "device": "cpu"}
        yield from (analyse | {"id": "1"}, analyse | {"id": "2"})
        arrays = weights.load_arrays(card, file)
        changed = weights.save_weights(file, arrays | {"fc.bias": arrays["fc.bias"] + 1}, card)
        (user / weights.MANIFEST).write_text(json.dumps({"models": [changed.to_json()]}), "utf-8")
        yield analyse | {"id": "3"}

    output = io.StringIO()
    Worker(output).serve(commands())
    events = map(json.loads, output.getvalue().splitlines())
    first, second, third = (event["result"]["logits"] for event in events if event["event"] == "result")
    assert second == first
    assert third == pytest.approx({name: z + 1 for name, z in first.items()}, abs=1e-3)
    assert len(loads) == 2


def test_a_measurement_is_told_as_what_the_job_does(only_untrained, vertebra, tmp_path, monkeypatch):
    load = LoadedModel.load

    def measured(weights, device, say):
        say("Measuring")
        return load(weights, device)

    monkeypatch.setattr(worker_module.LoadedModel, "load", measured)
    save_case(tmp_path / "c.npz", pipeline.prepare(vertebra.ct, vertebra.mask))
    events = answers_of({"command": "analyse", "id": "1", "case": str(tmp_path / "c.npz"), "device": "cpu"})
    assert [event["stage"] for event in events[:2]] == ["Loading MedConv", "Measuring"]
    assert events[-1]["event"] == "result"


def test_a_job_that_waits_comes_before_what_is_not_loaded_yet(only_untrained, loads):
    waiting = iter([False, True])
    output = io.StringIO()
    Worker(output).serve([{"command": "warm", "device": "cpu"}], lambda: next(waiting))
    assert json.loads(output.getvalue().splitlines()[-1]) == {"event": "warm", "done": False}
    assert loads == []


def test_a_command_that_has_arrived_is_noticed_while_another_is_worked_on():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as lines, os.fdopen(writing, "wb", buffering=0) as sender:
        commands = Commands(lines, orphaned=lambda: None)
        sender.write(b'{"command": "warm"}\n')
        assert next(commands) == {"command": "warm"}
        assert not commands.is_waited_for()
        sender.write(b'{"command": "analyse", "id": "1"}\n')
        wait_until(commands.is_waited_for)
        assert next(commands)["id"] == "1"
        assert not commands.is_waited_for()


def test_what_goes_wrong_in_a_warm_up_is_told_by_the_job_that_needs_it(only_untrained):
    warm, job = (
        {"command": "warm", "weights": "nobody"},
        {"command": "analyse", "id": "1", "case": "x", "weights": "nobody"},
    )
    *_, first, _, last = answers_of(warm, job)
    assert first == {"event": "warm", "done": False}
    assert (last["id"], last["code"]) == ("1", "weights_missing")


def test_errors_are_told_and_survived(worker, vertebra, tmp_path):
    _, ask, until = worker
    (tmp_path / "bad.npz").write_bytes(b"x")
    ask(command="analyse", id="1", case=str(tmp_path / "bad.npz"), weights="nobody", device="cpu")
    assert until("error")[-1]["code"] == "weights_missing"
    ask(command="analyse", id="2", case=str(tmp_path / "bad.npz"), device="cpu")
    told = until("error")[-1]
    assert told["code"] == "internal_error"
    # What a person can report without a log that is gone: places in the program, innermost first, and no path.
    assert re.fullmatch(r"Where: \S+\.py line \d+, \w+( < \S+\.py line \d+, [\w<>]+)+", told["details"])
    assert "worker.py line" in told["details"]
    assert "/" not in told["details"]
    assert "log" not in told["remedy"]
    ask(command="dance", id="3")
    assert until("error")[-1]["code"] == "internal_error"
    save_case(tmp_path / "c.npz", pipeline.prepare(vertebra.ct, vertebra.mask))
    ask(command="analyse", id="4", case=str(tmp_path / "c.npz"), device="cpu")
    assert until("result", "error")[-1]["event"] == "result"


def test_it_ends_with_its_parent(worker):
    process, _, until = worker
    until("ready")
    process.stdin.close()
    assert process.wait(20) == 0


def test_it_ends_with_its_parent_in_the_middle_of_a_job_with_its_children_and_its_folder(tmp_path, ct_path):
    pids_file, folder = tmp_path / "pids", tmp_path / f"{processes.FOLDER_PREFIX}1-x"
    folder.mkdir()
    command = [sys.executable, fake_segmenter.__file__, "family", str(pids_file)]
    # Whoever starts it as WorkerClient does gives it a session of its own.
    with running(["setsid", "--wait", *command], MEDCONV_WORKER_FOLDER=str(folder)) as (process, ask, until):
        until("ready")
        ask(command="segment", id="1", ct=str(ct_path), request=NNUNET)
        until("progress")
        wait_until(lambda: pids_file.is_file() and pids_file.read_text().count("\n") == 4, within_s=20)
        pids = [int(pid) for pid in pids_file.read_text().split()]
        assert all(map(is_running, pids))
        process.stdin.close()
        wait_until(lambda: not any(map(is_running, pids)), within_s=20)
        assert not folder.exists()


def test_a_segmentation_arrives_as_a_file_beside_the_ct(ct_path, vertebra):
    with running([sys.executable, fake_segmenter.__file__, "steady"]) as (_, ask, until):
        until("ready")
        for job in ("1", "2"):
            ask(command="segment", id=job, ct=str(ct_path), request=NNUNET)
            *progress, last = until("segmented", "error")
            assert last == {"event": "segmented", "id": job, "file": str(ct_path.with_name("segmentation.npz"))}
            assert [e["fraction"] for e in progress] == [0.0, *(step / 20 for step in range(20))]
            found = load_segmentation(Path(last["file"]))
            assert np.array_equal(found.labels_zyx, (vertebra.ct.array_zyx > 300) * 31)
            assert found.ct_geometry == vertebra.ct.geometry


@pytest.mark.parametrize("behaviour", ["talkative", "curious", "leaving"])
def test_a_library_that_prints_asks_or_exits_does_no_harm(ct_path, behaviour):
    with running([sys.executable, fake_segmenter.__file__, behaviour]) as (process, ask, until):
        until("ready")
        for job in ("1", "2"):
            ask(command="segment", id=job, ct=str(ct_path), request=NNUNET)
            *progress, last = until("segmented", "error")
            assert {e["event"] for e in progress} == {"progress"}
            if behaviour == "talkative":
                assert last["event"] == "segmented"
            else:
                assert last["code"] == "internal_error"
                assert {"curious": "EOFError", "leaving": "no more of this"}[behaviour] in last["message"]
        ask(command="quit")
        assert process.wait(20) == 0


def test_a_line_that_is_no_command_is_passed_over(ct_path):
    with running([sys.executable, fake_segmenter.__file__, "steady"]) as (process, ask, until):
        process.stdin.write(b"\xff{no json\n\n")
        ask(command="segment", id="1", ct=str(ct_path), request=NNUNET)
        assert until("segmented", "error")[-1]["event"] == "segmented"


def test_the_segmenter_is_kept_as_long_as_the_request_is_the_same(monkeypatch, ct_path):
    made = []

    class Fake:
        def __init__(self, request):
            made.append(request.folder)

        def segment(self, ct, progress):
            return fake_segmenter.dense(ct)

    monkeypatch.setattr(segmenter, "make_segmenter", Fake)
    jobs = [{"command": "segment", "id": "1", "ct": str(ct_path), "request": NNUNET | {"folder": f}} for f in "aabba"]
    assert [e["event"] for e in answers_of(*jobs) if e["event"] != "progress"] == ["segmented"] * 5
    assert made == ["a", "b", "a"]


def test_a_segmenter_that_ran_out_of_memory_is_not_kept(monkeypatch, ct_path):
    made = []

    class Fake:
        def __init__(self, request):
            made.append(self)

        def segment(self, ct, progress):
            if len(made) == 1:
                raise MemoryError
            return fake_segmenter.dense(ct)

    monkeypatch.setattr(segmenter, "make_segmenter", Fake)
    job = {"command": "segment", "id": "1", "ct": str(ct_path), "request": NNUNET}
    codes = [e.get("code", e["event"]) for e in answers_of(job, job) if e["event"] != "progress"]
    assert codes == ["out_of_memory", "segmented"]
    assert len(made) == 2


def raising(error):
    def segment(ct, progress):
        raise error

    return segment


def wrapped(error):
    """As a library does that reports every failure as its own."""

    def segment(ct, progress):
        try:
            raise error
        except type(error):
            raise RuntimeError("the prediction failed")  # noqa: B904

    return segment


def real_numpy(ct, progress):
    np.empty(1 << 60, np.uint8)


def real_torch(ct, progress):
    import torch

    torch.empty(1 << 46)


def real_itk(ct, progress):
    import SimpleITK as sitk

    sitk.Image([1 << 20, 1 << 20, 64], sitk.sitkFloat64)


def real_full_disk(ct, progress):
    with Path("/dev/full").open("wb") as stream:
        stream.write(bytes(1 << 20))


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


NO_MEMORY = {
    "MemoryError": raising(MemoryError()),
    "wrapped": wrapped(MemoryError()),
    "numpy": real_numpy,
    "torch": real_torch,
    "ITK": real_itk,
    "fork": raising(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "import": raising(ImportError("x.so: failed to map segment from shared object: Cannot allocate memory")),
    "thread": raising(RuntimeError("can't start new thread")),
}


@pytest.mark.parametrize("case", NO_MEMORY)
def test_a_full_memory_is_told_with_what_to_do(segment_with, case):
    *_, event = segment_with(NO_MEMORY[case])
    assert (event["code"], event["exit_code"]) == ("out_of_memory", 4)
    assert "computer's memory" in event["message"]
    assert "Close other programs" in event["remedy"]
    assert "'fast'" in event["remedy"]


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.96 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_full_graphics_card_is_told_with_what_to_do(segment_with, error):
    *_, event = segment_with(raising(error))
    assert event["code"] == "out_of_memory"
    assert "graphics card's memory" in event["message"]
    assert "CPU" in event["remedy"]


@pytest.mark.parametrize(
    "function", [real_full_disk, wrapped(OSError(errno.ENOSPC, "No space left on device"))], ids=["real", "wrapped"]
)
def test_a_full_disk_is_told_with_what_to_do(segment_with, function):
    *_, event = segment_with(function)
    assert event["code"] == "disk_full"
    assert "TMPDIR" in event["remedy"]


def test_an_error_for_a_person_arrives_as_it_is(segment_with):
    *_, event = segment_with(raising(InputRefused("nothing_found", "No vertebra.", "Use a CT.", "Saw 3 slices.")))
    event.pop("id")
    assert event == {
        "event": "error", "code": "nothing_found", "message": "No vertebra.", "remedy": "Use a CT.",
        "details": "Saw 3 slices.", "exit_code": 3,
    }  # fmt: skip


def test_whatever_a_library_raises_is_told_and_the_next_job_works(segment_with):
    functions = (raising(SystemExit(3)), raising(KeyboardInterrupt()), raising(KeyError("plans")), lambda ct, _: None)
    events = [e for e in segment_with(*functions, lambda ct, _: fake_segmenter.dense(ct)) if e["event"] != "progress"]
    codes = ["internal_error", "cancelled", "internal_error", "internal_error"]
    assert [e.get("code", "none") for e in events] == [*codes, "none"]
    assert "exit code 3" in events[0]["message"]
    assert "segmentation failed" in events[2]["message"]
    assert "KeyError: 'plans'" in events[2]["message"]


def test_progress_is_told_at_most_ten_times_a_second_but_each_new_stage_at_once(segment_with, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(worker_module.time, "monotonic", lambda: clock[0])

    def busy(ct, progress) -> SpineSegmentation:
        for step in range(1000):  # 3 s
            progress("Network" if step < 500 else "Resampling", np.float32(step / 1000))
            clock[0] += 0.003
        return fake_segmenter.dense(ct)

    events = [e for e in segment_with(busy) if e["event"] == "progress"]
    assert events[0]["stage"] == "Loading the segmenter"
    assert len(events) - 1 == pytest.approx(30, abs=2)
    (first,) = [e for e in events if e["fraction"] == 0.5]
    assert first["stage"] == "Resampling"


def test_weights_are_imported_and_fetched_by_the_store(monkeypatch, tmp_path):
    from medconv.segmenters import weights_store

    def import_file(source, progress, weights_folder=""):
        progress("Importing weights", 0.5)
        assert (source, weights_folder) == ("/a.zip", "/weights")
        return ("Dataset297", "Dataset292")

    def fetch(quality, progress, weights_folder=""):
        assert (quality, weights_folder) == ("fast", "")
        return weights_store.WeightsStatus(Path("/w"), ("Dataset297",), (), (), 1)

    monkeypatch.setattr(weights_store, "import_file", import_file)
    monkeypatch.setattr(weights_store, "fetch", fetch)
    fields = {"command": "weights", "id": "1"}
    events = answers_of(
        fields | {"action": "import", "quality": "", "file": "/a.zip", "weights_folder": "/weights"},
        fields | {"action": "fetch", "quality": "fast", "file": "", "weights_folder": ""},
    )
    assert events == [
        {"event": "progress", "id": "1", "stage": "Importing weights", "fraction": 0.5},
        {"event": "done", "id": "1", "text": "Dataset297, Dataset292"},
        {"event": "done", "id": "1", "text": "Dataset297"},
    ]


# Interrupts


def late_interrupt_then(_ct, _progress):
    """What OpenBLAS and an extension module do together: SIGINT to this process, and an error at the same moment.

    A C function sets the signal off, and turning its result (0) into Python's own raises, within one call: Python
    learns of the signal when the error is already on its way.
    """
    interrupt = ctypes.PyDLL(None).PyErr_SetInterruptEx
    interrupt.restype = (1).__truediv__
    interrupt(signal.SIGINT)


@pytest.fixture
def python_handles_interrupts():
    """Whatever handler a test installs, pytest's Ctrl+C works after it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_comes_after_the_error_it_caused_is_told_as_one_and_the_worker_goes_on(segment_with):
    events = segment_with(late_interrupt_then, lambda ct, _: fake_segmenter.dense(ct))
    answers = [event for event in events if event["event"] != "progress"]
    assert [(event["id"], event.get("code")) for event in answers] == [("0", "cancelled"), ("1", None)]


@pytest.mark.usefixtures("python_handles_interrupts")
def test_an_interrupt_between_jobs_is_no_ones():
    interrupts = Interrupts()
    interrupts.install()
    with interrupts:
        pass
    signal.raise_signal(signal.SIGINT)
    with interrupts:
        assert not interrupts.came
    error = ValueError()
    assert interrupts.explains(error) is error


@pytest.mark.usefixtures("python_handles_interrupts")
def test_memory_that_ran_out_is_the_reason_also_where_an_interrupt_followed():
    interrupts = Interrupts()
    interrupts.install()
    with pytest.raises(KeyboardInterrupt), interrupts:
        signal.raise_signal(signal.SIGINT)
    told = worker_errors.explain(interrupts.explains(MemoryError()))
    assert told.code == "out_of_memory"
