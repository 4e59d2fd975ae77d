"""The section `training`: what an epoch costs to feed, the authors' way and from the cached crops, in turns.

Without a cohort of one's own a small simulated one is made, once, in the user's cache. Its CTs are L1's neighbourhood
alone, so that the authors' way, which reads and resamples whole CTs, is charged less than on a real cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from medconv.bench import memory
from medconv.bench.figures import Row, take_turns
from medconv.bench.settings import Say, Settings
from medconv.config import Preprocessing
from medconv.control_groups import cores
from medconv.sample_archive import cache_folder

PATIENTS, QUICK_PATIENTS = 48, 12
AIM = 0.1
BUDGET_S = 60.0
AUTHORS, CACHED = "authors' way: NIfTI read and resampled for each sample", "cached crops"


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Making the cache, then both ways of feeding an epoch."""
    from medconv.training.cohorts.cases import TRAIN
    from medconv.training.cohorts.cohort_folder import read_cohort
    from medconv.training.cohorts.crop_cache import cohort_crops
    from medconv.training.cohorts.loader_bench import BATCH_SIZE, ways_to_feed

    folder = (
        Path(settings.loader) if settings.loader else simulated(QUICK_PATIENTS if settings.quick else PATIENTS, say)
    )
    cohort = read_cohort(folder)
    preprocessing = Preprocessing()
    split = TRAIN if cohort.part(TRAIN) else None
    started = perf_counter()
    crops = cohort_crops(
        cohort, split, preprocessing, settings.place / "crops", progress=lambda s, d: say(s, 0.3 + d / 5)
    )
    making = perf_counter() - started
    size = f"{' x '.join(map(str, preprocessing.size_xyz))} at {preprocessing.spacing_mm:g} mm, batch {BATCH_SIZE}"
    note = f"{len(crops)} cases, {size}{'' if settings.loader else '; simulated, L1 neighbourhoods alone'}"
    yield Row("making the cache, once", making, repeats=1, note=note)
    authors, cached = ways_to_feed(cohort, crops, preprocessing)
    peaks = {CACHED: memory.peak_of(cached), AUTHORS: memory.peak_of(authors)}
    trial = take_turns(
        {AUTHORS: authors, CACHED: cached}, settings.rounds, settle=False, budget_s=BUDGET_S,
        progress=lambda name, done: say("epochs", 0.5 + done / 2),
    )  # fmt: skip
    yield trial.row(AUTHORS, name=f"an epoch, {AUTHORS}", note=note, peak_mb=peaks[AUTHORS])
    yield trial.row(
        CACHED, AUTHORS, name=f"an epoch, {CACHED}", aim=AIM, aim_of="ratio", note=note, peak_mb=peaks[CACHED]
    )


def simulated(patients: int, say: Say) -> Path:
    """A simulated cohort of L1 neighbourhoods in the user's cache, all different; an unfinished one is finished."""
    from medconv.cli import main

    folder = cache_folder() / f"bench-cohort-{patients}"
    say(f"simulating {patients} patients", 0.05)
    folder.parent.mkdir(parents=True, exist_ok=True)
    code = main([
        "simulate", str(folder), "--patients", str(patients), "--only-split", "train", "--crops-only", "--seed", "5",
        "--workers", str(cores()),
    ])  # fmt: skip
    if code != 0:
        raise RuntimeError(f"the cohort could not be simulated in {folder.name}; see 'medconv simulate'")
    return folder
