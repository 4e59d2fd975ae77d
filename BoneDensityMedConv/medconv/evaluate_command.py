"""`medconv evaluate`: a run, an exported weight file or another tool's table against the truth, as a report.

Nothing can be chosen here: scale, tau and thresholds come from the run's choice.json (or the weights), and every
reading of a test set is recorded with the run before its figures are shown.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medconv import console, result_files
from medconv.command_line import Commands
from medconv.devices import add_device, check_device, choose_device
from medconv.types import UsageError

if TYPE_CHECKING:
    from medconv.training.figures.baseline import HuReader
    from medconv.training.figures.choice import RunChoice
    from medconv.training.figures.sample import Answers, Sample

PLOTS = (
    "roc", "confusion", "reliability", "decision_curve", "conformal_sets", "score_against_hu", "difference_to_hu",
)  # fmt: skip
SPLITS = "splits.csv"  # of a run that medconv train wrote
USAGE = "Give RUN COHORT, or COHORT --weights NAME|FILE, or --predictions FILE."


def add_evaluate(commands: Commands) -> None:
    p = commands.add_parser(
        "evaluate",
        help="a trained run, weights or another tool's table against the truth: figures, intervals, plots, report",
        usage="medconv evaluate RUN COHORT [options]\n       medconv evaluate COHORT --weights NAME|FILE [options]\n"
        "       medconv evaluate --predictions FILE [options]",
    )
    p.add_argument("inputs", nargs="*", type=Path, metavar="RUN COHORT", help="folders of the run and of the cohort")
    p.add_argument("--split", choices=("validation", "test"), default="validation", help="default validation")
    p.add_argument("--weights", metavar="NAME|FILE", help="an exported weight file instead of a run")
    p.add_argument("--predictions", type=Path, metavar="FILE", help="a table (.csv, .xlsx) of another tool's answers")
    p.add_argument(
        "--labels", type=Path, metavar="FILE", help="label sheet (default: the cohort's labels.xlsx or .csv)"
    )
    p.add_argument(
        "--reference", metavar="TEXT", help="what the truth of --predictions was measured with (default DXA)"
    )
    p.add_argument("--cache", type=Path, metavar="DIR", help="folder of the crops (default: COHORT/crop_cache)")
    p.add_argument("--workers", type=int, metavar="N", help="processes that cut out L1 (default: one a core)")
    add_device(p, "cpu")
    p.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/evaluation_SPLIT")
    p.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate and write report, figures and predictions. Raises MedConvError."""
    check_device(options.device)
    try:
        with console.heartbeat():
            if options.predictions is not None:
                return _evaluate_table(options)
            if options.weights is not None:
                return _evaluate_weights(options)
            return _evaluate_run(options)
    finally:
        console.clear()


def _evaluate_run(options: argparse.Namespace) -> int:
    from medconv.training.figures.choice import RunChoice, hash_of, hash_of_file
    from medconv.training.figures.sample import answers_of_run
    from medconv.training.figures.test_readings import record_reading, sentences
    from medconv.training.runs import answering
    from medconv.training.runs.export import FinishedRun

    run, folder = _inputs(options, 2)
    device = choose_device(options.device)
    choice = RunChoice.load(run)
    finished = FinishedRun.open(run)
    out = options.out or run / f"evaluation_{options.split}"
    cohort, cases, training, refused = _crops(options, folder, finished.settings.preprocessing, run / SPLITS)
    console.say("Running the network")
    predictions = answering.answers_of_finished_run(finished, cases, options.split, device)
    sample = answering.sample_of(cohort, predictions)
    if options.split == "test":
        readings = record_reading(run, len(cases), hash_of(cases.case_ids), hash_of_file(run))
        told = sentences(readings, choice.test_readings_before)
    else:
        readings, told = [], ["These patients made the choices: the figures flatter. An unseen test set decides."]
    readers, fit = answering.readers_for(sample, training)
    about = {
        "source": f"run {run.resolve().name}, epoch {finished.epoch + 1}",
        "test_readings": [asdict(reading) for reading in readings],
        "warnings": [*told, *refused],
        "hu_fit": fit,
    }
    return _finish(out, sample, answers_of_run(predictions, choice), readers, about, choice=choice)


def _evaluate_weights(options: argparse.Namespace) -> int:
    from medconv.training.figures.choice import hash_of
    from medconv.training.figures.sample import answers_of_weights
    from medconv.training.figures.test_readings import record_reading, sentences
    from medconv.training.runs import answering
    from medconv.weights import find_model, user_folder

    (folder,) = _inputs(options, 1)
    if options.out is None:
        raise UsageError("out_missing", "Evaluating a weight file needs a folder for the results.", "Give --out DIR.")
    device = choose_device(options.device)
    card, file = find_model(options.weights)
    cohort, cases, training, refused = _crops(options, folder, card.preprocessing)
    console.say("Running the network")
    predictions = answering.answers_of_weight_file(card, file, cases, options.split, device)
    sample = answering.sample_of(cohort, predictions)
    readings, told = [], []
    if options.split == "test":  # a weight file may be read only: its readings are kept for this user
        memory = user_folder() / "test_readings" / card.sha256[:16]
        readings = record_reading(memory, len(cases), hash_of(cases.case_ids), card.sha256)
        told = sentences(readings, 0)
    readers, fit = answering.readers_for(sample, training)
    about = {
        "source": f"weights {card.name} (SHA-256 {card.sha256[:16]}…)",
        "test_readings": [asdict(reading) for reading in readings],
        "warnings": [*told, *refused],
        "hu_fit": fit,
    }
    answers = answers_of_weights(predictions, card)
    return _finish(options.out, sample, answers, readers, about, of_card=card.conformal)


def _evaluate_table(options: argparse.Namespace) -> int:
    from medconv.training.figures.prediction_table import read_table
    from medconv.training.runs import answering

    if options.inputs or options.weights:
        raise UsageError("table_alone", "--predictions is evaluated alone.", USAGE)
    table: Path = options.predictions
    sample, answers = read_table(table, f"{options.reference or 'DXA'} T-score")
    readers, fit = answering.readers_for(sample, None)
    about = {
        "source": f"table {table.name}, as it is: nothing was chosen or scaled here",
        "test_readings": [],
        "warnings": ["These answers come from a table; whether its patients were unseen can't be known here."],
        "hu_fit": fit,
    }
    return _finish(options.out or table.with_name(f"{table.stem}_evaluation"), sample, answers, readers, about)


def _inputs(options: argparse.Namespace, count: int) -> list[Path]:
    if len(options.inputs) != count:
        raise UsageError("evaluate_inputs", f"Expected {count} folders, got {len(options.inputs)}.", USAGE)
    return list(options.inputs)


def _crops(
    options: argparse.Namespace, folder: Path, preprocessing: Any, splits: Path | None = None
) -> tuple[Any, Any, Any, list[str]]:
    """Cohort, crops of the split, crops of the training split for the HU readers (None without one), and what is
    left out in words."""
    from medconv.training.cohorts.cases import TRAIN
    from medconv.training.cohorts.cohort_folder import read_cohort
    from medconv.training.cohorts.crop_cache import cohort_crops, left_out
    from medconv.training.cohorts.splits import read_splits

    cohort = read_cohort(folder, options.labels, progress=console.say)
    if splits is not None and splits.is_file():  # as the run was trained: for folders without splits, and for folds
        cohort = read_splits(splits, cohort)
    cache = options.cache or folder / "crop_cache"

    def crops(split: str) -> Any:
        return cohort_crops(cohort, split, preprocessing, cache, workers=options.workers, progress=console.say)

    cases = crops(options.split)
    refused = left_out(cohort, options.split, preprocessing, cache)
    why = ", ".join(f"{n} {code}" for code, n in sorted(Counter(case.code for case in refused).items()))
    total = len(cases) + len(refused)
    said = [f"{len(refused)} of {total} cases can't be answered ({why}) and are in no figure."] if refused else []
    return cohort, cases, crops(TRAIN) if cohort.part(TRAIN) else None, said


def _finish(
    out: Path, sample: Sample, answers: Answers, readers: Mapping[str, HuReader] | None, about: Mapping[str, Any],
    choice: RunChoice | None = None, of_card: Mapping[str, float] | None = None,
) -> int:  # fmt: skip
    """Compute, draw and write everything; all files of an evaluation appear together."""
    from medconv.training.figures.conformal import prediction_sets
    from medconv.training.figures.evaluation import evaluate, plain
    from medconv.training.figures.evaluation_plots import all_plots
    from medconv.training.figures.evaluation_report import evaluation_page
    from medconv.training.figures.prediction_table import write_table

    split = sample.predictions.split
    names = ["report.html", "evaluation.json", f"predictions_{split}.csv", f"predictions_{split}.npz"]
    result_files.prepare(out, [*names, *(f"{name}.png" for name in PLOTS)], [])
    console.say("Computing the figures and their intervals")
    document = dict(about) | evaluate(sample, answers, choice=choice, conformal_choice=of_card, readers=readers)
    console.say("Drawing")
    plots = all_plots(document, sample, answers, readers)
    threshold = choice.conformal_threshold if choice else (of_card or {}).get("threshold")
    sets = None if threshold is None else prediction_sets(answers.shown, threshold)
    with result_files.written_together(out) as folder:
        (folder / "evaluation.json").write_text(json.dumps(plain(document), indent=1, allow_nan=False) + "\n", "utf-8")
        (folder / "report.html").write_text(evaluation_page(document, plots), "utf-8")
        write_table(folder / f"predictions_{split}.csv", sample, answers, sets)
        sample.predictions.save(folder / f"predictions_{split}.npz")
        for name, png in plots.items():
            (folder / f"{name}.png").write_bytes(png)
    console.clear()
    _print(document, out)
    return 0


def _print(document: Mapping[str, Any], out: Path) -> None:
    from medconv.training.figures.evaluation_report import NO_HU
    from medconv.training.figures.intervals import told
    from medconv.training.figures.metrics import LABELS

    print(document["hu"]["verdict"] if document["hu"] else NO_HU)
    for sentence in document["warnings"]:
        print(f"  warning: {sentence}")
    print(f"  {document['cases']} cases, reference standard: {document['reference_standard']}")
    for name, label in LABELS.items():
        print(f"  {label:<46}{told(document['metrics'][name])}")
    print(f"  Report: {out / 'report.html'}")
