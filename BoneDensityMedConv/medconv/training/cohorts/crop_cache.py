"""A cohort's crops, made once and in parallel, then read as a memory map: an epoch of training reads no NIfTI.

Each case is judged, measured and cut out as `pipeline` does it for a patient. What the product would refuse is left
out and listed with its code, or, with `strict`, stops the run.
"""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medconv import attenuation, volume_io
from medconv.config import CLASS_ORDER, Preprocessing
from medconv.control_groups import cores
from medconv.crop import standardised_crop
from medconv.pipeline import Progress
from medconv.population import MEASURED, Population, describe, told
from medconv.training.cohorts.case_reading import judge_case
from medconv.training.cohorts.cases import Cohort, LabelledCase, LeftOut
from medconv.training.cohorts.cohort_folder import summary
from medconv.training.cohorts.crop_store import NAN, CaseFacts, CropStore, case_key
from medconv.training.cohorts.crops import LEVELS, CropSet
from medconv.training.cohorts.leaks import check_fingerprints, check_patients, fingerprint
from medconv.training.cohorts.splits import check_classes
from medconv.types import InputRefused, MissingRequirement

ALL = "all"
LOG = logging.getLogger(__name__)
FEW = 3  # cases that a process of its own would not make faster
ARRAYS = tuple(field.name for field in fields(CropSet) if field.name != "case_ids")


@dataclass(frozen=True)
class CropJob:
    """One case to be cut out, for a process of its own."""

    case: LabelledCase
    preprocessing: Preprocessing
    key: str
    is_simulated: bool


def cohort_crops(
    cohort: Cohort,
    split: str | None,
    preprocessing: Preprocessing,
    cache: Path,
    *,
    workers: int | None = None,
    progress: Progress = lambda stage, fraction: None,
    strict: bool = False,
) -> CropSet:
    """The crops of one split in the order of its cases (None: of all cases); what is missing in `cache` is made first.

    `crops` is a read-only memory map. workers: processes (default: one a core). strict: refuse instead of leaving out.
    Raises InputRefused: no such cases, a leak between splits, all refused, a class that is gone with what was refused.
    Killed at any point, the same call goes on; `left_out` has what is not in the result.
    """
    cases = _cases(cohort, split)
    check_patients(cohort.cases)
    store = CropStore.open(cache, preprocessing)
    keys = _make(cohort, cases, preprocessing, store, workers, progress, split or ALL)
    crops, facts = store.assembled(split or ALL, keys)
    refused = _refused(cases, facts)
    _write_left_out(store.folder / f"{split or ALL}_left_out.csv", refused)
    if crops is None or (strict and refused):
        first = f" {refused[0].case_id}: {refused[0].message}"
        raise InputRefused(
            "cases_refused",
            f"{len(refused)} of {len(cases)} cases can't be measured. {summary(refused)}{first}",
            "Mend or remove them" + (", or leave them out without --strict." if strict else "."),
        )
    if refused:
        LOG.warning("%s, %s: %d of %d cases. %s", cohort.name, split or ALL, len(refused), len(cases), summary(refused))
    made = [(case, fact) for case, fact in zip(cases, facts, strict=True) if not fact.code]
    check_fingerprints({case.case_id: fact.fingerprint for case, fact in made} | _elsewhere(cohort, cases, store))
    if refused:
        check_classes(replace(cohort, cases=tuple(case for case, _ in made)))
    return _crop_set(cohort, made, crops)


def left_out(cohort: Cohort, split: str | None, preprocessing: Preprocessing, cache: Path) -> list[LeftOut]:
    """The cases of a split that `cohort_crops` refused, with their codes; call it afterwards."""
    cases = _cases(cohort, split)
    keys = [case_key(case, cohort.model is not None) for case in cases]
    return _refused(cases, CropStore.open(cache, preprocessing).assembled(split or ALL, keys)[1])


def case_facts(cohort: Cohort, split: str | None, preprocessing: Preprocessing, cache: Path) -> dict[str, CaseFacts]:
    """What was measured beside the crops of a split, by case id, without those refused; after `cohort_crops`."""
    cases = _cases(cohort, split)
    keys = [case_key(case, cohort.model is not None) for case in cases]
    facts = CropStore.open(cache, preprocessing).assembled(split or ALL, keys)[1]
    return {case.case_id: fact for case, fact in zip(cases, facts, strict=True) if not fact.code}


def population_of(facts: Mapping[str, CaseFacts], training: CropSet) -> Population:
    """The training cases as numbers, from what was measured beside their crops."""
    classes = {str(c): int(np.sum(training.classes == i)) for i, c in enumerate(CLASS_ORDER)}
    known = [facts[case_id] for case_id in training.case_ids]
    cases = [
        {name: getattr(fact, name) for name in MEASURED}
        | told(fact.kvp, fact.slice_thickness_mm, "named" if fact.contrast_agent else None)
        for fact in known
    ]
    return describe(classes, cases, f"all {len(known)} training patients")


def subset(crops: CropSet, case_ids: Sequence[str]) -> CropSet:
    """These cases of a crop set, in that order (a copy in memory); ids that are not in it were left out before."""
    places = {case_id: place for place, case_id in enumerate(crops.case_ids)}
    ids = tuple(case_id for case_id in case_ids if case_id in places)
    chosen = np.array([places[case_id] for case_id in ids], np.intp)
    arrays = {name: getattr(crops, name)[chosen] for name in ARRAYS}
    return CropSet(case_ids=ids, **arrays)


def cut_case(job: CropJob) -> tuple[NDArray[np.uint8] | None, CaseFacts]:
    """A case's crop (C, z, y, x) uint8 over the window and its measurements; None and the reason if it is refused."""
    found = ""
    try:
        ct = volume_io.read_ct(job.case.ct)
        found = fingerprint(ct.array_zyx)
        case = judge_case(job.case, ct, job.is_simulated)
        core = attenuation.measure(case)[0]
        crop = np.rint(standardised_crop(case, job.preprocessing) * LEVELS).astype(np.uint8)
    except InputRefused as refusal:
        return None, CaseFacts(NAN, NAN, found, refusal.code, str(refusal))
    made = case.ct.acquisition
    return crop, CaseFacts(
        core.median_hu,
        NAN if made.kvp is None else made.kvp,
        found,
        hu_mean=core.mean_hu,
        hu_sd=core.sd_hu,
        l1_volume_ml=case.volume_ml,
        slice_thickness_mm=NAN if made.slice_thickness_mm is None else made.slice_thickness_mm,
        contrast_agent=bool(made.contrast_agent),
    )


def _cases(cohort: Cohort, split: str | None) -> tuple[LabelledCase, ...]:
    cases = cohort.cases if split is None else cohort.part(split)
    if not cases:
        there = ", ".join(sorted({str(case.split) for case in cohort.cases}))
        raise InputRefused(
            "split_empty", f"{cohort.name} has no {split} cases (there are: {there}).", "Split it first."
        )
    return cases


def _make(
    cohort: Cohort, cases: Sequence[LabelledCase], preprocessing: Preprocessing, store: CropStore,
    workers: int | None, progress: Progress, name: str,
) -> list[str]:  # fmt: skip
    """Make what is missing; returns every case's key."""
    simulated = cohort.model is not None
    jobs = [CropJob(case, preprocessing, case_key(case, simulated), simulated) for case in cases]
    todo = [job for job in jobs if not store.has(job.key)]
    processes = min(workers or cores(), len(todo))
    done = _here(todo, store) if processes <= 1 or len(todo) <= FEW else _in_processes(todo, store, processes)
    if todo:
        progress(f"Cutting out L1 ({name}, 0 of {len(todo)})", 0.0)  # a first CT may take half a minute
    for count, _ in enumerate(done, 1):
        progress(f"Cutting out L1 ({name}, {count} of {len(todo)})", count / len(todo))
    return [job.key for job in jobs]


def _here(jobs: Sequence[CropJob], store: CropStore) -> Iterator[str]:
    for job in jobs:
        yield _cut_and_keep(job, store)


def _in_processes(jobs: Sequence[CropJob], store: CropStore, processes: int) -> Iterator[str]:
    # "spawn": a forked child of a process that has used torch or OpenMP can hang.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
    try:
        for future in as_completed([pool.submit(_cut_and_keep, job, store) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise MissingRequirement(
            "worker_died",
            "A process that cut out crops was ended from outside, most likely because memory ran out.",
            "Start again with fewer processes (--workers 1); what was made is kept.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cut_and_keep(job: CropJob, store: CropStore) -> str:
    store.put(job.key, *cut_case(job))
    return job.key


def _start_worker() -> None:
    """One thread each, as the parallelism is over cases; Ctrl+C is the parent's; end when the parent is killed."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _refused(cases: Sequence[LabelledCase], facts: Sequence[CaseFacts]) -> list[LeftOut]:
    return [LeftOut(c.case_id, f.code, f.message) for c, f in zip(cases, facts, strict=True) if f.code]


def _write_left_out(path: Path, refused: Sequence[LeftOut]) -> None:
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.csv")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("SubjectID", "code", "message"))
        writer.writerows((item.case_id, item.code, item.message) for item in refused)
    partial.replace(path)


def _elsewhere(cohort: Cohort, cases: Sequence[LabelledCase], store: CropStore) -> dict[str, str]:
    """Fingerprints of the cohort's other cases, as far as they have been made."""
    here = {case.case_id for case in cases}
    keys = {c.case_id: case_key(c, cohort.model is not None) for c in cohort.cases if c.case_id not in here}
    facts = {case_id: store.get(key)[1] for case_id, key in keys.items() if store.has(key)}
    return {case_id: fact.fingerprint for case_id, fact in facts.items() if not fact.code}


def _crop_set(cohort: Cohort, made: Sequence[tuple[LabelledCase, CaseFacts]], crops: NDArray[np.uint8]) -> CropSet:
    truth = cohort.truth or {}
    return CropSet(
        crops=crops,
        classes=np.array([CLASS_ORDER.index(case.t_class) for case, _ in made], np.int64),
        t_scores=np.array([NAN if case.t_score is None else case.t_score for case, _ in made]),
        signals=np.array([float(truth.get(case.case_id, {}).get("signal", NAN)) for case, _ in made]),
        median_hu=np.array([fact.median_hu for _, fact in made]),
        kvp=np.array([fact.kvp for _, fact in made]),
        case_ids=tuple(case.case_id for case, _ in made),
    )
