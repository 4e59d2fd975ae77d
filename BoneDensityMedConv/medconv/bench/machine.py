"""The section `machine`: what the computer can do at best, as measured; the other sections' shares refer to it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from medconv.bench import memory
from medconv.bench.figures import Action, Row, attempt, spread, take_turns
from medconv.bench.settings import Say, Settings
from medconv.control_groups import cores
from medconv.inference import require_torch

GEMM_SIZE = 2048
COPY_MB, QUICK_COPY_MB = 400, 100  # far above any cache
FILE_MB, QUICK_FILE_MB = 256, 64
CONVOLUTIONS = (  # batch, channels, edge of the input: 3 x 3 x 3, as in the network's stages
    (2, 64, 24), (2, 128, 16), (2, 256, 12), (4, 512, 8),
)  # fmt: skip
GEMM, GEMM_ONE, CONVOLUTION, TRIAD, COPY = "gemm", "gemm_1", "convolution", "triad", "copy"
READING = "reading"
SAID = {GEMM: "GEMM", TRIAD: "memory bandwidth", READING: "reading a file from the system's memory"}


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Peaks of arithmetic, memory and reading."""
    require_torch()
    total = memory.total_mb()
    yield Row("cores", float(cores()), unit="")
    yield Row("memory", None if total is None else total / 1e3, "GB", reason="" if total else "the system doesn't tell")
    say("matrix product", 0.0)
    rounds = settings.rounds if settings.quick else max(settings.repeats, 5)
    yield from _matrix_products(rounds)
    say("convolution", 0.4)
    yield attempt(
        "convolution 3 x 3 x 3, float32, the best of some sizes",
        lambda: _convolution(rounds, CONVOLUTIONS[: 2 if settings.quick else None]),
    )
    say("memory bandwidth", 0.6)
    yield from _bandwidth(rounds, QUICK_COPY_MB if settings.quick else COPY_MB)
    say("reading a file", 0.9)
    megabytes = QUICK_FILE_MB if settings.quick else FILE_MB
    yield attempt("reading a file that the system has in memory", lambda: _reading(settings.place, rounds, megabytes))


def gemm(size: int = GEMM_SIZE) -> tuple[Action, float]:
    """The fastest float32 product of two square matrices on all threads, and its floating-point operations.

    torch brings MKL, which uses half of what some AMD processors can; numpy's OpenBLAS may do better, or worse.
    """
    products = _products(size)
    trial = take_turns(products, 2)
    fastest = min(trial.seconds, key=lambda name: min(trial.seconds[name]))
    return products[fastest], 2.0 * size**3


def _products(size: int) -> dict[str, Action]:
    import torch

    a, b, out = (torch.rand(size, size) for _ in range(3))
    left, right, result = a.numpy(), b.numpy(), out.numpy()
    return {"torch": lambda: torch.mm(a, b, out=out), "numpy": lambda: np.matmul(left, right, out=result)}


def _matrix_products(rounds: int) -> Iterator[Row]:
    import torch

    threads, work = torch.get_num_threads(), 2.0 * GEMM_SIZE**3
    products = _products(GEMM_SIZE)

    def on_one_thread() -> None:
        torch.set_num_threads(1)
        try:
            products["torch"]()
        finally:
            torch.set_num_threads(threads)

    one = f"matrix product {GEMM_SIZE}², float32, torch, 1 thread"
    trial = take_turns({one: on_one_thread, **products}, rounds)
    fastest = min(products, key=lambda name: statistics.median(trial.seconds[name]))
    for name in (one, *products):
        rates = [work / s / 1e9 for s in trial.seconds[name]]
        peak = {fastest: GEMM, one: GEMM_ONE}.get(name)
        yield Row(
            name if name == one else f"matrix product {GEMM_SIZE}², float32, {name}, {threads} threads",
            statistics.median(rates), "GFLOP/s", spread(rates), len(rates),
            ratio=None if name == one else trial.ratio(one, name), baseline="" if name == one else "torch, 1 thread",
            note="the peak that shares refer to" if peak == GEMM else "", point={"peak": peak} if peak else {},
        )  # fmt: skip


def _convolution(rounds: int, sizes: Sequence[tuple[int, int, int]]) -> Row:
    import torch
    import torch.nn.functional as F

    actions: dict[str, Action] = {}
    work: dict[str, float] = {}
    for batch, channels, edge in sizes:
        x, kernel = torch.rand(batch, channels, edge, edge, edge), torch.rand(channels, channels, 3, 3, 3)

        def convolve(x: torch.Tensor = x, kernel: torch.Tensor = kernel) -> object:
            with torch.inference_mode():
                return F.conv3d(x, kernel, padding=1)

        name = f"{batch} x {channels} channels, {edge}³"
        actions[name], work[name] = convolve, 2.0 * 27 * channels**2 * batch * edge**3
    trial = take_turns(actions, rounds)
    rates = {name: [work[name] / s / 1e9 for s in times] for name, times in trial.seconds.items()}
    best = max(rates, key=lambda name: statistics.median(rates[name]))
    return Row(
        "convolution 3 x 3 x 3, float32, the best of some sizes", statistics.median(rates[best]), "GFLOP/s",
        spread(rates[best]), len(rates[best]), note=f"torch, eager; {best}", point={"peak": CONVOLUTION},
    )  # fmt: skip


def _bandwidth(rounds: int, megabytes: int) -> Iterator[Row]:
    """As STREAM counts (McCalpin 1995): bytes that the program names, not those that the cache fetches besides."""
    import torch

    count = megabytes * 10**6 // 4
    a, b, c = (torch.ones(count) for _ in range(3))
    actions: dict[str, Action] = {COPY: lambda: a.copy_(b), TRIAD: lambda: torch.add(b, c, alpha=3.0, out=a)}
    trial = take_turns(actions, rounds, settle=False)
    for name, arrays, said in ((COPY, 2, "memory, copy a = b"), (TRIAD, 3, "memory, triad a = b + 3·c")):
        rates = [arrays * 4 * count / s / 1e9 for s in trial.seconds[name]]
        yield Row(
            said, statistics.median(rates), "GB/s", spread(rates), len(rates),
            note=f"arrays of {megabytes} MB, torch, all threads", point={"peak": name},
        )  # fmt: skip


def _reading(folder: Path, rounds: int, megabytes: int) -> Row:
    path = folder / "read.bin"
    path.write_bytes(np.random.default_rng(0).bytes(megabytes * 10**6))
    buffer = bytearray(megabytes * 10**6)
    rates = []
    for _ in range(rounds + 1):
        started = perf_counter()
        with path.open("rb", buffering=0) as stream:
            view = memoryview(buffer)
            while view and (got := stream.readinto(view)):
                view = view[got:]
        rates.append(megabytes / 1e3 / (perf_counter() - started))
    path.unlink()
    return Row(
        "reading a file that the system has in memory", statistics.median(rates[1:]), "GB/s", spread(rates[1:]),
        rounds, note="no disk: nothing here measures a cold cache", point={"peak": READING},
    )  # fmt: skip
