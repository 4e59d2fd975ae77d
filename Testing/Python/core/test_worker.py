"""The worker process over its real pipes: ASCII JSON lines, errors told, one model for many cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import medconv
from medconv import pipeline
from medconv.case_file import save_case
from medconv.inference import LoadedModel


@pytest.fixture
def worker(only_untrained):
    environment = os.environ | {"PYTHONPATH": str(Path(medconv.__file__).parents[1]), "LC_ALL": "C"}
    command = [sys.executable, "-m", "medconv.worker"]
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


def test_errors_are_told_and_survived(worker, vertebra, tmp_path):
    _, ask, until = worker
    (tmp_path / "bad.npz").write_bytes(b"x")
    ask(command="analyse", id="1", case=str(tmp_path / "bad.npz"), weights="nobody", device="cpu")
    assert until("error")[-1]["code"] == "weights_missing"
    ask(command="analyse", id="2", case=str(tmp_path / "bad.npz"), device="cpu")
    assert until("error")[-1]["code"] == "internal_error"
    save_case(tmp_path / "c.npz", pipeline.prepare(vertebra.ct, vertebra.mask))
    ask(command="analyse", id="3", case=str(tmp_path / "c.npz"), device="cpu")
    assert until("result", "error")[-1]["event"] == "result"


def test_it_ends_with_its_parent(worker):
    process, _, until = worker
    until("ready")
    process.stdin.close()
    assert process.wait(20) == 0
