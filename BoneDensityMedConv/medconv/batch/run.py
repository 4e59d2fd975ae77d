"""A batch from start to end: claim the folder, list the cases, have the missing ones done, write table and summary."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from medconv import RESEARCH_USE_ONLY, console
from medconv.batch import local_workers, measuring, memory_needs, summary, table
from medconv.batch.case_list import HEADINGS
from medconv.batch.find_cases import CaseFinder, Findings
from medconv.batch.job_list import JobList
from medconv.batch.jobs import STATUS_WORDS, Crew, Status
from medconv.batch.known_answers import KnownAnswers
from medconv.batch.ledger import Ledger
from medconv.batch.lock import LOCK_FILE, FolderLock
from medconv.batch.mask_rules import MaskRule
from medconv.batch.plan import Plan, make_plan
from medconv.batch.progress import Progress, spoken
from medconv.batch.settings import BatchSettings, read_settings, write_settings
from medconv.batch.settling import Look, settle
from medconv.batch.supervision import Supervisor
from medconv.dicom_source import check_installed
from medconv.mask_source import terminated_like_interrupted
from medconv.packages import how_to_install
from medconv.runtimes import REFERENCE
from medconv.types import Cancelled, UsageError
from medconv.weights import find_model

TIME_LIMIT_MIN, SEGMENTING_TIME_LIMIT_MIN = 5.0, 30.0
LISTING, CASES_FILE = "listing", "cases.jsonl"
KINDS_TOLD = 6

log = logging.getLogger(__name__)


def run_batch(options: argparse.Namespace) -> int:
    """Run or go on with a batch; returns 0 if every case has its row, whatever is in it.

    Raises UsageError, MissingRequirement (nobody can work, disk full), Cancelled (Ctrl-C, SIGTERM); the same command
    then goes on.
    """
    out: Path = options.out
    begun = read_settings(out)
    settings = settle(options, begun)
    _check_what_is_asked_for(options)
    out.mkdir(parents=True, exist_ok=True)
    _say_what_is_missing()
    with terminated_like_interrupted(), ExitStack() as stack:
        lock = FolderLock(out)
        stack.callback(lock.release)
        stack.callback(console.clear)
        if (now := read_settings(out)) != begun:  # another batch began here before the lock was ours
            begun, settings = now, settle(options, now)
        try:
            return _run(options, settings, begun is not None, lock, stack)
        except KeyboardInterrupt:
            console.clear()
            raise _interrupted() from None


def _run(
    options: argparse.Namespace, settings: BatchSettings, goes_on: bool, lock: FolderLock, stack: ExitStack
) -> int:
    out: Path = options.out
    is_decided = goes_on or (settings.device, settings.runtime) == ("cpu", REFERENCE)  # which every computer has
    look = None if is_decided else Look(settings)
    if look:
        stack.callback(look.close)
    jobs = stack.enter_context(JobList(out / LISTING / CASES_FILE))
    findings = _list(options, settings, jobs, lock)
    if look:
        console.say("Loading the weights")
        settings = look.result()
    lock.check()
    if not goes_on:
        write_settings(out, settings)
    local_workers.remove_abandoned_folders()
    ledger = stack.enter_context(Ledger(out))
    plan = make_plan(jobs, ledger, options.retry)
    _print_listing(jobs, findings, plan, ledger)
    workers = options.workers or memory_needs.default_workers(bool(settings.segmenter), settings.device)
    ledger.note("begun", settings=settings.digest, cases=len(jobs), missing=plan.missing, workers=workers)
    progress = Progress(len(jobs), plan.there)
    crashes = 0
    if plan.missing:
        crew = _crew(options, settings, workers)
        stack.callback(crew.close)

        def tick() -> None:
            progress.show()
            lock.check()

        supervisor = Supervisor(ledger, crew, progress.one_more, tick)
        supervisor.work_through(job for job in jobs if job.case_id not in plan.away and not ledger.is_done(job))
        crashes = supervisor.crashes
        crew.close()
    run = {"seconds": progress.elapsed_s, "workers": workers, "cases_this_run": progress.this_run, "crashes": crashes}
    _finish(out, settings, ledger, run, lock)
    return 0


def _list(options: argparse.Namespace, settings: BatchSettings, jobs: JobList, lock: FolderLock) -> Findings:
    """All cases of the inputs. Raises UsageError if there is none, or none that could be answered."""
    beside = options.masks is None and not options.segmenter
    rule = MaskRule(options.masks and options.masks.absolute(), settings.label, settings.label_map, beside)

    def say(text: str) -> None:
        console.say(text)
        lock.check()

    finder = CaseFinder(rule, options.out.absolute(), jobs, 2 * measuring.cores(), say)
    findings = finder.find([path.absolute() for path in options.inputs])
    console.clear()
    if not len(jobs):
        raise UsageError(
            "no_cases",
            f"No CT was found. {_left_out(findings)}".strip(),
            "Give a folder with CTs (NIfTI, NRRD, MetaImage or DICOM), one such file, or a CSV list.",
        )
    if not findings.with_mask and not options.segmenter:
        raise UsageError(
            "no_masks",
            f"None of the {len(jobs)} CTs has a mask.",
            "Give --masks DIR (files named like the CTs), a column 'mask' in the list, or a segmenter: "
            "--segmenter totalsegmentator.",
        )
    twins = jobs.differing_in_case() if settings.reports or settings.dicom else None
    if twins and (options.out / LOCK_FILE.upper()).exists():
        raise UsageError(
            "folder_ignores_case",
            f"The cases {' and '.join(twins)} would share a folder: --out's disk takes upper and lower case as one.",
            "Choose --out on another disk, or leave out --reports and --dicom.",
        )
    return findings


def _crew(options: argparse.Namespace, settings: BatchSettings, workers: int) -> Crew:
    limit_min = options.time_limit or (SEGMENTING_TIME_LIMIT_MIN if settings.segmenter else TIME_LIMIT_MIN)
    out = options.out.absolute()
    if options.scheduler:
        from medconv.batch.dask_workers import DaskCrew

        return DaskCrew(options.scheduler, settings, out, time_limit_s=60 * limit_min)
    return local_workers.LocalCrew(
        settings, out, workers, 60 * limit_min, KnownAnswers(out).known, memory_needs.needs_mb
    )


def _finish(out: Path, settings: BatchSettings, ledger: Ledger, run: Mapping[str, float], lock: FolderLock) -> None:
    lock.check()
    console.say("Writing the table")
    files = table.write_table(out, ledger)
    lock.check()
    console.say("Writing the summary")
    card = find_model(settings.weights)[0]
    summary.write_summary(out, table.rows(ledger), _measured(ledger), card, run)
    lock.check()
    ledger.note("ended", **run)
    console.clear()
    counts = ledger.counts()
    print(f"{counts.total()} CTs: {spoken(counts)}")
    _print_reasons(ledger)
    print(f"  Table: {' and '.join(map(str, files))}")
    print(f"  Summary: {out / summary.HTML_FILE}")
    print(f"  {RESEARCH_USE_ONLY}")


def _measured(ledger: Ledger) -> Iterator[tuple[str, dict[str, float]]]:
    for job, outcome in ledger.outcomes():
        if outcome.measured:
            yield job.case_id, dict(outcome.measured)


def _print_reasons(ledger: Ledger) -> None:
    """Why cases have no answer, most frequent first."""
    reasons: Counter[tuple[Status, str]] = Counter(
        (outcome.status, outcome.code) for _, outcome in ledger.outcomes() if outcome.status is not Status.OK
    )
    for (status, code), count in sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0])):
        print(f"    {count} {STATUS_WORDS[status]}: {code}")


def _print_listing(jobs: JobList, findings: Findings, plan: Plan, ledger: Ledger) -> None:
    done = plan.there.total()
    print(f"{len(jobs)} CTs found" + (f", {done} of them done" if done else "") + f". {_left_out(findings)}".rstrip())
    if findings.ignored_columns:
        told = ", ".join(f"'{heading}'" for heading in dict.fromkeys(findings.ignored_columns))
        print(f"  Columns of the list that are not used: {told}. Used are {', '.join(HEADINGS)}.")
    if plan.changed:
        print(f"  {plan.changed} CTs have changed since they were answered (file, mask or label): they are done again.")
    if plan.shared_masks:
        log.warning(
            "%d CTs have the mask of another CT: see in the table's column 'mask' whether it belongs to both.",
            plan.shared_masks,
        )
    if plan.gone:
        print(f"  {plan.gone} CTs of an earlier run are no longer there: their rows stay.")
    if jobs.listed_twice:
        print(f"  Listed more than once, and counted once: {jobs.listed_twice} CTs.")
    for folder in findings.unreadable:
        log.warning("The folder %s can't be read: what is in it is missing from the table.", folder)
    if ledger.damaged_lines:
        log.warning("%d lines of the ledger are damaged: what they told is done again.", ledger.damaged_lines)


def _left_out(findings: Findings) -> str:
    """`Left out: 12 localizers, 3 secondary captures or reports, 4 files of other kinds (.pdf 3, .txt 1).`"""
    told = [f"{count} {what}" for what, count in sorted(findings.skipped.items()) if count]
    if findings.others:
        frequent = findings.others.most_common()
        kinds = [f"{ending or 'without ending'} {count}" for ending, count in frequent[:KINDS_TOLD]]
        more = ["…"] if len(frequent) > KINDS_TOLD else []
        told.append(f"{findings.others.total()} files of other kinds ({', '.join([*kinds, *more])})")
    return f"Left out: {', '.join(told)}." if told else ""


def _check_what_is_asked_for(options: argparse.Namespace) -> None:
    """Before hours go into listing an archive. Raises UsageError, MissingRequirement."""
    if options.dicom:
        check_installed()
    if options.scheduler:
        from medconv.batch import dask_cluster

        dask_cluster.check_there(options.scheduler)


def _say_what_is_missing() -> None:
    if not table.has_parquet():
        log.warning(
            "The package pyarrow is missing: the table is written as CSV only, without Parquet. %s",
            how_to_install("batch"),
        )


def _interrupted() -> Cancelled:
    error = Cancelled()
    error.message = "Interrupted; all that was answered is kept."
    error.remedy = "The same command goes on where it stopped."
    return error
