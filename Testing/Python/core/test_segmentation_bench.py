"""The bench of the segmentation measures what it says, on processes and CTs whose cost and content are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medconv import bench_cts, segmentation_bench
from medconv.process_meter import ProcessMeter
from medconv.segmentation_bench import PLAIN, Cost
from medconv.simulate.lumbar_ct import SimulatedCase
from medconv.types import CTVolume, ImageGeometry

# Holds 100 MB itself and 150 MB in a child, burns CPU time in both, and ends after the child.
BURN = "until = time.process_time() + 0.4\nwhile time.process_time() < until: pass\n"
CHILD = f"import time\nheld = b'x' * 150_000_000\n{BURN}time.sleep(0.6)"
HUNGRY = f"""
import subprocess, sys, time
held = b"x" * 100_000_000
running = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
{BURN}
running.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="memory is read from Linux's /proc")
def test_the_meter_counts_memory_and_time_of_the_whole_tree() -> None:
    process = subprocess.Popen([sys.executable, "-c", HUNGRY])
    with ProcessMeter(process.pid) as meter:
        process.wait()
    assert 250 < meter.peak_mb < 310
    assert meter.cpu_s > 0.7
    assert meter.wall_s > 0.9


def test_the_trunk_is_the_simulated_person_on_a_large_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict] = []

    def simulated(_seed: int, **options) -> SimulatedCase:
        asked.append(options)
        geometry = ImageGeometry((200, 180, 373), (1.5, 1.5, 1.5), (-154.0, -130.5, -700.0))
        hu, labels = np.full(geometry.shape_zyx, 40, np.int16), np.zeros(geometry.shape_zyx, np.uint8)
        labels[200:220, 60:90, 70:100] = 31
        return SimulatedCase(CTVolume(hu, geometry), labels, -1.0, {})

    monkeypatch.setattr(bench_cts, "simulate_lumbar_ct", simulated)
    trunk = bench_cts.trunk_ct(350)
    assert asked[0]["field_of_view_mm"] == bench_cts.TRUNK_MM
    assert trunk.ct.geometry.size_xyz == (512, 512, 350)
    assert trunk.ct.array_zyx.dtype == np.int16
    assert trunk.l1_zyx.sum() * trunk.ct.geometry.voxel_volume_ml == pytest.approx(
        20 * 30 * 30 * 1.5**3 / 1000, rel=0.05
    )
    middle = trunk.ct.geometry.index_to_lps(np.argwhere(trunk.l1_zyx)[:, ::-1].mean(axis=0))
    assert middle == pytest.approx([-154 + 84.5 * 1.5, -130.5 + 74.5 * 1.5, -700 + 209.5 * 1.5], abs=0.8)
    assert (trunk.ct.array_zyx[:, 0, 0] == -1000).all(), "air around"
    assert (trunk.ct.array_zyx[trunk.l1_zyx] == 40).all()


def test_ratios_are_those_of_the_second_case_to_the_cheapest_plain_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hu = np.zeros((4, 4, 4), np.int16)
    l1 = np.zeros((4, 4, 4), bool)
    l1[1:3] = True
    small = bench_cts.BenchCT(CTVolume(hu, ImageGeometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))), l1)
    half = l1.copy()
    half[2] = False
    plain = {call: Cost(100.0 if "--fast" in call else 60.0 + len(call), 1.0, 6000.0, 0.9) for call in PLAIN["full"]}
    ours = iter([Cost(50.0, 1.0, 1900.0, 0.9), Cost(30.0, 1.0, 1800.0, 0.9)] * 4)
    options = {options: name for calls in PLAIN.values() for name, options in calls.items()}
    monkeypatch.setattr(segmentation_bench, "abdomen_ct", lambda: small)
    monkeypatch.setattr(segmentation_bench, "trunk_ct", lambda slices: small)
    monkeypatch.setattr(segmentation_bench, "write_stand_in", lambda folder, widen: None)
    monkeypatch.setattr(segmentation_bench.weights_store, "require", lambda *_: None)
    monkeypatch.setattr(segmentation_bench, "_cancelled", lambda *_: {"after 1 s": 0.2})
    monkeypatch.setattr(
        segmentation_bench,
        "plain_run",
        lambda case, weights, given, folder: (plain.get(options[given], Cost(90.0, 1.0, 5000.0, 0.9)), l1),
    )
    monkeypatch.setattr(segmentation_bench, "worker_run", lambda *_: (next(ours), half))
    assert segmentation_bench.run_segmentation_bench(700, tmp_path / "figures.json") == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    cheapest = min(cost.wall_s for cost in plain.values())
    full = figures["trunk"]["full"]
    assert full["ratios"] == {"wall": 30.0 / cheapest, "memory": 0.3, "memory (MB)": 1800.0}
    assert figures["abdomen"]["full"]["ratios"] == {"wall": 30.0 / cheapest}
    assert figures["trunk"]["fast"]["ratios"]["memory"] == pytest.approx(0.36)
    assert full["l1_dice"] == {name: pytest.approx(2 / 3) for name in PLAIN["full"]}
    told = capsys.readouterr().out
    assert "memory: 0.3  (goal ≤ 0.333: reached)" in told
    assert "memory: 0.36  (goal ≤ 0.333: MISSED)" in told


def test_dice_of_nothing_is_nought() -> None:
    nothing = np.zeros((2, 2, 2), bool)
    assert segmentation_bench.dice(nothing, nothing) == 0.0
    assert segmentation_bench.dice(~nothing, ~nothing) == 1.0
