"""The section `panel`: from the click on a prepared mask to the class, as a panel has it, without any window.

The panel judges and cuts the CT in its own process and hands L1's neighbourhood to the worker; what is timed ends when
the worker's answer is there. Cold: the worker's process is started by the click. First: as a panel does it, the process
was told to load everything when the CT was chosen. Warm: it has answered before. Nothing here is a share of a peak: it
is mostly waiting for a process, and its memory is the other process's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic, perf_counter, sleep

from medconv import l1_mask, pipeline
from medconv.bench import trunk_files
from medconv.bench.figures import Row, of_values, paired_ratio
from medconv.bench.settings import Say, Settings
from medconv.types import CTVolume, L1Mask
from medconv.worker_client import Failure, Result, WorkerClient

SHAPE_ZYX = (300, 512, 512)
AIM_S = 1.0
WARM, COLD = "click to class, worker warm", "click to class, worker started by the click"
READY = "click to class, the first case after choosing the CT"
WAIT_BEFORE_CLICK_S = 6.0  # between choosing the CT and the click


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Cold and warm in turns, with the shipped weights on the CPU."""
    hu, labels = trunk_files.trunk_arrays(SHAPE_ZYX)
    geometry = trunk_files.trunk_geometry(SHAPE_ZYX)
    ct, mask = CTVolume(hu, geometry, is_simulated=True), l1_mask.from_array(labels, geometry, geometry)
    rounds = 1 if settings.quick else 3
    cold, warm, ready = [], [], []
    for number in range(rounds):
        say("cold", number / rounds)
        with contextlib.closing(WorkerClient()) as client:
            cold.append(click(client, ct, mask))
            click(client, ct, mask)
            warm.append(click(client, ct, mask))
        if settings.quick:
            continue
        say("started beforehand", (number + 0.5) / rounds)
        with contextlib.closing(WorkerClient()) as client:
            client.warm(device="cpu")
            _pause(client)
            ready.append(click(client, ct, mask))
    yield of_values(COLD, cold, point=_point(COLD))
    for name, found in ((READY, ready), (WARM, warm)):
        if not found:
            continue
        yield of_values(
            name, found, ratio=paired_ratio(found, cold), baseline=COLD, aim=AIM_S, aim_of="median",
            note="shipped weights, mask prepared", point=_point(name),
        )  # fmt: skip


def _point(series: str) -> dict[str, str]:
    return {"plot": "panel", "series": series}


def click(client: WorkerClient, ct: CTVolume, mask: L1Mask) -> float:
    """Seconds from the click to the answer. Raises RuntimeError if the worker fails."""
    started = perf_counter()
    client.analyse(pipeline.prepare(ct, mask), device="cpu")
    outcome = client.wait()
    taken = perf_counter() - started
    if isinstance(outcome, Failure):
        raise RuntimeError(f"{outcome.message} {outcome.remedy}")
    assert isinstance(outcome, Result)
    return taken


def _pause(client: WorkerClient) -> None:
    """A person needs some seconds from the panel to the button."""
    until = monotonic() + WAIT_BEFORE_CLICK_S
    while monotonic() < until:
        client.poll()
        sleep(0.05)
