"""No memory, for real: the worker process under a limit of its address space."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from core import fake_segmenter
from core.worker_driver import events_of

from medconv.segmenter import SegmenterRequest
from medconv.worker_client import Failure, WorkerClient

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses Linux's limit of the address space")

DEMONSTRATION = SegmenterRequest("demonstration", device="cpu", insist=True)


LIMIT = """
import resource, runpy, sys
def leave(megabytes):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""


@pytest.fixture
def limited(temporary):
    """Make a client whose process runs a piece of Python that may use `leave(megabytes)`: so much more, from there."""
    made = []

    def make(script: str) -> WorkerClient:
        made.append(WorkerClient([sys.executable, "-c", LIMIT + script]))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def test_a_segmenter_that_needs_more_than_there_is_is_told_and_the_next_run_works(limited, temporary, vertebra) -> None:
    worker = limited(f"""
leave(3000)
sys.argv = ["", "greedy_once", {str(temporary / "flag")!r}]
runpy.run_path({fake_segmenter.__file__!r}, run_name="__main__")
""")
    worker.segment(vertebra.ct, DEMONSTRATION)
    failure = events_of(worker)[-1]
    assert isinstance(failure, Failure)
    assert failure.code == "out_of_memory"
    assert failure.message == "The computer's memory is full."
    assert "Close other programs" in failure.remedy
    assert "'fast'" in failure.remedy
    assert worker.process_id is None, "a new process starts with all the memory there is"
    found = worker.segment_and_wait(vertebra.ct, DEMONSTRATION)
    assert np.array_equal(found.labels_zyx, (vertebra.ct.array_zyx > 300) * 31)


@pytest.mark.parametrize(
    ("how", "is_short", "code"),
    [
        ("SystemError", True, "out_of_memory"),
        ("interrupt", True, "out_of_memory"),
        ("SystemError", False, "internal_error"),
        ("interrupt", False, "cancelled"),
    ],
)
def test_an_odd_error_while_memory_is_short_is_told_as_that(segmenting, vertebra, how, is_short, code) -> None:
    worker = segmenting("odd", how, is_short)
    worker.segment(vertebra.ct, DEMONSTRATION)
    assert events_of(worker)[-1].code == code


WITHOUT_MEMORY = {
    "to load it": """
leave(600)
from medconv import worker
""",
    "to run it": """
from medconv import worker
from medconv.segmenters import nnunet
class Limited(nnunet.NNUNetModel):
    def predict(self, *arguments):
        leave(20)
        return super().predict(*arguments)
nnunet.NNUNetModel = Limited
""",
}


@pytest.mark.parametrize("when", WITHOUT_MEMORY)
def test_the_real_network_without_memory_says_so(limited, temporary, vertebra, when: str) -> None:
    """Torch, nnU-Net and the C libraries have their own words for it, or just end; the message is the same."""
    worker = limited(WITHOUT_MEMORY[when] + "sys.exit(worker.main())")
    worker.segment(vertebra.ct, DEMONSTRATION)
    failure = events_of(worker, within_s=200.0)[-1]
    assert isinstance(failure, Failure)
    assert failure.code in ("out_of_memory", "worker_died")
    assert "memory is full" in failure.message
    assert "Close other programs" in failure.remedy
    worker.close()
    assert list(temporary.iterdir()) == []
