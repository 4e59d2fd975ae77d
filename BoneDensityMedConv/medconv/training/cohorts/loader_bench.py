"""`medconv bench --loader COHORT`: seconds an epoch costs to feed, the authors' way and from the cache, side by side.

Both feed the same cases as the same float batches in one process; no network runs. The files have been read once before
anything is timed, so that the authors' way is not charged for a cold disk.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from medconv.config import Preprocessing
from medconv.report import versions
from medconv.training.cohorts.authors_loader import BATCH_SIZE, ReadEachTime
from medconv.training.cohorts.cases import TRAIN, Cohort, LabelledCase
from medconv.training.cohorts.cohort_folder import read_cohort
from medconv.training.cohorts.crop_cache import cohort_crops
from medconv.training.cohorts.crops import LEVELS, CropSet

AIM = 10.0
READING_BUDGET_S = 60.0  # the authors' way is repeated until it has taken this long


def run_loader_bench(folder: Path, repeats: int, out: Path | None) -> int:
    """Measure on a cohort's training part, print a table and, if `out` is given, write JSON. Returns the exit code."""
    cohort = read_cohort(folder)
    preprocessing = Preprocessing()
    split = TRAIN if cohort.part(TRAIN) else None
    with tempfile.TemporaryDirectory(prefix="medconv-loader-") as cache:
        started = perf_counter()
        crops = cohort_crops(cohort, split, preprocessing, Path(cache), progress=_say)
        making = perf_counter() - started
        figures = measure(cohort, crops, preprocessing, repeats)
        del crops  # Windows keeps a mapped file from being removed
    figures["making the cache, once (s)"] = making
    _print_table(cohort, figures, preprocessing)
    if out is not None:
        document = {"versions": versions(), "cohort": cohort.name, "batch_size": BATCH_SIZE, "figures": figures}
        partial = out.with_name(out.name + ".partial")
        partial.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        partial.replace(out)
        print(f"Figures: {out}")
    return 0


def measure(cohort: Cohort, crops: CropSet, preprocessing: Preprocessing, repeats: int) -> dict[str, Any]:
    """Seconds an epoch of feeding costs either way, on the cases that are in `crops`: medians, and their ratio.

    Processor time is there for busy computers, where the clock also counts what others do.
    """
    by_id = {case.case_id: case for case in cohort.cases}
    cases = [by_id[case_id] for case_id in crops.case_ids]
    _check_same(cases, crops, preprocessing)
    loader = DataLoader(
        ReadEachTime(cases, preprocessing), BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    reading = _epochs(lambda: _authors_epoch(loader), repeats, READING_BUDGET_S)
    cached = _epochs(lambda: _cached_epoch(crops), max(repeats, 5), READING_BUDGET_S)
    (read_s, read_cpu), (cached_s, cached_cpu) = (np.median(epochs, axis=0).tolist() for epochs in (reading, cached))
    return {
        "cases": len(cases),
        "epochs timed": [len(reading), len(cached)],
        "authors' way: NIfTI read for each sample (s an epoch)": read_s,
        "authors' way, processor time (s an epoch)": read_cpu,
        "cached crops (s an epoch)": cached_s,
        "cached crops, processor time (s an epoch)": cached_cpu,
        "authors' way / cached crops": read_s / cached_s,
        "authors' way / cached crops, processor time": read_cpu / max(cached_cpu, 1e-9),
    }


def _check_same(cases: list[LabelledCase], crops: CropSet, preprocessing: Preprocessing) -> None:
    """Warm-up: the first sample of either way must be the same input, up to the rounding to 8 bits."""
    fresh, t_class = ReadEachTime(cases, preprocessing)[0]
    apart = float(np.abs(fresh.numpy() - crops.crops[0] / LEVELS).max())
    assert apart <= 0.51 / LEVELS, f"the two ways differ by {apart}"
    assert t_class == crops.classes[0]


def _authors_epoch(loader: DataLoader) -> int:
    return sum(len(classes) for _, classes in loader)


def _cached_epoch(crops: CropSet) -> int:
    order = np.random.default_rng(0).permutation(len(crops))
    seen = 0
    for first in range(0, len(order), BATCH_SIZE):
        chosen = order[first : first + BATCH_SIZE]
        batch = torch.from_numpy(np.stack([crops.crops[i] for i in chosen])).float().div_(LEVELS)
        classes = torch.from_numpy(crops.classes[chosen])
        assert len(batch) == len(classes)
        seen += len(classes)
    return seen


def _epochs(epoch: Callable[[], int], repeats: int, budget_s: float) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor of each epoch: `repeats`, or as many as fit into the budget."""
    found: list[tuple[float, float]] = []
    spent = 0.0
    while len(found) < max(repeats, 1) and (not found or spent + found[-1][0] <= budget_s):
        started, processor = perf_counter(), process_time()
        epoch()
        found.append((perf_counter() - started, process_time() - processor))
        spent += found[-1][0]
    return found


def _print_table(cohort: Cohort, figures: dict[str, Any], preprocessing: Preprocessing) -> None:
    size = " x ".join(map(str, preprocessing.size_xyz))
    print(
        f"{cohort.name}: {figures['cases']} cases, input {size} at {preprocessing.spacing_mm:g} mm, batch {BATCH_SIZE}"
    )
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"  {name:<56}{value:.3g}")
    # On a busy computer the clock exaggerates: the long epoch waits more often. The lesser of the two is told.
    ratio = min(figures["authors' way / cached crops"], figures["authors' way / cached crops, processor time"])
    print(f"An epoch is fed {ratio:.0f} times faster from the cache (aim: {AIM:.0f} or more).")


def _say(stage: str, fraction: float) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{stage}  {fraction:4.0%}", end="\n" if fraction >= 1 else "", file=sys.stderr, flush=True)
