"""`medconv simulate`: a cohort of CTs from physics, with every hidden variable and the best possible accuracy known."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter

from medconv import RESEARCH_USE_ONLY, console, simulated_cohort
from medconv.command_line import Commands
from medconv.control_groups import cores
from medconv.simulate.cohort_sheets import require_openpyxl
from medconv.simulate_options import add_arguments, image_settings_of, plan_of
from medconv.simulation_processes import run_jobs
from medconv.simulation_realism import run_comparison
from medconv.types import UsageError

SAID_EVERY_S = 30.0  # where no terminal shows a line that rewrites itself


def add_simulate(commands: Commands) -> None:
    p = commands.add_parser("simulate", help="a cohort of simulated CTs with T-scores, in the layout that train reads")
    add_arguments(p)
    p.set_defaults(run=run_simulate)


def run_simulate(options: argparse.Namespace) -> int:
    """Write what is missing of a cohort. Raises UsageError, MissingRequirement, OSError (disk)."""
    if options.compare is not None:
        return run_comparison(options)
    if options.out is None:
        raise UsageError("no_folder", "The cohort needs a folder.", "Give: medconv simulate OUT.")
    plan, image = plan_of(options), image_settings_of(options)
    workers = cores() if options.workers is None else options.workers
    if workers < 1:
        raise UsageError("no_workers", f"--workers must be 1 or more, got {workers}.", "Correct it.")
    require_openpyxl()
    jobs = simulated_cohort.open_cohort(options.out, plan, image)
    todo = simulated_cohort.missing(jobs)
    progress, seconds = Progress(len(jobs), len(todo)), Counter[str]()
    try:
        for stages in run_jobs(todo, workers):
            seconds.update(stages)
            progress.one_more()
    finally:
        console.clear()
        simulated_cohort.remove_unfinished(options.out)
    simulated_cohort.finish(options.out, jobs)
    _print_summary(options.out, len(todo), progress.elapsed_s, seconds)
    return 0


class Progress:
    """How many are there, at what rate, and how long the rest will take."""

    def __init__(self, total: int, todo: int) -> None:
        self._total, self._todo, self._done = total, todo, 0
        self._started = self._said = perf_counter()

    @property
    def elapsed_s(self) -> float:
        return perf_counter() - self._started

    def one_more(self) -> None:
        """Count one CT, and say so."""
        self._done += 1
        there = self._total - self._todo + self._done
        rate = self._done / max(self.elapsed_s, 1e-6)
        left_s = (self._todo - self._done) / rate
        text = f"{there} of {self._total} patients, {rate:.2f} a second, {duration(left_s)} left"
        if sys.stderr.isatty():
            console.say(text, there / self._total)
        elif perf_counter() - self._said > SAID_EVERY_S:
            self._said = perf_counter()
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _print_summary(out: Path, made: int, elapsed_s: float, seconds: Counter[str]) -> None:
    cohort = json.loads((out / simulated_cohort.SETTINGS_FILE).read_text("utf-8"))
    print(f"{out}: {cohort['patients']} simulated patients, {_counts(cohort['classes'])}")
    for split, counts in cohort["splits"].items():
        if sum(counts.values()):
            print(f"  {split}: {sum(counts.values())} ({_counts(counts)})")
    for name, text in (("cohort", "at the cohort's prior"), ("class_balanced", "on a class-balanced test set")):
        ceiling = cohort["bayes_ceiling"][name]
        auc = ceiling["auc_osteoporosis"]
        print(
            f"  Best possible {text}: balanced accuracy {ceiling['balanced_accuracy']:.3f}, accuracy "
            f"{ceiling['accuracy']:.3f}, AUC of osteoporosis {'not defined' if auc is None else format(auc, '.3f')}"
        )
    if made:
        stages = ", ".join(f"{name} {total / made:.2f}" for name, total in seconds.items())
        print(f"  Made {made} in {duration(elapsed_s)}. CPU seconds a patient: {sum(seconds.values()) / made:.2f}")
        print(f"    {stages}")
    print(f"  {RESEARCH_USE_ONLY}")


def _counts(by_class: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in reversed(by_class.items()))
