"""`medconv batch`: many CTs in, one table out; stopped anywhere, it finishes what is missing when started again."""

from __future__ import annotations

import argparse
from pathlib import Path

from medconv import runtimes
from medconv.command_line import Commands
from medconv.devices import add_device
from medconv.segmenter import QUALITIES
from medconv.tau_adjustment import METHODS
from medconv.vertebrae import LABEL_MAPS

RETRIED = ("failed", "set_aside", "refused")


def add_batch(commands: Commands) -> None:
    p = commands.add_parser(
        "batch",
        help="many CTs to one table; an interrupted batch goes on with the same command",
        description="Answers every CT of a folder, a CSV list or a DICOM tree independently of the others. "
        "The same command finishes what an interrupted run has left.",
    )
    p.add_argument(
        "inputs", type=Path, nargs="+", metavar="INPUT", help="folder (NIfTI, NRRD, MetaImage, DICOM), CT file, or CSV"
    )
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the batch")
    _add_l1(p.add_argument_group("where L1 comes from"))
    answers = p.add_argument_group("answers")
    answers.add_argument("--weights", metavar="NAME|FILE", help="default: the shipped weights")
    answers.add_argument("--adjustment", choices=[m.id for m in METHODS], help="default: the weights' own")
    answers.add_argument("--tau1", type=float, metavar="X", help="as for predict")
    answers.add_argument("--tau2", type=float, metavar="X", help="as for predict")
    answers.add_argument("--reports", action="store_true", help="also result.json, report.html and pictures of each CT")
    answers.add_argument("--dicom", action="store_true", help="also DICOM SEG and SR of each CT that is a DICOM series")
    _add_work(p.add_argument_group("work"))
    p.set_defaults(run=_batch)


def _add_l1(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="folder of masks named like the CTs (default: beside each CT, as NAME_mask, NAME_seg or NAME_labels)",
    )
    group.add_argument("--label", type=int, metavar="N", help="L1's label: 31 TotalSegmentator, 20 VerSe/CTSpine1K")
    group.add_argument("--label-map", metavar="NAME|FILE", help=f"the masks' names: {', '.join(LABEL_MAPS)} or a JSON")
    group.add_argument("--segmenter", metavar="NAME", help="totalsegmentator, nnunet:FOLDER or demonstration")
    group.add_argument("--quality", choices=QUALITIES, default="full", help="TotalSegmentator's (default full)")
    group.add_argument("--insist", action="store_true", help="the demonstration network on CTs that are not simulated")


def _add_work(group: argparse._ArgumentGroup) -> None:
    add_device(group)
    group.add_argument(
        "--runtime",
        choices=(runtimes.AUTO, *runtimes.RUNTIMES),
        default=runtimes.AUTO,
        help="how the network is run (default: what is fastest here, measured once when the folder is started)",
    )
    group.add_argument("--workers", type=int, metavar="N", help="processes (default: as cores and memory allow)")
    group.add_argument(
        "--time-limit",
        type=float,
        metavar="MIN",
        help="end a case after this time (default 5, with a segmenter 30); it is tried three times",
    )
    group.add_argument(
        "--retry", choices=RETRIED, action="append", default=[], help="do these cases again; may be given repeatedly"
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="tcp://HOST:PORT of a Dask cluster that does the work")


def _batch(options: argparse.Namespace) -> int:
    from medconv.batch.run import run_batch
    from medconv.input_paths import check_out

    check_out(options.out)
    return run_batch(options)
