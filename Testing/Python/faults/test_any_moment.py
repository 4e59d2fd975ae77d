"""Killed or cancelled at any moment: a clear answer, no process, no file, and the next run works.

The moments are drawn at random, with a fixed seed, from every phase of a job: while the CT is handed over, while the
process starts, while the network works.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import pytest
from core.phantom import grid, phantom
from core.worker_driver import events_of, is_running, wait_until

from medconv import worker_client
from medconv.segmenter import SegmenterRequest
from medconv.worker_client import Failure, Progress, Segmented, WorkerClient

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses POSIX signals")

DEMONSTRATION = SegmenterRequest("demonstration", device="cpu", insist=True)
PHASES = ("handing over", "starting", "segmenting")
SEED = 20260731
HAND_OVER_STEPS = 20  # whole slices, so one poll less may do


@dataclass(frozen=True)
class Moment:
    """When to strike: after so many polls, so many seconds after the hand-over, or after so many progress events."""

    phase: str
    share: float

    def __str__(self) -> str:
        return f"{self.phase} {self.share:.2f}"


def moments(count: int) -> list[Moment]:
    draw = random.Random(SEED)
    return [Moment(phase, draw.random()) for phase in PHASES for _ in range(count)]


def bring_to(worker: WorkerClient, moment: Moment, start_takes_s: float, steps: int) -> None:
    """Start a job and poll until the moment has come; AssertionError if the job ends before."""
    polls = round(moment.share * (HAND_OVER_STEPS - 2))
    if moment.phase == "handing over":
        for _ in range(polls):
            assert worker.poll() == [Progress("Handing over the CT", 0.0)]
        return
    seen = []
    while not (seen and sum(1 for _ in worker.folder.glob("job-*/ct.json"))):
        seen += worker.poll()
    if moment.phase == "starting":
        time.sleep(moment.share * start_takes_s)
        return
    wanted = 1 + round(moment.share * (steps - 1))
    while sum(event.stage not in ("Handing over the CT", "Loading the segmenter") for event in seen) < wanted:
        seen += worker.poll()
        assert all(isinstance(event, Progress) for event in seen), seen[-1]
        time.sleep(0.002)


def strike(worker: WorkerClient, how: str) -> None:
    """Afterwards the client has to be ready, and nothing may be left."""
    if how == "cancel":
        worker.cancel()
        assert not worker.busy
        assert worker.poll() == []
        return
    os.kill(worker.process_id, signal.SIGKILL)
    outcome = worker.wait()
    if isinstance(outcome, Segmented):  # it was quicker; then its death is noticed without a word
        wait_until(lambda: worker.poll() == [] and worker.folder is None)
        return
    assert isinstance(outcome, Failure)
    assert outcome.code == "worker_died"
    assert "signal 9" in outcome.message
    assert "memory is full" in outcome.message


@pytest.mark.parametrize("how", ["cancel", "kill"])
@pytest.mark.parametrize("moment", moments(4), ids=str)
def test_nothing_is_left_and_the_next_run_works(
    segmenting, vertebra, temporary, tmp_path, monkeypatch, moment, how
) -> None:
    """The segmenter here has children, one of them an orphan in a session of its own, and leaves temporary files."""
    size = vertebra.ct.array_zyx.nbytes
    monkeypatch.setattr(worker_client, "HAND_OVER_BYTES", size // HAND_OVER_STEPS)
    monkeypatch.setattr(worker_client, "HAND_OVER_PIECES", 1)
    pids_file = tmp_path / "pids"
    pids_file.touch()
    worker = segmenting("family", pids_file)
    worker.segment(vertebra.ct, DEMONSTRATION)
    pids = [worker.process_id]
    bring_to(worker, moment, start_takes_s=0.5, steps=20)
    strike(worker, how)
    pids += [int(pid) for pid in pids_file.read_text().split()]
    if moment.phase == "segmenting":
        assert len(set(pids)) == 4, "the process and its three children"
    assert [pid for pid in pids if is_running(pid)] == []
    assert list(temporary.iterdir()) == []

    found = worker.segment_and_wait(vertebra.ct, DEMONSTRATION)
    assert np.array_equal(found.labels_zyx, (vertebra.ct.array_zyx > 300) * 31)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_process_that_ended_by_itself_leaves_no_orphan(segmenting, vertebra, temporary, tmp_path, share) -> None:
    """Without a word from the client in between: the system killed it, and the application polls much later."""
    pids_file = tmp_path / "pids"
    pids_file.touch()
    worker = segmenting("family", pids_file)
    worker.segment(vertebra.ct, DEMONSTRATION)
    bring_to(worker, Moment("segmenting", share), start_takes_s=0.0, steps=20)
    pids = [int(pid) for pid in pids_file.read_text().split()]
    assert sum(map(is_running, pids)) == 4
    os.kill(worker.process_id, signal.SIGKILL)
    wait_until(lambda: not is_running(pids[0]))
    assert isinstance(events_of(worker)[-1], Failure)
    assert [pid for pid in pids if is_running(pid)] == []
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def network():
    """A client of the true worker with the demonstration network, and how its undisturbed run ends and how long."""
    worker = WorkerClient()
    ct = phantom(grid((3.0, 3.0, 3.0))).ct
    worker.segment(ct, DEMONSTRATION)
    began, starts, outcome = time.monotonic(), [], None
    while outcome is None:
        for event in worker.poll():
            if not isinstance(event, Progress):
                outcome = event
            elif event.stage not in ("Handing over the CT", "Loading the segmenter"):
                starts.append(time.monotonic() - began)
        time.sleep(0.01)
    yield worker, ct, outcome, starts
    worker.close()


@pytest.mark.timeout(600)
def test_so_it_is_with_the_real_network(network, tmp_path, monkeypatch) -> None:
    worker, ct, expected, starts = network
    worker.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draw = random.Random(SEED)
    for how in ("cancel", "kill"):
        for phase in ("starting", "segmenting"):
            worker.segment(ct, DEMONSTRATION)
            pid = worker.process_id
            bring_to(worker, Moment(phase, draw.random()), start_takes_s=starts[0], steps=max(1, len(starts) - 1))
            strike(worker, how)
            assert not is_running(pid)
            assert list(tmp_path.iterdir()) == []
    worker.segment(ct, DEMONSTRATION)
    again = worker.wait()
    assert type(again) is type(expected)
    if isinstance(expected, Segmented):
        assert np.array_equal(again.segmentation.labels_zyx, expected.segmentation.labels_zyx)
    else:
        assert again == expected
