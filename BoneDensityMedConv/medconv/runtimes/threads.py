"""How many threads a pass gets: as many as help, and never the last core of a machine that has more than two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from medconv.config import Architecture
from medconv.control_groups import cores

VARIABLE = "MEDCONV_THREADS"
SLIM_WIDTH = 16
# Beyond, a crop's layers are too small for more threads to help, and other programs want the cores.
AT_MOST = 16


def thread_count(architecture: Architecture, device: str = "cpu") -> int:
    """Threads for a network's pass.

    A slim network on the CPU gets one: its layers are so small that threads only wait for each other (on two cores
    that other programs kept busy, a pass of width 16 took 1.1 s with two threads and 11 ms with one). A wider one gets
    what torch would take, one for each physical core or what OMP_NUM_THREADS says, but no more than a container's share
    of time allows; of three and more cores one stays free, so that Slicer's window answers while MedConv works.
    MEDCONV_THREADS overrides all that.
    """
    if (asked := _asked()) is not None:
        return asked
    import torch

    own = torch.get_num_threads()
    if device != "cpu":
        return own
    if architecture.width <= SLIM_WIDTH:
        return 1
    if "OMP_NUM_THREADS" in os.environ:  # somebody counted already, as a batch's workers do
        return own
    own = min(own, cores())  # torch minds affinity, but no quota
    return min(own - 1 if own > 2 else own, AT_MOST)


@contextmanager
def limited_to(count: int) -> Iterator[None]:
    """Torch works with so many threads inside, and with as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    if count == before:  # setting costs some microseconds and wakes threads
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _asked() -> int | None:
    """MEDCONV_THREADS, if it is a count."""
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isdigit() and int(text) > 0 else None
