"""`medconv reproduce`: a table or figure of the paper run on a cohort, its figures beside ours."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medconv import console, result_files
from medconv.command_line import Commands
from medconv.devices import add_device, check_device
from medconv.types import InputRefused, UsageError

if TYPE_CHECKING:
    from medconv.training.paper.paper_runs import Budget, PlannedRow
    from medconv.training.paper.reproduce import Data

NAMES = ("table2", "table3", "table4", "table5", "table6", "fig4", "fig6")
ENDINGS = ("json", "md", "csv", "html", "png")
FIG6 = "fig6"


def add_reproduce(commands: Commands) -> None:
    p = commands.add_parser("reproduce", help="a table or figure of the paper, run on a cohort and shown beside it")
    p.add_argument("what", choices=NAMES, metavar="TABLE", help=", ".join(NAMES))
    p.add_argument("cohort", type=Path, metavar="COHORT", help="cohort folder with train, validation and test parts")
    p.add_argument("--labels", type=Path, metavar="FILE", help="label sheet, if not COHORT/labels.xlsx or .csv")
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="runs, caches and reports; goes on with it")
    p.add_argument(
        "--budget", default="cpu", metavar="cpu|full|MINUTES",
        help="cpu (default): small networks and crops, 20 epochs; full: the authors' protocol; minutes for all runs",
    )  # fmt: skip
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of each row (default 1)")
    p.add_argument("--rows", default="*", metavar="PATTERN", help="only rows like it, as 'resnet50*' or 'resnet18|vit'")
    p.add_argument("--extra-test", type=Path, metavar="COHORT", help="a further test cohort, for instance simulated")
    p.add_argument("--masks-b", type=Path, metavar="DIR", help="table3: the second segmenter's masks (simulated: made)")
    p.add_argument("--pretrained", type=Path, metavar="FILE|DIR", help="2D weights, each file named after its backbone")
    add_device(p)
    p.add_argument("--workers", type=int, metavar="N", help="processes that cut out L1 (default: one for each core)")
    p.set_defaults(run=run_reproduce)


def run_reproduce(options: argparse.Namespace) -> int:
    """Run what is missing, then write and print the report. Raises MedConvError."""
    from medconv.training.paper.reproduce_document import class_document

    check_device(options.device)
    if options.workers is not None and options.workers < 1:
        raise UsageError("no_workers", f"--workers must be 1 or more, got {options.workers}.", "Correct it.")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError("out_is_a_file", f"{options.out} is a file.", "Choose another --out.") from error
    data, said = _data(options)
    try:
        document = class_document(data) if options.what == "fig4" else _table(options, data, said)
    finally:
        console.clear()
    _write(options, document)
    return 0


def _data(options: argparse.Namespace) -> tuple[Data, list[str]]:
    """Cohorts by segmenter, and what must be said of the second one."""
    from medconv.training.cohorts.cases import SPLIT_NAMES
    from medconv.training.cohorts.cohort_folder import read_cohort
    from medconv.training.paper import reproduce_masks
    from medconv.training.paper.paper_tables import CTSPINE1K, TOTALSEGMENTATOR
    from medconv.training.paper.reproduce import Data

    cohort = read_cohort(options.cohort, options.labels, progress=_say)
    if missing := [split for split in SPLIT_NAMES if not cohort.part(split)]:
        raise InputRefused(
            "cohort_not_split",
            f"{cohort.name} has no {' and no '.join(missing)} part.",
            "Lay the CTs out in train_data, val_data and test_data, or give the label sheet a Split column.",
        )
    cohorts = {TOTALSEGMENTATOR: cohort}
    extra = {} if options.extra_test is None else {TOTALSEGMENTATOR: read_cohort(options.extra_test, progress=_say)}
    said: list[str] = []
    if options.what == "table3":
        if options.masks_b is not None:
            cohorts[CTSPINE1K] = reproduce_masks.with_masks(cohort, options.masks_b)
            if extra:
                raise UsageError(
                    "extra_without_masks_b",
                    "--extra-test has no second masks when --masks-b is given.",
                    "Leave one out.",
                )
        else:
            cohorts[CTSPINE1K] = reproduce_masks.worse_masks(cohort, options.out / "masks_b", _say)
            for name, further in list(extra.items()):
                folder = options.out / "masks_b_extra"
                extra = {name: further, CTSPINE1K: reproduce_masks.worse_masks(further, folder, _say)}
        dice = reproduce_masks.mean_dice(cohort, cohorts[CTSPINE1K])
        said = [f"The two segmenters' masks overlap with a Dice of {dice:.2f} (first 30 cases)."]
    return Data(cohorts, extra, options.out / "crops", _say, options.workers), said


def _table(options: argparse.Namespace, data: Data, said: Sequence[str]) -> dict[str, Any]:
    from medconv.training.cohorts.cases import TRAIN
    from medconv.training.paper.paper_runs import budget_of, find_pretrained, plan_rows
    from medconv.training.paper.paper_tables import TABLES, TOTALSEGMENTATOR
    from medconv.training.paper.reproduce import distinct, estimate, settle_budget
    from medconv.training.paper.reproduce_document import table_document

    table = TABLES["table6" if options.what == FIG6 else options.what]
    files = find_pretrained(options.pretrained)
    cases = len(data.cohorts[TOTALSEGMENTATOR].part(TRAIN))

    def planned(budget: Budget) -> tuple[PlannedRow, ...]:
        return plan_rows(table, budget, options.seeds, options.rows, files)

    budget = budget_of(options.budget)
    per_epoch = estimate(distinct(planned(budget)), cases, options.device, _say)
    budget = settle_budget(options.out, budget, table.key, lambda: sum(per_epoch.values()))
    rows = planned(budget)
    console.clear()
    for sentence in (*budget.told(), *said):
        print(sentence)
    taken = _run_all(options, rows, data, {name: s * budget.epochs for name, s in per_epoch.items()})
    document = table_document(table, rows, data, options.out, budget, [*said, *taken], _say)
    return replace_key(document, options.what)


def replace_key(document: dict[str, Any], key: str) -> dict[str, Any]:
    """Fig. 6 is Table VI's document under its own name."""
    if key == FIG6:
        document |= {"table": FIG6, "title": "Fig. 6: Table VI's sweep of τ2"}
    return document


def _run_all(
    options: argparse.Namespace, rows: Sequence[PlannedRow], data: Data, estimates: dict[str, float]
) -> list[str]:
    """Every run that is not finished; returns a sentence on the time."""
    from medconv.training.paper.reproduce import Clock, complete, distinct, spell

    runs = distinct(rows)
    print(f"{len(rows)} rows, {len(runs)} trainings, about {spell(sum(estimates.values()))} if none is finished yet.")
    clock = Clock(estimates, _say)
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    for place, run in enumerate(runs, 1):
        seconds = complete(run, data, options.out, options.device, clock, f"{place} of {len(runs)}")
        console.clear()
        if seconds is None:
            clock.skip(run.name)
            continue
        done += 1
        print(f"Run {place} of {len(runs)}, {run.name}: {spell(seconds)}; {spell(clock.left())} left", flush=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not done:
        return [f"All {len(runs)} trainings had been finished before."]
    return [
        f"{done} of {len(runs)} trainings were run for this report, in {spell(wall)} ({spell(cpu)} of processor time)."
    ]


def _write(options: argparse.Namespace, document: dict[str, Any]) -> None:
    from medconv.training.paper.reproduce_plots import plot
    from medconv.training.paper.reproduce_report import markdown, page, sheet_csv

    text, png = markdown(document), plot(document)
    contents: dict[str, str | bytes] = {
        "json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "md": text,
        "csv": sheet_csv(document),
        "html": page(document, png),
        "png": png,
    }
    with result_files.written_together(options.out) as folder:
        for ending in ENDINGS:
            content = contents[ending]
            file = folder / f"{options.what}.{ending}"
            file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    print(text)
    print(f"Written: {options.out / options.what}.{{{','.join(ENDINGS)}}}")


_said_at = [0.0]


def _say(text: str, fraction: float | None = None) -> None:
    """On a terminal a line that rewrites itself; elsewhere a line every half minute."""
    if sys.stderr.isatty():
        console.say(text, fraction)
    elif time.perf_counter() - _said_at[0] > 30.0:
        _said_at[0] = time.perf_counter()
        print(text, file=sys.stderr, flush=True)
