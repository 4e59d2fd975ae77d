"""How a batch's time and memory follow the number of cases: `medconv batch`, with one worker and with two.

The cases are simulated (L1's neighbourhood and its mask), once, in the user's cache. The command runs as a person would
call it, in a process of its own; memory is that of all its processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import medconv
from medconv import processes
from medconv.bench import training_feed, trunk_files
from medconv.bench.figures import Row
from medconv.bench.process_meter import ProcessMeter
from medconv.bench.settings import Say, Settings

CASES, FULL_CASES, QUICK_CASES = (10, 40, 100), (10, 50, 100, 200), (6,)
WORKERS = (1, 2)
AIM = 1 / 1.8  # two workers against one
FLAT_MB = 0.5  # a case: so that a thousand cases fit where one does; the peaks themselves vary by some 20 MB
FOLDERS = ("train_data", "masks")
LAST_WORDS = 300


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Rows of every number of cases and workers, then what one more case costs in time and memory."""
    counts = QUICK_CASES if settings.quick else FULL_CASES if settings.full else CASES
    cohort = training_feed.simulated(max(counts), say)
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for place, count in enumerate(counts):
        inputs = _cases(cohort, settings.place / f"cases-{count}", count)
        for workers in WORKERS[: 1 if settings.quick else None]:  # a second one starts for longer than few cases take
            said = f"batch of {count} cases, {workers} worker{'s' if workers > 1 else ''}"
            say(said, (place + (workers - 1) / len(WORKERS)) / len(counts))
            out = settings.place / f"out-{count}-{workers}"
            try:
                seconds, peak = run_batch(inputs, out, workers)
            except RuntimeError as failure:
                yield Row(said, reason=str(failure))
                return
            found[count, workers] = seconds, peak
            yield _row(said, count, workers, found)
            shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(inputs)
    if len(counts) > 1:
        yield from per_case(found, counts)


def run_batch(inputs: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak memory (MB) of `medconv batch`. Raises RuntimeError with its last words if it fails."""
    command = [
        processes.python_executable(), "-m", "medconv.cli", "batch", str(inputs / FOLDERS[0]), "--masks",
        str(inputs / FOLDERS[1]), "--label", str(trunk_files.LABEL), "--workers", str(workers), "--out", str(out),
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, (str(Path(medconv.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))
    log = out.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | {"PYTHONPATH": paths})
        with ProcessMeter(process.pid) as meter:
            code = process.wait()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {' '.join(log.read_text('utf-8', 'replace').split())[-LAST_WORDS:]}")
    return meter.wall_s, meter.peak_mb


def per_case(found: dict[tuple[int, int], tuple[float, float]], counts: Sequence[int]) -> Iterator[Row]:
    """What one more case costs, by a straight line through the numbers of cases (least squares)."""
    import numpy as np

    slopes = {}
    for workers in WORKERS:
        seconds, peaks = zip(*(found[count, workers] for count in counts), strict=True)
        slopes[workers] = float(np.polyfit(counts, seconds, 1)[0])
        start = median(s - slopes[workers] * n for s, n in zip(seconds, counts, strict=True))
        growth = float(np.polyfit(counts, peaks, 1)[0]) if not np.isnan(peaks).any() else None
        said = f"{workers} worker{'s' if workers > 1 else ''}"
        compared = workers != WORKERS[0]
        yield Row(
            f"batch, one more case, {said}", slopes[workers], repeats=len(counts),
            ratio=slopes[workers] / slopes[WORKERS[0]] if compared else None, baseline="1 worker" if compared else "",
            aim=AIM if compared else None, aim_of="ratio" if compared else "",
            note=f"starting takes {start:.1f} s",
        )  # fmt: skip
        if growth is not None:
            yield Row(
                f"batch, memory for one more case, {said}", growth, "MB", repeats=len(counts), note="flat is 0",
                aim=FLAT_MB, aim_of="median",
            )  # fmt: skip


def _row(said: str, count: int, workers: int, found: dict[tuple[int, int], tuple[float, float]]) -> Row:
    seconds, peak = found[count, workers]
    one = found[count, WORKERS[0]][0]
    compared = workers != WORKERS[0]
    return Row(
        said, seconds, repeats=1, peak_mb=peak if peak == peak else None, ratio=seconds / one if compared else None,
        baseline="1 worker" if compared else "", note=f"{count / seconds:.1f} cases a second, with the start",
        point={"plot": "cohort", "series": workers, "x": count},
    )  # fmt: skip


def _cases(cohort: Path, folder: Path, count: int) -> Path:
    """A folder of the first so many of the cohort's CTs and masks."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    for ct in sorted((cohort / FOLDERS[0]).glob("*.nii.gz"))[:count]:
        for name in FOLDERS:
            shutil.copyfile(cohort / name / ct.name, folder / name / ct.name)
    return folder
