"""The section `segmentation`: our worker against the plain `TotalSegmentator` command, with the same weights.

Both start from the same file and end with labels on its grid. The plain command runs as a person would call it, in a
process of its own; ours is `WorkerClient`. The CTs are simulated, so that everyone measures the same thing. Memory is
that of the processes that segment: whoever shows the CT holds it as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, sleep

import numpy as np
from numpy.typing import NDArray

from medconv import process_tree, volume_io
from medconv.bench.cts import BenchCT, abdomen_ct, trunk_ct
from medconv.bench.figures import Row
from medconv.bench.process_meter import ProcessMeter
from medconv.bench.settings import Say, Settings
from medconv.packages import how_to_install
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
FIRST, SECOND = "worker, first case", "worker, second case"
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


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Rows of each CT and quality, and of Cancel. Raises MissingRequirement without the package, or if a run fails.

    Without TotalSegmentator's own weights the demonstration network in their format is measured; `widen`: with how many
    times as many channels (4: about as many as TotalSegmentator's own).
    """
    given, folder = settings.weights_folder, settings.place
    weights = Path(given).absolute() if given else folder / "weights"
    if not given:
        say("demonstration network", 0.0)
        write_stand_in(weights, widen=settings.widen)
    weights_store.require("full", str(weights))
    cts: dict[str, Callable[[], BenchCT]] = {"abdomen": abdomen_ct}
    if not settings.quick:
        cts[LARGE] = partial(trunk_ct, settings.slices)
    case: _Case | None = None
    for place, (name, make) in enumerate(cts.items()):
        made = make()
        case = _Case(name, folder / f"{name}.nii", made.l1_zyx)
        volume_io.write_image(case.file, made.ct.array_zyx, made.ct.geometry)
        size = f"{' x '.join(map(str, made.ct.geometry.size_xyz))}, {made.ct.array_zyx.nbytes / 1e6:.0f} MB"
        del made
        for number, quality in enumerate(PLAIN):
            say(f"{name}, {quality}", (place + number / len(PLAIN)) / (len(cts) + 0.3))
            weights_said = "" if given else f"; demonstration network with {settings.widen} x its channels"
            yield from compared(case, weights, quality, folder, f"{size}{weights_said}")
    assert case is not None
    say("cancel", len(cts) / (len(cts) + 0.3))
    yield cancel_row(_cancelled(case, weights))


def compared(case: _Case, weights: Path, quality: str, folder: Path, note: str = "") -> Iterator[Row]:
    """The plain calls, then our first and second case in one worker, against the cheapest plain call."""
    costs, masks = {}, {}
    for name, options in PLAIN[quality].items():
        costs[name], masks[name] = plain_run(case, weights, options, folder)
    with contextlib.closing(WorkerClient()) as client:
        for name in (FIRST, SECOND):
            costs[name], masks[name] = worker_run(case, weights, quality, client)
    cheapest = min(PLAIN[quality], key=lambda name: costs[name].wall_s)
    title = f"{case.name}, {quality}"
    for name, cost in costs.items():
        agreed = f"; with ours {dice(masks[name], masks[SECOND]):.3f}" if name in PLAIN[quality] else ""
        told = f"{cost.cpu_s:.0f} s of processor; Dice of L1 with the truth {cost.l1_dice:.3f}{agreed}"
        told = "; ".join(filter(None, (told, note)))
        yield Row(
            f"{title}: {name}", cost.wall_s, repeats=1, peak_mb=cost.peak_mb, note=told,
            ratio=None if name in PLAIN[quality] else cost.wall_s / costs[cheapest].wall_s,
            baseline="" if name in PLAIN[quality] else cheapest,
            aim=GOALS["wall"] if name == SECOND else None, aim_of="ratio" if name == SECOND else "",
        )  # fmt: skip
    if case.name == LARGE:
        least = min(PLAIN[quality], key=lambda name: costs[name].peak_mb)
        ours = costs[SECOND].peak_mb
        yield Row(
            f"{title}: peak memory", ours, "MB", repeats=1, ratio=ours / costs[least].peak_mb, baseline=least,
            aim=GOALS["memory"], aim_of="ratio",
        )  # fmt: skip
        yield Row(
            f"{title}: peak memory, whatever others need", ours, "MB", repeats=1, aim=GOALS["memory (MB)"],
            aim_of="median",
        )  # fmt: skip


def cancel_row(taken: Mapping[str, float]) -> Row:
    """The slowest Cancel."""
    told = ", ".join(f"{name} {s:.2f} s" for name, s in taken.items())
    return Row(
        "Cancel until nothing is left, the slowest", max(taken.values()), repeats=len(taken), aim=GOALS["cancel (s)"],
        aim_of="median", note=told,
    )  # fmt: skip


def plain_run(case: _Case, weights: Path, options: Sequence[str], folder: Path) -> tuple[Cost, BoolArray]:
    """The `TotalSegmentator` command from file to file."""
    command = shutil.which("TotalSegmentator", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        raise MissingRequirement(
            "totalsegmentator_missing",
            "The command TotalSegmentator is not installed.",
            how_to_install("segment"),
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
