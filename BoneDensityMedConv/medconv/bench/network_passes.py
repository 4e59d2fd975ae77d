"""The section `network`: a pass of ResNet-50 in every runtime that is there, beside the authors' configuration.

All networks have the same weights: ours sees one grey channel with the stem's weights summed, theirs three equal ones,
so their logits must agree. In every round each runtime is timed once, and a matrix product as well: shares of the peak
are of the same seconds. Memory and the time of opening are those of a process that does nothing else.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from medconv import runtimes
from medconv.bench import apart, flops, machine, nets
from medconv.bench.figures import Action, Row, Trial, attempt, because, take_turns
from medconv.bench.settings import Say, Settings, part
from medconv.config import Architecture
from medconv.types import Index3, MissingRequirement

if TYPE_CHECKING:
    from torch import nn

SIZES: tuple[Index3, ...] = ((64, 64, 64), (96, 96, 96))
BATCHES, QUICK_BATCHES = (1, 2, 4, 8), (2,)
BATCH_SIZE_ZYX: Index3 = (64, 64, 64)
FASTER = {True: 3.5, False: 2.2}  # than the authors' configuration, with and without the extra 'fast'
EXTRA = frozenset({"openvino", "onnxruntime"})
ASKED_FOR = frozenset({"compiled"})  # half a minute of compiling
AUTHORS, SHIPPED, FULL = "authors", "shipped", "full"
FULL_WIDTH = "ResNet-50"
QUICK_TO_OPEN = ("eager", "openvino", "onednn")
IN_BATCHES = ("eager", "openvino", "onednn", "jit", "onnxruntime")
BUDGET_S = 45.0


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Rows of each size, then of the shipped weights at their own size, then of batches."""
    authors, own, note = networks()
    sizes = SIZES[:1] if settings.quick else SIZES
    for place, size in enumerate(sizes):
        yield from _one_size(FULL, own, Architecture(), authors, size, settings, part(say, 0.36 * place, 0.36), note)
    yield from _shipped(authors, settings, part(say, 0.72, 0.1), note)
    yield from _batches(authors, own, settings, part(say, 0.82, 0.18))


def networks() -> tuple[nn.Module, nn.Module, str]:
    """The authors' network, ours with its weights, and what there is to say about the first."""
    try:
        authors = nets.authors_network()
    except MissingRequirement as missing:
        twin = nets.own_network(3)
        return (
            twin,
            nets.grey_twin(twin),
            f"{missing.message} Ours with three channels stands in for it: the same layers.",
        )
    return authors, nets.grey_twin(authors), ""


def _one_size(
    which: str, own: nn.Module, architecture: Architecture, authors: nn.Module, size: Index3, settings: Settings,
    say: Say, note: str,
) -> Iterator[Row]:  # fmt: skip
    import torch

    names = _to_open(settings)
    crops = nets.grey(1, size, architecture.in_channels).numpy()
    seen, opened = nets.grey(1, size, 3), {}
    actions: dict[str, Action] = {nets.AUTHORS: partial(nets.eager, authors, seen)}
    for name in names:
        say(f"opening {name}", 0.0)
        try:
            opened[name] = runtimes.open_runtime(name, architecture, own, "cpu", crops.shape[1:])
            actions[name] = partial(opened[name], crops)
        except (runtimes.CannotRun, MissingRequirement) as error:
            yield Row(_called(which, name, size), unit="ms", reason=because(error))
    multiply, product = machine.gemm()
    actions[machine.GEMM] = multiply
    trial = take_turns(actions, settings.rounds, budget_s=BUDGET_S, progress=part(say, 0.1, 0.5))
    with torch.inference_mode():
        reference = opened[runtimes.REFERENCE](crops)
    watched = _watched(which, trial, settings)
    work_of_ours = flops.counted(own, (1, architecture.in_channels, *size))
    for place, name in enumerate((nets.AUTHORS, *opened)):
        say(f"memory of {name}", 0.6 + 0.4 * place / len(actions))
        work = flops.counted(authors, (1, 3, *size)) if name == nets.AUTHORS else work_of_ours
        row = _row(which, name, size, trial, work, trial.share(name, work, machine.GEMM, product))
        alone = _alone(AUTHORS if name == nets.AUTHORS else which, name, size) if name in watched else {}
        said = [note if name == nets.AUTHORS else "", f"{work / 1e9:.1f} GFLOP", alone.get("said", "")]
        comparable = which == FULL or name in opened  # the shipped weights are not the authors' network's
        if comparable and name != runtimes.REFERENCE and name in trial.seconds:
            found = opened[name](crops) if name in opened else nets.eager(authors, seen).numpy()
            said.append(f"logits differ by {nets.largest_difference(found, reference):.1g}")
        yield replace(row, note="; ".join(filter(None, said)), peak_mb=alone.get("peak_mb"))
    yield from _aims(which, size, trial, list(opened), work_of_ours, product)
    yield _roofline(which, own, (1, architecture.in_channels, *size), trial, list(opened), product, settings)


def _to_open(settings: Settings) -> list[str]:
    """Names of runtimes: all that are there, but what compiles only if asked for."""
    names = runtimes.available("cpu")
    if settings.quick:
        return [name for name in names if name in QUICK_TO_OPEN]
    return [name for name in names if settings.full or name not in ASKED_FOR]


def _row(which: str, name: str, size: Index3, trial: Trial, work: float, share: float | None) -> Row:
    point = {"plot": "network", "group": _group(which, size), "series": name, "gflop": work / 1e9}
    return trial.row(
        name, nets.AUTHORS, 1e-3, "ms", name=_called(which, name, size), share=share,
        of_peak=machine.SAID[machine.GEMM] if share is not None else "", point=point,
    )  # fmt: skip


def _watched(which: str, trial: Trial, settings: Settings) -> set[str]:
    """Whose memory is measured: a process each takes seconds, so of the small cases only what matters."""
    if which == FULL and not settings.quick:
        return set(trial.seconds)
    fastest = min(trial.seconds.keys() - {machine.GEMM}, key=lambda name: trial.ratio(name, runtimes.REFERENCE))
    if settings.quick:
        return {fastest} if which == FULL else set()
    return {runtimes.REFERENCE, fastest}


def _aims(which: str, size: Index3, trial: Trial, names: list[str], work: float, product: float) -> Iterator[Row]:
    """The fastest of all runtimes in float32, and of those without the extra packages; and what is to be had at all."""
    if which != FULL:
        return
    timed = [name for name in names if name in trial.seconds]
    exact = [name for name in timed if name not in runtimes.HALF_PRECISION]
    at_peak = trial.ratio(nets.AUTHORS, machine.GEMM) * product / work
    limit = [f"at the rate of GEMM it would be {at_peak:.1f} x"]
    limit += [f"{name}: {1 / trial.ratio(name, nets.AUTHORS):.1f} x" for name in timed if name not in exact]
    for extra, said in ((True, "the fastest, float32"), (False, "the fastest without the extra 'fast', float32")):
        among = [name for name in exact if extra or name not in EXTRA]
        best = min(among, key=lambda name: trial.ratio(name, nets.AUTHORS))
        yield trial.row(
            best, nets.AUTHORS, 1e-3, "ms", name=f"{_group(which, size)}: {said}", aim=1 / FASTER[extra],
            aim_of="ratio", note="; ".join([best, *limit]),
        )  # fmt: skip


def _roofline(
    which: str, own: nn.Module, shape: tuple[int, ...], trial: Trial, names: list[str], product: float,
    settings: Settings,
) -> Row:  # fmt: skip
    """What the computer's peaks allow, if every layer's data came from memory once."""
    group = _group(which, (shape[2], shape[3], shape[4]))

    def least() -> Row:
        peak = product / statistics.median(trial.seconds[machine.GEMM])
        bandwidth = settings.peaks[machine.TRIAD] * 1e9
        costs = flops.layers(own, shape)
        bound = flops.roofline_s(costs, peak, bandwidth)
        waiting = flops.memory_bound_share(costs, peak, bandwidth)
        moved, work = sum(c.bytes for c in costs), sum(c.flops for c in costs)
        exact = (n for n in names if n in trial.seconds and n not in runtimes.HALF_PRECISION)
        best = min(exact, key=lambda n: trial.ratio(n, nets.AUTHORS))
        share = bound / statistics.median(trial.seconds[best])
        return Row(
            f"{group}: least time by the roofline", bound * 1e3, "ms",
            note=f"{work / moved:.0f} FLOP a byte; {waiting:.0%} of it in layers bound by memory; {best} takes "
            f"{1 / share:.2f} times this",
            point={"plot": "roofline", "group": group, "intensity": work / moved},
        )  # fmt: skip

    return attempt(f"{group}: least time by the roofline", least)


def _shipped(authors: nn.Module, settings: Settings, say: Say, note: str) -> Iterator[Row]:
    from medconv.weights import find_model, load_network

    try:
        card, path = find_model(None)
        network = load_network(card, path)
    except MissingRequirement as missing:
        yield Row("shipped weights", reason=because(missing))
        return
    size = card.preprocessing.size_xyz[::-1]
    yield from _one_size(SHIPPED, network, card.architecture, authors, size, settings, say, note)


def _batches(authors: nn.Module, own: nn.Module, settings: Settings, say: Say) -> Iterator[Row]:
    """Milliseconds a case when several are handed over at once."""
    batches = QUICK_BATCHES if settings.quick else BATCHES
    opened = {}
    for name in _to_open(settings):
        if settings.full or name in IN_BATCHES:
            with contextlib.suppress(runtimes.CannotRun, MissingRequirement):  # the single case's row says why
                opened[name] = runtimes.open_runtime(name, Architecture(), own, "cpu", (1, *BATCH_SIZE_ZYX))
    multiply, product = machine.gemm()
    work = {name: flops.counted(own, (1, 1, *BATCH_SIZE_ZYX)) for name in opened}
    work[nets.AUTHORS] = flops.counted(authors, (1, 3, *BATCH_SIZE_ZYX))
    for place, count in enumerate(batches):
        crops, seen = nets.grey(count, BATCH_SIZE_ZYX, 1).numpy(), nets.grey(count, BATCH_SIZE_ZYX, 3)
        actions: dict[str, Action] = {nets.AUTHORS: partial(nets.eager, authors, seen)}
        actions |= {name: partial(ready, crops) for name, ready in opened.items()}
        rounds = min(settings.rounds, 3) if count > 2 else settings.rounds
        trial = take_turns(
            actions | {machine.GEMM: multiply}, rounds, budget_s=BUDGET_S / 3, settle=count < 4,
            progress=part(say, place / len(batches), 1 / len(batches)),
        )  # fmt: skip
        for name in actions:
            point = {"plot": "batch", "series": name, "x": count}
            title = f"batch of {count}, {nets.said(BATCH_SIZE_ZYX)}, {name}"
            share = trial.share(name, count * work[name], machine.GEMM, product)
            yield trial.row(
                name, nets.AUTHORS, count * 1e-3, "ms a case", name=title, point=point, share=share,
                of_peak=machine.SAID[machine.GEMM] if share is not None else "",
            )  # fmt: skip


def alone(which: str, runtime: str, size: list[int]) -> dict[str, Any]:
    """For a process of its own: opens one runtime and runs it three times; how long opening took."""
    import torch

    from medconv.bench import memory
    from medconv.network import build_network
    from medconv.weights import find_model, load_network

    z, y, x = size
    if which == AUTHORS:
        network, _, _ = networks()
        seen = nets.grey(1, (z, y, x), 3)
        memory.forget_peak()
        for _ in range(3):
            nets.eager(network, seen)
        return {"opening_s": None}
    if which == SHIPPED:
        card, path = find_model(None)
        architecture, own = card.architecture, load_network(card, path)
    else:
        architecture, own = Architecture(), build_network(Architecture()).eval()
    crops = nets.grey(1, (z, y, x), architecture.in_channels).numpy()
    memory.forget_peak()
    started = perf_counter()
    ready = runtimes.open_runtime(runtime, architecture, own, "cpu", crops.shape[1:])
    ready(crops)
    opening = perf_counter() - started
    with torch.inference_mode():
        for _ in range(2):
            ready(crops)
    return {"opening_s": opening}


def _alone(which: str, name: str, size: Index3) -> dict[str, Any]:
    try:
        found = apart.call("medconv.bench.network_passes:alone", {"which": which, "runtime": name, "size": list(size)})
    except apart.Failed as failure:
        return {"said": f"alone: {failure}"}
    opening = found["opening_s"]
    return {"peak_mb": found["peak_mb"], "said": "" if opening is None else f"opened and first pass in {opening:.2f} s"}


def _called(which: str, name: str, size: Index3) -> str:
    return f"{_group(which, size)}, {name}"


def _group(which: str, size: Index3) -> str:
    return f"{'shipped weights' if which == SHIPPED else FULL_WIDTH}, {nets.said(size)}"
