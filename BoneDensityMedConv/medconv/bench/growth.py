"""The section `growth`: how time and memory follow the size of the CT, and the number of cases in a batch.

The CT: all of it read plainly, all of it read and answered, and only the slab around L1 read and answered; in turns in
one process a size. The cohort: `medconv batch` on simulated cases, with one worker and with two.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from medconv import l1_mask, pipeline, volume_io
from medconv.bench import apart, growth_cohort, machine, memory, trunk_files
from medconv.bench.figures import Row, of_values, paired_ratio
from medconv.bench.settings import Say, Settings, part
from medconv.bench.stages import READ, plain_read, read_around_l1
from medconv.types import Index3

SIZES: tuple[Index3, ...] = ((256, 256, 256), (200, 512, 512), (700, 512, 512), (1300, 512, 512), (2000, 512, 512))
QUICK = 2
ROUNDS, QUICK_ROUNDS = 3, 2
WHOLE, SLAB = "all read, to the result", "slab around L1 read, to the result"
ROOM = 1.3  # of the file's size on the disk
MEMORY_OF_WHOLE = 2.0  # of the CT's size: voxels, and what reading and checking takes besides
SHARE_OF_CT = 0.55  # of the section's time


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Rows of each size of the CT, then of each size of the cohort."""
    sizes = SIZES[:QUICK] if settings.quick else SIZES
    voxels = [z * y * x for z, y, x in sizes]
    done = 0
    for shape, own in zip(sizes, voxels, strict=True):
        at, own_part = SHARE_OF_CT * done / sum(voxels), SHARE_OF_CT * own / sum(voxels)
        yield from _one_size(shape, settings, part(say, at, own_part))
        done += own
    yield from growth_cohort.measure(settings, part(say, SHARE_OF_CT, 1 - SHARE_OF_CT))


def passes(ct: str, mask: str, rounds: int) -> dict[str, Any]:
    """For a process of its own: seconds and peak memory of the three ways, in turns."""
    from medconv.inference import LoadedModel

    model = LoadedModel.load(None, "cpu")

    def whole() -> None:
        volume = volume_io.read_ct(ct)
        labels, geometry, owner = volume_io.read_labels(mask)
        l1, notes = l1_mask.from_labels(labels, geometry, trunk_files.LABEL, volume.geometry)
        del labels, owner
        pipeline.predict(volume, l1, model, notes=notes)

    def slab() -> None:
        read, _ = read_around_l1(ct, mask)
        pipeline.predict(read.ct, read.mask, model, notes=read.notes, level=read.level)

    ways: dict[str, Callable[[], object]] = {READ: lambda: plain_read(Path(ct)), WHOLE: whole, SLAB: slab}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            fresh = memory.forget_peak()
            started = perf_counter()
            way()
            if number:  # the first round warms up
                seconds[name].append(perf_counter() - started)
                if fresh:
                    peaks[name] = max(peaks.get(name, 0.0), memory.peak_mb())
    return {"seconds": seconds, "peaks": peaks}


def _one_size(shape: Index3, settings: Settings, say: Say) -> Iterator[Row]:
    z, y, x = shape
    title, megabytes = f"CT {x} x {y} x {z}", 2e-6 * z * y * x
    lacking = _lacking(settings.place, megabytes)
    if lacking:
        yield Row(title, reason=lacking)
        return
    files = trunk_files.write_trunk(settings.place, shape, say=part(say, 0.0, 0.3))
    say(f"reading {title}", 0.3)
    rounds = QUICK_ROUNDS if settings.quick else ROUNDS
    arguments = {"ct": str(files.ct), "mask": str(files.mask), "rounds": rounds}
    try:
        found = apart.call("medconv.bench.growth:passes", arguments)
    except apart.Failed as failure:
        yield Row(title, reason=str(failure))
        return
    finally:
        files.ct.unlink(missing_ok=True)
        files.mask.unlink(missing_ok=True)
    seconds = found["seconds"]
    reading = settings.peaks.get(machine.READING)
    for name, times in seconds.items():
        compared = name != READ
        share = megabytes / 1e3 / median(times) / reading if reading and not compared else None
        yield of_values(
            f"{title}: {name}", times, peak_mb=found["peaks"].get(name), baseline=READ if compared else "",
            ratio=paired_ratio(times, seconds[READ]) if compared else None, note=f"{megabytes:.0f} MB, .nii",
            share=share, of_peak=machine.SAID[machine.READING] if share else "",
            point={"plot": "volume", "series": name, "x": megabytes},
        )  # fmt: skip


def _lacking(folder: Path, megabytes: float) -> str:
    """Why a CT of that size can't be measured here, or ""."""
    room = shutil.disk_usage(folder).free / 1e6
    if room < ROOM * megabytes:
        return f"needs {ROOM * megabytes / 1e3:.1f} GB in the temporary folder, {room / 1e3:.1f} are free"
    free = memory.available_mb()
    if free is not None and free < MEMORY_OF_WHOLE * megabytes:
        return f"needs {MEMORY_OF_WHOLE * megabytes / 1e3:.1f} GB of free memory, {free / 1e3:.1f} are"
    return ""
