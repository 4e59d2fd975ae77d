"""The arguments of the commands that find L1: predict, segment, compare, segmenters."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from medconv import runtimes
from medconv.devices import add_device
from medconv.segmenter import QUALITIES, TOTALSEGMENTATOR
from medconv.tau_adjustment import METHODS
from medconv.vertebrae import LABEL_MAPS

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_predict(commands: Commands) -> None:
    p = commands.add_parser("predict", help="one CT to result.json, report.html and pictures; L1 is found or given")
    add_prediction_options(p)
    p.set_defaults(run=_predict)


def add_prediction_options(p: argparse.ArgumentParser) -> None:
    """What predict and explain take: the CT, where L1 comes from, weights, adjustment, folder."""
    _add_ct(p)
    p.add_argument("--mask", type=Path, metavar="FILE", help="label map that holds L1, instead of a segmenter")
    p.add_argument("--label", type=int, metavar="N", help="L1's label: 31 TotalSegmentator, 20 VerSe/CTSpine1K")
    p.add_argument(
        "--segmenter",
        metavar="NAME",
        help="totalsegmentator (default without --mask), nnunet:FOLDER, demonstration, existing (default with --mask)",
    )
    _add_segmenter_options(p, "names of the labels of --mask, or of nnunet:FOLDER: ")
    _add_level_options(p)
    p.add_argument("--weights", metavar="NAME|FILE", help="default: the shipped weights")
    p.add_argument("--adjustment", choices=[m.id for m in METHODS], help="default: the weights' own")
    p.add_argument("--tau1", type=float, metavar="X", help="temperature of the majority classes ('temperature' only)")
    p.add_argument("--tau2", type=float, metavar="X", help="see the chosen adjustment in the user guide")
    p.add_argument(
        "--runtime",
        choices=(runtimes.AUTO, runtimes.MEASURE, *runtimes.RUNTIMES),
        default=runtimes.AUTO,
        metavar="NAME",
        help="how the network is run: auto (default: what a short measurement finds fastest, once), "
        + "measure (the same, measured again), "
        + ", ".join(runtimes.RUNTIMES),
    )
    p.add_argument("--dicom", action="store_true", help="L1 as DICOM SEG and the answer as DICOM SR as well")
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the results")


def add_segment(commands: Commands) -> None:
    p = commands.add_parser("segment", help="one CT to its vertebrae with names, and what is in doubt about them")
    _add_ct(p)
    p.add_argument(
        "--segmenter",
        metavar="NAME",
        default=TOTALSEGMENTATOR,
        help="totalsegmentator (default), nnunet:FOLDER or demonstration",
    )
    _add_segmenter_options(p, "names of the labels of nnunet:FOLDER (default: its own): ")
    _add_level_options(p)
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the results")
    p.set_defaults(run=_segment)


def add_compare(commands: Commands) -> None:
    p = commands.add_parser("compare", help="two segmentations of one CT side by side, with Dice and surface distance")
    _add_ct(p)
    for name in ("--a", "--b"):
        p.add_argument(
            name,
            required=True,
            metavar="SOURCE",
            help="FILE (one label), FILE:LABELMAP, totalsegmentator, nnunet:FOLDER or demonstration",
        )
    p.add_argument("--vertebra", default="L1", metavar="NAME", help="which one is shown (default L1)")
    _add_segmenter_options(p, "names of the labels of nnunet:FOLDER (default: its own): ")
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for figure and table")
    p.set_defaults(run=_compare)


def _add_ct(p: argparse.ArgumentParser) -> None:
    p.add_argument("ct", type=Path, metavar="CT", help="NIfTI, NRRD or MetaImage file, or a folder with a DICOM series")
    p.add_argument("--series", metavar="UID", help="which DICOM series, if the folder holds several")


def _add_segmenter_options(p: argparse.ArgumentParser, names_of: str) -> None:
    p.add_argument("--quality", choices=QUALITIES, default="full", help="TotalSegmentator's (default full)")
    p.add_argument("--label-map", metavar="NAME|FILE", help=f"{names_of}{', '.join(LABEL_MAPS)} or a JSON file")
    p.add_argument("--insist", action="store_true", help="run the demonstration network on a CT that is not simulated")
    p.add_argument("--time-limit", type=float, metavar="MIN", help="end a segmentation after this time (default 30)")
    add_device(p)


def _add_level_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--confirm-level", action="store_true", help="the level is right although the level check doubts it")
    p.add_argument("--l1-is", metavar="NAME", help="the vertebra that the segmenter calls NAME is L1")
    p.add_argument("--instead", choices=("T12", "L2"), help="measure this vertebra instead of L1; results are named so")


def add_segmenters(commands: Commands) -> None:
    p = commands.add_parser("segmenters", help="which segmenters are ready; TotalSegmentator's weights")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="segmenters, and where their weights lie").set_defaults(run=_segmenters("run_list"))
    fetch = actions.add_parser("fetch", help="fetch TotalSegmentator's weights from GitHub, after asking")
    fetch.add_argument("--quality", choices=QUALITIES, default="full", help="which weights (default full: all of them)")
    fetch.add_argument("--yes", action="store_true", help="agree without being asked")
    fetch.set_defaults(run=_segmenters("run_fetch"))
    importing = actions.add_parser("import", help="install TotalSegmentator's weights from a release zip or a folder")
    importing.add_argument("file", type=Path, metavar="FILE|FOLDER")
    importing.set_defaults(run=_segmenters("run_import"))
    remove = actions.add_parser("remove", help="remove TotalSegmentator's weights, after asking")
    remove.add_argument("--quality", choices=QUALITIES, help="only those of this quality (default: all)")
    remove.add_argument("--yes", action="store_true", help="agree without being asked")
    remove.set_defaults(run=_segmenters("run_remove"))


def _segmenters(function: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from medconv import segmenters_command

        return int(getattr(segmenters_command, function)(options))

    return run


def _segment(options: argparse.Namespace) -> int:
    from medconv.segment_command import run_segment

    return run_segment(options)


def _compare(options: argparse.Namespace) -> int:
    from medconv.compare_command import run_compare

    return run_compare(options)


def _predict(options: argparse.Namespace) -> int:
    from medconv.predict_command import run_predict

    return run_predict(options)
