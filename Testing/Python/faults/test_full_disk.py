"""A disk that is full, for real: a file system of 16 MB, or a limit on the size of files where none can be mounted."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_full_disk.py")
SIZE = "16m"
MOUNT = f'mount -t tmpfs -o size={SIZE} medconv-test "$1" && shift && exec "$@"'


@functools.cache
def namespaces() -> bool:
    """Whether this system lets a user mount a file system of his own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


def answers(command: list[str]) -> dict:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def on_small_disk(folder: Path, scenario: str) -> dict:
    if not namespaces():
        pytest.skip("no file system of one's own here (unshare -rm fails): see the tests with a limit on file size")
    program = [sys.executable, str(SCRIPT), str(folder), scenario]
    return answers(["unshare", "-rm", "sh", "-c", MOUNT, "sh", str(folder), *program])


@pytest.mark.parametrize("scenario", ["hand_over", "fills_disk", "nothing_free"])
def test_a_full_disk_is_told_and_with_room_again_the_next_run_works(tmp_path: Path, scenario: str) -> None:
    """While the CT is handed over, and while the network works; its litter goes with its process."""
    told = on_small_disk(tmp_path, scenario)
    assert told["first"]["code"] == "disk_full"
    assert "disk for temporary files is full" in told["first"]["message"]
    assert "TMPDIR" in told["first"]["remedy"]
    assert told["second"] == {"code": "right"}
    assert told["left"] == []


def test_an_answer_that_finds_no_room_is_told(tmp_path: Path) -> None:
    told = on_small_disk(tmp_path, "large_answer")
    assert [told[run]["code"] for run in ("first", "second")] == ["disk_full", "disk_full"]
    assert told["left"] == []


def test_a_disk_too_full_even_for_the_message_is_told_all_the_same(tmp_path: Path) -> None:
    told = on_small_disk(tmp_path, "fills_disk_and_goes_on")
    for run in ("first", "second"):
        assert told[run]["code"] in ("disk_full", "worker_died")
        assert "disk for temporary files is full" in told[run]["message"]
        assert "TMPDIR" in told[run]["remedy"]
    assert told["left"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="uses a POSIX limit")
@pytest.mark.parametrize("scenario", ["hand_over", "large_answer", "fills_disk"])
def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(tmp_path: Path, scenario: str) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({16 << 20}, {16 << 20})); "
    run = f"import runpy, sys; sys.argv = {[str(SCRIPT), str(tmp_path), scenario]!r}; "
    told = answers([sys.executable, "-c", limit + run + f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"])
    assert told["first"]["code"] == "disk_full"
    assert told["second"]["code"] == ("disk_full" if scenario == "large_answer" else "right")
    assert told["left"] == []
