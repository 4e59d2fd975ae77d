"""The arithmetic of the bench: medians, spreads and ratios of rounds, operations of a network, peak memory."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from medconv import process_tree
from medconv.bench import apart, flops, memory, nets, network_passes, transformers
from medconv.bench.figures import Row, Trial, attempt, of_values, paired_ratio, spread, take_turns
from medconv.config import Architecture
from medconv.network import build_network


class FakeClock:
    """Time that passes only when an action says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def action(self, *seconds: float) -> Callable[[], None]:
        """Takes these times, one after another, and the last for ever."""
        times: Iterator[float] = iter(seconds)
        last = seconds[-1]

        def act() -> None:
            self.now += next(times, last)

        return act


# --- taking turns -------------------------------------------------------------------------------------------------


def test_each_round_times_every_action_once_after_one_that_is_not_timed() -> None:
    clock = FakeClock()
    done: list[str] = []
    actions = {name: lambda name=name: (done.append(name), clock.action(1.0)()) for name in "ab"}
    trial = take_turns(actions, 3, clock=clock)
    assert "".join(done) == "ab" + 3 * "aabb"  # once to see that they work, then untimed and timed
    assert trial.seconds == {"a": (1.0, 1.0, 1.0), "b": (1.0, 1.0, 1.0)}
    assert "".join(done[2:4]) == "aa"


def test_the_ratio_is_the_median_of_the_rounds_so_that_load_cancels() -> None:
    # The computer is busy from the second round on: both take ten times as long.
    trial = Trial({"ours": (1.0, 10.0, 10.0), "theirs": (4.0, 40.0, 50.0)}, {})
    assert trial.ratio("ours", "theirs") == 0.25
    row = trial.row("ours", "theirs", per=1e-3, unit="ms", aim=0.3, aim_of="ratio")
    assert (row.median, row.unit, row.repeats) == (10_000.0, "ms", 3)
    assert row.ratio == 0.25, "the unit must not be in the ratio"
    assert row.spread == pytest.approx((10.0 - 5.5) / 2 * 1e3)  # quartiles of 1, 10, 10 are 5.5 and 10
    assert (row.baseline, row.reached) == ("theirs", True)
    assert trial.row("theirs", "theirs").ratio is None, "nothing is compared with itself"


def test_an_action_that_fails_becomes_a_row_with_its_reason_and_the_others_are_timed() -> None:
    clock = FakeClock()

    def broken() -> None:
        raise RuntimeError("no such\n operator")

    trial = take_turns({"good": clock.action(2.0), "broken": broken}, 2, clock=clock)
    assert trial.row("good").median == 2.0
    row = trial.row("broken", "good", name="the broken one")
    assert (row.name, row.median, row.reason, row.reached) == ("the broken one", None, "no such operator", None)


def test_after_three_rounds_the_budget_ends_the_turns() -> None:
    clock = FakeClock()
    trial = take_turns({"slow": clock.action(10.0)}, 100, budget_s=25.0, settle=False, clock=clock)
    assert len(trial.seconds["slow"]) == 3
    clock = FakeClock()
    trial = take_turns({"slow": clock.action(10.0)}, 100, budget_s=45.0, settle=False, clock=clock)
    assert len(trial.seconds["slow"]) == 5


def test_the_share_of_a_peak_is_work_a_second_over_the_peaks_own_in_the_same_rounds() -> None:
    trial = Trial({"net": (2.0, 6.0), "gemm": (1.0, 3.0)}, {})
    assert trial.share("net", 10.0, "gemm", 20.0) == pytest.approx((10 / 2) / (20 / 1))
    assert trial.share("net", 10.0, "absent", 20.0) is None


def test_spread_is_half_the_interquartile_range() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
    assert spread([1.0]) is None
    assert of_values("x", [3.0, 1.0, 2.0]).median == 2.0
    assert paired_ratio([1.0, 8.0, 3.0], [2.0, 2.0, 2.0]) == 1.5


def test_an_attempt_that_fails_is_a_row() -> None:
    def fail() -> Row:
        raise OSError("no room")

    assert attempt("disk", fail) == Row("disk", reason="no room")


def test_a_row_is_the_same_after_json() -> None:
    row = Row("a", 1.0, "ms", 0.1, 3, 5.0, 0.5, "b", 0.2, "GEMM", 0.4, "ratio", "note", point={"x": 1})
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert row.reached is False
    assert replace(row, peak_mb=float("nan")).to_json()["peak_mb"] is None


# --- operations and bytes -----------------------------------------------------------------------------------------


def by_hand(architecture: Architecture, size: int) -> float:
    """Two for every multiply-add of ResNet-50's convolutions and its last layer, from the paper's table of layers."""
    width, edge = architecture.width, size // 2
    macs = 7**3 * architecture.in_channels * width * edge**3
    edge, channels = edge // 2, width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        own = width * 2**stage
        for block in range(blocks):
            before = edge
            if block == 0 and stage > 0:
                edge //= 2
            macs += channels * own * before**3 + 27 * own * own * edge**3 + own * 4 * own * edge**3
            if block == 0:
                macs += channels * 4 * own * edge**3
            channels = 4 * own
    return 2.0 * (macs + channels * 3)


@pytest.mark.parametrize(("width", "size"), [(64, 64), (16, 96)])
def test_operations_are_those_worked_out_by_hand(width: int, size: int) -> None:
    architecture = Architecture(width=width)
    with torch.device("meta"):
        network = build_network(architecture)
    expected, shape = by_hand(architecture, size), (1, 1, size, size, size)
    assert flops.counted(network, shape) == expected
    assert sum(layer.flops for layer in flops.layers(network, shape)) == expected
    if width == 64:
        assert expected == pytest.approx(10.1e9, rel=0.01)


def test_attention_is_counted() -> None:
    contestant = next(c for c in transformers.CONTESTANTS if c.name == "small ViT")
    network = contestant.build((32, 32, 32))
    tokens, dim, mlp, depth = 1 + 7**3, 192, 384, 6
    assert network.patch == 5
    each = tokens * (4 * dim * dim + 2 * dim * mlp) + 2 * tokens * tokens * dim
    expected = 2.0 * (depth * each + 5**3 * dim * 7**3 + 3 * dim)
    assert flops.counted(network, (1, 1, 32, 32, 32)) == expected


def test_a_layer_moves_its_input_weights_and_output() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 1, bias=False))
    (layer,) = flops.layers(network, (1, 2, 4, 4, 4))
    assert layer.bytes == 4 * (2 * 64 + 6 + 3 * 64)
    assert layer.flops == 2 * 2 * 3 * 64


def test_the_roofline_takes_the_slower_of_computing_and_moving_for_each_layer() -> None:
    costs = [flops.Layer("a", flops=100.0, bytes=1.0), flops.Layer("b", flops=10.0, bytes=30.0)]
    assert flops.roofline_s(costs, 10.0, 10.0) == 10.0 + 3.0
    assert flops.memory_bound_share(costs, 10.0, 10.0) == pytest.approx(3 / 13)


# --- networks -----------------------------------------------------------------------------------------------------


def test_ours_and_the_authors_network_are_the_same_function() -> None:
    authors, own, note = network_passes.networks()
    assert note == "", "timm_3d is installed where the tests run"
    with torch.inference_mode():
        theirs = authors(nets.grey(2, (32, 32, 32), 3)).numpy()
        ours = own(nets.grey(2, (32, 32, 32), 1)).numpy()
    assert nets.largest_difference(ours, theirs) < 1e-4
    assert abs(theirs[0] - theirs[1]).max() > 1e-3, "the logits depend on the input"


def test_without_timm_3d_our_own_three_channels_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm_3d", None)
    authors, own, note = network_passes.networks()
    assert "timm-3d" in note
    with torch.inference_mode():
        theirs, ours = authors(nets.grey(1, (32, 32, 32), 3)), own(nets.grey(1, (32, 32, 32), 1))
    assert nets.largest_difference(ours.numpy(), theirs.numpy()) < 1e-4


# --- memory and processes -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="the peak is taken from Linux's /proc")
def test_the_peak_of_a_process_is_what_it_allocated() -> None:
    before = apart.call("medconv.bench.memory:hold", {"megabytes": 1.0})["peak_mb"]
    found = apart.call("medconv.bench.memory:hold", {"megabytes": 200.0})
    assert found["peak_mb"] - before == pytest.approx(199, abs=8)
    assert found["after_forgetting_mb"] < before + 30, "a stretch of work has its own peak"


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="the peak is taken from Linux's /proc")
def test_stretches_of_work_have_their_own_peaks() -> None:
    def take(megabytes: int) -> None:
        with mmap.mmap(-1, megabytes * 10**6) as held:  # past malloc, which may have so much in store
            for _ in range(megabytes):
                held.write(b"x" * 10**6)

    take(1)
    peaks: dict[str, float] = {}
    laps = memory.Laps(peaks)
    laps.lap("nothing")
    for name, megabytes in (("small", 60), ("large", 200), ("small", 90)):
        take(megabytes)
        laps.lap(name)
    assert peaks["large"] - peaks["nothing"] == pytest.approx(200, abs=8)
    assert peaks["small"] - peaks["nothing"] == pytest.approx(90, abs=8), "the largest of its name"
    alone = memory.peak_of(lambda: take(120))
    assert alone is not None
    assert alone - peaks["nothing"] == pytest.approx(120, abs=8)


def test_a_process_that_fails_or_dies_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(apart.Failed, match="unexpected keyword"):
        apart.call("medconv.bench.memory:hold", {"megabites": 1.0})
    with pytest.raises(apart.Failed, match="os:system is not of the bench"):
        apart.call("os:system", {"command": "true"})
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho the very last word >&2\nkill -$SIGNAL $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(apart.processes, "python_executable", lambda: str(script))
    with pytest.raises(apart.Failed, match="memory ran out"):
        apart.call("medconv.bench.memory:hold", {}, {"SIGNAL": "KILL"})
    with pytest.raises(apart.Failed, match=r"SIGABRT.*the very last word"):
        apart.call("medconv.bench.memory:hold", {}, {"SIGNAL": "ABRT"})


def test_a_stream_that_is_left_ends_its_process() -> None:
    messages = apart.stream("medconv.bench.memory:hold", {"megabytes": 1.0, "seconds": 60.0})
    first = next(messages)
    assert process_tree.members(first["process"], None)
    messages.close()  # type: ignore[attr-defined]
    assert not process_tree.members(first["process"], None)
