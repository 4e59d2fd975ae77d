"""Simulated cases as cached network inputs: made once, in shards that survive a kill, then read in milliseconds.

Case i of split s comes from the random stream (seed, s, i), whatever process makes it, so that a cache can grow
without changing what is in it, and no case is ever shared by two splits.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv import attenuation, tscore
from medconv.config import CLASS_ORDER, Preprocessing
from medconv.control_groups import cores
from medconv.crop import standardised_crop
from medconv.simulate.cohort import CohortModel
from medconv.simulate.l1_case import simulate_l1_case
from medconv.types import FloatArray, InputRefused

SPLITS = {"train": 0, "validation": 1, "test": 3}  # 2 was read while the first weights were made; never use it again
SHARD_SIZE = 100
COLUMNS = {"t_scores": "t_score", "signals": "signal", "median_hu": "median_hu", "kvp": "scan_kvp"}
LEVELS = 255.0  # crops are kept as 8 bits: 3.9 HU a step over the default window, well below the noise


@dataclass(frozen=True)
class CropRequest:
    """Which crops: everything that decides their content."""

    split: str
    seed: int
    preprocessing: Preprocessing
    cohort: CohortModel

    def settings(self) -> str:
        """As JSON, to tell a cache of other settings from one's own."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class CropSet:
    """`crops` (n, C, z, y, x) uint8 over the window; class index in CLASS_ORDER; HU is NaN where not measurable."""

    crops: NDArray[np.uint8]
    classes: NDArray[np.int64]
    t_scores: FloatArray
    signals: FloatArray
    median_hu: FloatArray
    kvp: FloatArray
    case_ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)


def cached_crops(folder: Path, request: CropRequest, count: int, workers: int | None = None) -> CropSet:
    """The first `count` cases of a split; what is missing in `folder` is simulated first, in parallel processes.

    Raises ValueError if the folder holds crops made with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, request)
    shards = [(folder / f"{request.split}_{i:04d}.npz", request, i) for i in range(-(-count // SHARD_SIZE))]
    todo = [shard for shard in shards if not shard[0].exists()]
    if todo:
        # "spawn": a forked child of a process that has used torch or OpenMP can hang.
        with multiprocessing.get_context("spawn").Pool(workers or cores(), _one_thread) as pool:
            for done, name in enumerate(pool.imap_unordered(_make_shard, todo), 1):
                print(f"simulated {name} ({done} of {len(todo)})", flush=True)
    return _read([path for path, _, _ in shards], count)


def simulate_crop(request: CropRequest, index: int) -> tuple[NDArray[np.uint8], dict[str, float | str]]:
    """Case `index`: its crop, and its hidden variables with what would be measured.

    "median_hu", "hu_mean" and "hu_sd" are NaN where L1 can't be measured.
    """
    case, truth = simulate_l1_case(
        np.random.default_rng([request.seed, SPLITS[request.split], index]), cohort=request.cohort
    )
    crop = np.rint(standardised_crop(case, request.preprocessing) * LEVELS).astype(np.uint8)
    found = dict.fromkeys(("median_hu", "hu_mean", "hu_sd"), float("nan"))
    try:
        core = attenuation.measure(case)[0]
    except InputRefused:
        pass
    else:
        found = {"median_hu": core.median_hu, "hu_mean": core.mean_hu, "hu_sd": core.sd_hu}
    return crop, truth | found | {"mask_volume_ml": case.volume_ml}


def truth_sheets(folder: Path, split: str, count: int) -> list[dict[str, str]]:
    """The hidden variables and measurements of the first `count` cases that `cached_crops` made, as text."""
    rows: list[dict[str, str]] = []
    for shard in range(-(-count // SHARD_SIZE)):
        with (folder / f"{split}_{shard:04d}.csv").open(newline="", encoding="utf-8") as stream:
            rows += csv.DictReader(stream)
    return rows[:count]


def write_truth_sheet(path: Path, truths: list[dict[str, float | str]]) -> None:
    """The hidden variables, one case a line, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(truths[0]))
        writer.writeheader()
        writer.writerows(truths)


def _make_shard(job: tuple[Path, CropRequest, int]) -> str:
    path, request, shard = job
    cases = [simulate_crop(request, shard * SHARD_SIZE + i) for i in range(SHARD_SIZE)]
    truths = [truth for _, truth in cases]
    write_truth_sheet(path.with_suffix(".csv"), truths)
    partial = path.with_suffix(".partial.npz")
    arrays: dict[str, Any] = {name: np.array([float(t[key]) for t in truths]) for name, key in COLUMNS.items()}
    np.savez(partial, allow_pickle=False, crops=np.stack([crop for crop, _ in cases]), **arrays)
    partial.replace(path)  # a shard is there whole or not at all
    return path.name


def _read(paths: list[Path], count: int) -> CropSet:
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            parts.append({name: archive[name] for name in archive.files})
    joined: dict[str, Any] = {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
    order = list(CLASS_ORDER)
    classes = np.array([order.index(tscore.classify(t)) for t in joined["t_scores"].tolist()], np.int64)
    return CropSet(classes=classes, **joined)


def _claim(folder: Path, request: CropRequest) -> None:
    """Write the settings beside the crops, or compare with those that are there."""
    file = folder / f"{request.split}_settings.json"
    if not file.exists():
        file.write_text(request.settings(), "utf-8")
    elif file.read_text("utf-8") != request.settings():
        raise ValueError(f"{folder} holds {request.split} crops made with other settings; choose another folder")


def _one_thread() -> None:
    """Each process one thread: the parallelism is over cases."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
