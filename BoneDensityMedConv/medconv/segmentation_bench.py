"""`medconv bench --segmentation`: our worker against the plain `TotalSegmentator` command, with the same weights.

Both start from the same file and end with labels on its grid. The plain command runs as a person would call it, in a
process of its own; ours is `WorkerClient`. The CTs are simulated, so that everyone measures the same thing. Memory is
that of the processes that segment: whoever shows the CT holds it as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv import process_tree, volume_io
from medconv.bench_cts import abdomen_ct, trunk_ct
from medconv.process_meter import ProcessMeter
from medconv.report import versions
from medconv.segmenter import TOTALSEGMENTATOR, SegmenterRequest
from medconv.segmenters import weights_store
from medconv.segmenters.stand_in import write_stand_in
from medconv.segmenters.totalsegmentator_package import prepare_settings
from medconv.types import BoolArray, MissingRequirement, SpineSegmentation
from medconv.vertebrae import TOTALSEGMENTATOR as LABELS
from medconv.worker_client import WorkerClient

# Plain calls that end with the same mask: L1 alone, the cheapest; and all that our segmentation has.
DELIVERED = (
    *(f"vertebrae_{name}" for name in ("T11", "T12", "L1", "L2", "L3", "L4", "L5")),
    *("sacrum", "rib_left_11", "rib_left_12", "rib_right_11", "rib_right_12", "liver"),
)
PLAIN: dict[str, dict[str, tuple[str, ...]]] = {
    "full": {"plain, L1 alone": ("-rs", "vertebrae_L1"), "plain, all structures": ("-rs", *DELIVERED)},
    "fast": {"plain --fast": ("--fast",)},
}
# Of the second case in the same worker against the cheapest plain call; those for memory are for the large CT.
GOALS = {"wall": 0.5, "memory": 1 / 3, "memory (MB)": 2500.0, "cancel (s)": 2.0}
LARGE = "trunk"
CANCEL_AFTER_S = (0.0, 0.3, 1.0, 3.0, 8.0, 15.0)


@dataclass(frozen=True)
class Cost:
    """What one run took; `l1_dice`: its L1 against the simulated truth."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    l1_dice: float


@dataclass(frozen=True)
class _Case:
    """A CT in a file, and L1 as it was simulated."""

    name: str
    file: Path
    l1_zyx: BoolArray


def run_segmentation_bench(slices: int, out: Path | None, weights_folder: str = "", widen: int = 1) -> int:
    """Measure, print a table and, if `out` is given, write JSON. Returns the exit code.

    weights_folder: TotalSegmentator's weights; "" measures with the demonstration network in their format.
    widen: how many times as many channels that network gets (4: about as many as TotalSegmentator's own).
    Raises MissingRequirement if the package is not there, or a run fails.
    """
    with tempfile.TemporaryDirectory(prefix="medconv-bench-") as place:
        folder = Path(place)
        weights = Path(weights_folder).absolute() if weights_folder else folder / "weights"
        if not weights_folder:
            write_stand_in(weights, widen=widen)
        weights_store.require("full", str(weights))
        print(f"{os.cpu_count()} cores; {weights_folder or f'demonstration network with {widen} x its channels'}")
        rows: dict[str, Any] = {"versions": versions(), "cores": os.cpu_count(), "widen": widen}
        for name, make in (("abdomen", abdomen_ct), (LARGE, partial(trunk_ct, slices))):
            made = make()
            case = _Case(name, folder / f"{name}.nii", made.l1_zyx)
            volume_io.write_image(case.file, made.ct.array_zyx, made.ct.geometry)
            print(f"{name}: {' x '.join(map(str, made.ct.geometry.size_xyz))}, {made.ct.array_zyx.nbytes / 1e6:.0f} MB")
            del made
            rows[name] = {quality: measure(case, weights, quality, folder) for quality in PLAIN}
        rows["cancel (s)"] = _cancelled(case, weights)
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        print(f"Figures: {out}")
    return 0


def measure(case: _Case, weights: Path, quality: str, folder: Path) -> dict[str, Any]:
    """The costs of the plain calls and of our first and second case, ratios, and L1's Dice between both."""
    costs, masks = {}, {}
    for name, options in PLAIN[quality].items():
        costs[name], masks[name] = plain_run(case, weights, options, folder)
    with contextlib.closing(WorkerClient()) as client:
        for name in ("worker, first case", "worker, second case"):
            costs[name], masks[name] = worker_run(case, weights, quality, client)
    cheapest = min(costs[name].wall_s for name in PLAIN[quality])
    least = min(costs[name].peak_mb for name in PLAIN[quality])
    ours = costs["worker, second case"]
    ratios = {"wall": ours.wall_s / cheapest}
    if case.name == LARGE:
        ratios |= {"memory": ours.peak_mb / least, "memory (MB)": ours.peak_mb}
    agreement = {name: dice(masks[name], masks["worker, second case"]) for name in PLAIN[quality]}
    _print(quality, costs, ratios, agreement)
    return {"costs": {name: asdict(cost) for name, cost in costs.items()}, "ratios": ratios, "l1_dice": agreement}


def plain_run(case: _Case, weights: Path, options: Sequence[str], folder: Path) -> tuple[Cost, BoolArray]:
    """The `TotalSegmentator` command from file to file."""
    command = shutil.which("TotalSegmentator", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        raise MissingRequirement(
            "totalsegmentator_missing",
            "The command TotalSegmentator is not installed.",
            "Install it: pip install 'bonedensity-medconv[segment]'.",
        )
    home, labels, log = folder / "home", folder / "plain.nii.gz", folder / "plain.log"
    prepare_settings(home)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    own = {"TOTALSEG_HOME_DIR": str(home), "TOTALSEG_WEIGHTS_PATH": str(weights), "TMPDIR": str(scratch)}
    arguments = [command, "-i", str(case.file), "-o", str(labels), "--ml", "--device", "cpu", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output, env=os.environ | own)
        with ProcessMeter(process.pid) as meter:
            code = process.wait()
    if code != 0:
        raise MissingRequirement(
            "plain_run_failed", "The TotalSegmentator command failed.", "Its last words:", log.read_text()[-500:]
        )
    found, _, _owner = volume_io.read_labels(labels)
    l1 = np.asarray(found == LABELS["L1"])
    return Cost(meter.wall_s, meter.cpu_s, meter.peak_mb, dice(l1, case.l1_zyx)), l1


def worker_run(case: _Case, weights: Path, quality: str, client: WorkerClient) -> tuple[Cost, BoolArray]:
    """Our worker from file to labels; the process is started by the first case."""
    client.start()
    assert client.process_id is not None
    with ProcessMeter(client.process_id) as meter:
        ct = volume_io.read_ct(case.file)
        found = client.segment_and_wait(ct, _request(weights, quality))
    l1 = _l1_of(found)
    return Cost(meter.wall_s, meter.cpu_s, meter.peak_mb, dice(l1, case.l1_zyx)), l1


def _cancelled(case: _Case, weights: Path) -> dict[str, float]:
    """Seconds from Cancel until no process and no file is left, for several moments of a segmentation."""
    ct = volume_io.read_ct(case.file)
    taken = {}
    for after_s in CANCEL_AFTER_S:
        client = WorkerClient()
        client.segment(ct, _request(weights, "full"))
        pid, folder = client.process_id, client.folder
        assert pid is not None
        assert folder is not None
        until = monotonic() + after_s
        while monotonic() < until:
            client.poll()
            sleep(0.02)
        began = perf_counter()
        client.cancel()
        while process_tree.members(pid, folder) or folder.exists():
            sleep(0.001)
        taken[f"after {after_s:g} s"] = perf_counter() - began
        client.close()
    slowest = max(taken.values())
    print(f"cancel: {', '.join(f'{name} {s:.2f} s' for name, s in taken.items())}  {_verdict('cancel (s)', slowest)}")
    return taken


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """2·|a ∩ b| / (|a| + |b|); 0 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2.0 * np.count_nonzero(a & b) / total if total else 0.0


def _request(weights: Path, quality: str) -> SegmenterRequest:
    return SegmenterRequest(TOTALSEGMENTATOR, quality, weights_folder=str(weights), device="cpu")


def _l1_of(found: SpineSegmentation) -> BoolArray:
    l1 = np.zeros(found.ct_geometry.shape_zyx, bool)
    x, y, z = found.start_xyz
    depth, height, width = found.labels_zyx.shape
    l1[z : z + depth, y : y + height, x : x + width] = found.labels_zyx == found.label_of("L1")
    return l1


def _print(quality: str, costs: dict[str, Cost], ratios: dict[str, float], agreement: dict[str, float]) -> None:
    print(f"  {quality:<24}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'L1 Dice':>9}")
    for name, cost in costs.items():
        print(f"  {name:<24}{cost.wall_s:>9.1f}{cost.cpu_s:>9.1f}{cost.peak_mb:>9.0f}{cost.l1_dice:>9.3f}")
    for name, ratio in ratios.items():
        print(f"    second case / cheapest plain, {name}: {ratio:.3g}  {_verdict(name, ratio)}")
    for name, value in agreement.items():
        print(f"    L1 of both, {name}: Dice {value:.3f}")


def _verdict(goal: str, value: float) -> str:
    return f"(goal ≤ {GOALS[goal]:.3g}: {'reached' if value <= GOALS[goal] else 'MISSED'})"
