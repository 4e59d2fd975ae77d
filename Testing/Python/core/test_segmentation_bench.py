"""The bench's segmentation measures what it says, on processes and CTs whose cost and content are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medconv.bench import cts as bench_cts
from medconv.bench import segmentation
from medconv.bench.process_meter import ProcessMeter
from medconv.bench.segmentation import FIRST, PLAIN, SECOND, Cost
from medconv.bench.settings import Settings, silent
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


def test_ratios_are_those_to_the_cheapest_plain_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hu = np.zeros((4, 4, 4), np.int16)
    l1 = np.zeros((4, 4, 4), bool)
    l1[1:3] = True
    small = bench_cts.BenchCT(CTVolume(hu, ImageGeometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))), l1)
    half = l1.copy()
    half[2] = False
    plain = {call: Cost(60.0 + len(call), 1.0, 6000.0, 0.9) for call in PLAIN["full"]}
    ours = iter([Cost(50.0, 1.0, 1900.0, 0.9), Cost(30.0, 1.0, 1800.0, 0.9)] * 4)
    options = {options: name for calls in PLAIN.values() for name, options in calls.items()}
    monkeypatch.setattr(segmentation, "abdomen_ct", lambda: small)
    monkeypatch.setattr(segmentation, "trunk_ct", lambda slices: small)
    monkeypatch.setattr(segmentation, "write_stand_in", lambda folder, widen: None)
    monkeypatch.setattr(segmentation.weights_store, "require", lambda *_: None)
    monkeypatch.setattr(segmentation, "_cancelled", lambda *_: {"after 0 s": 0.1, "after 1 s": 2.5})
    monkeypatch.setattr(
        segmentation,
        "plain_run",
        lambda case, weights, given, folder: (plain.get(options[given], Cost(90.0, 1.0, 5000.0, 0.9)), l1),
    )
    monkeypatch.setattr(segmentation, "worker_run", lambda *_: (next(ours), half))
    rows = {row.name: row for row in segmentation.measure(Settings(folder=str(tmp_path)), silent)}
    cheapest = min(plain, key=lambda name: plain[name].wall_s)
    second = rows[f"trunk, full: {SECOND}"]
    assert (second.ratio, second.baseline) == (30.0 / plain[cheapest].wall_s, cheapest)
    assert second.reached is True
    assert rows[f"abdomen, full: {FIRST}"].reached is None, "the aim is for a warm worker"
    assert rows[f"trunk, full: {cheapest}"].ratio is None
    assert rows["trunk, full: peak memory"].ratio == pytest.approx(0.3)
    assert rows["trunk, full: peak memory"].reached is True
    assert rows["trunk, fast: peak memory"].ratio == pytest.approx(0.36)
    assert rows["trunk, fast: peak memory"].reached is False
    assert "abdomen, full: peak memory" not in rows
    assert "with ours 0.667" in rows[f"trunk, full: {cheapest}"].note
    cancel = rows["Cancel until nothing is left, the slowest"]
    assert (cancel.median, cancel.reached) == (2.5, False)


def test_dice_of_nothing_is_nought() -> None:
    nothing = np.zeros((2, 2, 2), bool)
    assert segmentation.dice(nothing, nothing) == 0.0
    assert segmentation.dice(~nothing, ~nothing) == 1.0
