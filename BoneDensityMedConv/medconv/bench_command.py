"""`medconv bench`: what is asked for, what is told while it runs, and the files it leaves."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from medconv import console
from medconv.bench import runner, sections, tables
from medconv.bench.runner import SectionResult
from medconv.bench.settings import FULL_SLICES, LEAST_SLICES, Settings
from medconv.command_line import Commands
from medconv.mask_source import terminated_like_interrupted
from medconv.types import MissingRequirement, UsageError

JSON, MARKDOWN, PAGE = "bench.json", "bench.md", "bench.html"
INTERRUPTED = 130
SAID_EVERY_S = 30.0  # where no terminal shows a line that rewrites itself


def add_bench(commands: Commands) -> None:
    p = commands.add_parser(
        "bench", help="measure this computer: network, stages, memory, growth; ratios to named baselines"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="folder for bench.json, bench.md, bench.html and plots")
    p.add_argument(
        "--only", nargs="+", action="extend", choices=sections.NAMES, default=[], metavar="SECTION",
        help=f"some of: {', '.join(sections.NAMES)} (default: all but segmentation, which takes minutes)",
    )  # fmt: skip
    p.add_argument("--quick", action="store_true", help="everything at small sizes, in about a minute")
    p.add_argument("--full", action="store_true", help="also what takes minutes: compiling, segmentation")
    p.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds of each comparison (default 5)")
    p.add_argument("--slices", type=int, default=FULL_SLICES, metavar="N", help="of the 512 x 512 CT (default 700)")
    p.add_argument(
        "--loader", type=Path, metavar="COHORT", help="a cohort of yours for 'training'; measures that alone"
    )
    p.add_argument("--segmentation", action="store_true", help="the same as --only segmentation")
    p.add_argument("--weights-folder", type=Path, metavar="DIR", help="TotalSegmentator's weights, for 'segmentation'")
    p.add_argument("--widen", type=int, default=1, metavar="N", help="without them: N x the demonstration's channels")
    p.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """Measure, print the tables and write the files; returns 0, or 130 after Ctrl-C or SIGTERM. Raises UsageError."""
    settings, names = settings_of(options)
    out: Path | None = options.out
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    chosen = runner.chosen(names, settings.full)
    with tempfile.TemporaryDirectory(prefix="medconv-bench-", ignore_cleanup_errors=True) as folder:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        settings = replace(settings, folder=folder, load_before=load)
        with terminated_like_interrupted():
            results, stopped = runner.run(chosen, settings, say=Saying(), finished=_show)
    console.clear()
    document = runner.document(results, settings)
    print(tables.verdict_on_screen(document))
    if stopped:
        kept = [result.section.name for result in results if result.status == runner.DONE]
        print(f"Stopped. Finished sections are kept: {', '.join(kept) or 'none'}.")
    if out is not None:
        print(f"Figures: {write(out, document)}")
    return INTERRUPTED if stopped else 0


def settings_of(options: argparse.Namespace) -> tuple[Settings, list[str]]:
    """Settings, and the sections that were named ([]: the usual ones). Raises UsageError."""
    if options.slices < LEAST_SLICES:
        raise UsageError("bench_too_small", "The bench needs a whole L1.", f"Give --slices {LEAST_SLICES} or more.")
    if options.repeats < 1 or options.widen < 1:
        raise UsageError("bench_repeats", "--repeats and --widen count from 1.", "Give 1 or more.")
    if options.out is not None and (options.out.suffix == ".json" or options.out.is_file()):
        raise UsageError(
            "bench_out_is_a_file",
            f"--out {options.out} names a file; the bench writes several.",
            f"Give a folder: its {JSON} holds the figures.",
        )
    for option, folder in (("--loader", options.loader), ("--weights-folder", options.weights_folder)):
        if folder is not None and not folder.is_dir():
            raise UsageError("bench_no_folder", f"{option} {folder}: there is no such folder.", "Check the path.")
    names = list(dict.fromkeys(options.only))
    if options.segmentation and "segmentation" not in names:
        names.append("segmentation")
    if options.loader is not None and not names:
        names.append("training")
    settings = Settings(
        quick=options.quick,
        full=options.full,
        repeats=options.repeats,
        slices=options.slices,
        loader=str(options.loader.absolute()) if options.loader else "",
        weights_folder=str(options.weights_folder.absolute()) if options.weights_folder else "",
        widen=options.widen,
    )
    return settings, names


class Saying:
    """Progress on a terminal as a line that rewrites itself; elsewhere a line now and then."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._said = clock, clock()

    def __call__(self, stage: str, seconds_left: float) -> None:
        text = f"{stage}  (about {left(seconds_left)} to go)"
        if sys.stderr.isatty():
            console.say(text)
        elif self._clock() - self._said >= SAID_EVERY_S:
            self._said = self._clock()
            print(text, file=sys.stderr, flush=True)


def left(seconds: float) -> str:
    """40 s, 3 min."""
    return f"{max(seconds, 1):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def write(out: Path, document: dict[str, Any]) -> Path:
    """All files of the bench, each whole or not at all; returns bench.json's path."""
    from medconv.bench.plots import all_plots

    try:
        pictures = all_plots(document)
    except MissingRequirement as missing:
        print(f"No plots: {missing}")
        pictures = {}
    texts = {
        JSON: json.dumps(document, indent=1, allow_nan=False) + "\n",
        MARKDOWN: tables.markdown(document, list(pictures)),
        PAGE: tables.page(document, pictures),
    }
    for name, data in {**{name: text.encode("utf-8") for name, text in texts.items()}, **pictures}.items():
        partial = out / f"{name}.partial"
        partial.write_bytes(data)
        partial.replace(out / name)
    return out / JSON


def _show(result: SectionResult) -> None:
    console.clear()
    print(tables.on_screen(result.section.title, result.to_json()), flush=True)
    print(flush=True)
