"""Where a command's mask comes from: a segmenter in the worker process, or a label map file with names."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np

from medconv import console, l1_mask, vertebrae, volume_io
from medconv.label_map_file import LABELS, NAMES, read_segmentation
from medconv.level_check import LevelCheck, check_levels, choose
from medconv.segmenter import DEMONSTRATION, EXISTING, NNUNET, TOTALSEGMENTATOR, SegmenterRequest
from medconv.types import (
    CTVolume,
    InputRefused,
    L1Mask,
    LevelChoice,
    MissingRequirement,
    QualityNote,
    SpineSegmentation,
    UsageError,
)
from medconv.worker_client import TIME_LIMIT_S, WorkerClient

AUTOMATIC = (TOTALSEGMENTATOR, DEMONSTRATION, NNUNET)
FETCH_HINT = "Here: medconv segmenters fetch, or medconv segmenters import FILE."
INSIST_HINT = "Here: --insist."


@dataclass(frozen=True)
class Decision:
    """What the person said about the level. `take` is the segmenter's name of the vertebra that is measured, `l1_is`
    of L1; "" if none was named."""

    take: str = ""
    used_as: str = "L1"
    confirmed: bool = False
    l1_is: str = ""

    @staticmethod
    def of(options: argparse.Namespace) -> Decision:
        """From --l1-is, --instead and --confirm-level. Raises UsageError for a vertebra that does not exist."""
        l1_is = vertebra_name(options.l1_is) if options.l1_is else ""
        if not options.instead:
            return Decision(l1_is, "L1", options.confirm_level, l1_is)
        above = 1 if options.instead == "T12" else -1
        take = vertebrae.above(l1_is, above) if l1_is else ""
        return Decision(take, options.instead, options.confirm_level, l1_is)


@dataclass(frozen=True)
class Levels:
    """A segmentation and what is made of its levels. Either `mask` and `choice` are there, or `refusal` is."""

    segmentation: SpineSegmentation
    check: LevelCheck
    mask: L1Mask | None = None
    choice: LevelChoice | None = None
    refusal: InputRefused | None = None


def is_automatic(name: str) -> bool:
    """True for the name of a segmenter that needs a network ("nnunet:FOLDER" included)."""
    return name.partition(":")[0] in AUTOMATIC


def judge(ct: CTVolume, segmentation: SpineSegmentation, decision: Decision) -> Levels:
    """The level check, and which vertebra is measured after what the person said."""
    check = check_levels(segmentation, ct)
    given = segmentation.segmenter == EXISTING and not (decision.take or decision.confirmed)
    try:
        mask, choice = choose(
            segmentation,
            check,
            take=decision.take,
            used_as=decision.used_as,
            confirmed=decision.confirmed,
            decided_by="label" if given else "",
        )
    except InputRefused as refusal:
        return Levels(segmentation, check, refusal=refusal)
    return Levels(segmentation, check, mask, choice)


def how_to_decide(refusal: InputRefused, levels: Levels, decision: Decision, out: Path) -> InputRefused:
    """The refusal with what can be typed next, for the screen; of a segmenter's labels, how to go on without it.

    What was tried, and a vertebra that can't be measured, is not among it.
    """
    if refusal.code == "orientation_impossible":  # no choice of a vertebra mends that
        return refusal
    choices = ["--confirm-level"] if refusal.code == "level_in_doubt" else []
    choices.append("--l1-is NAME" if not decision.l1_is else "--l1-is ANOTHER")
    l1 = decision.l1_is or "L1"
    whole = {name for name in ("T12", "L2") if vertebrae.above(l1, 1 if name == "T12" else -1) in levels.check.serving}
    if others := sorted(whole - {decision.used_as}, reverse=True):
        choices.append(f"--instead {'|'.join(others)}")
    *first, last = choices
    words = f"{', '.join(first)} or {last}" if first else last
    if levels.segmentation.segmenter == EXISTING:
        refusal.details = f"Here: the same command with {words}."
        return refusal
    refusal.details = (
        f"Here: medconv predict with {words}; --mask {out / LABELS} --label-map {out / NAMES} and another --out take "
        "what was found without a second run of the network."
    )
    return refusal


def request_of(name: str, options: argparse.Namespace) -> SegmenterRequest:
    """The request of a segmenter's name with a command's options. Raises UsageError."""
    if options.time_limit is not None and not options.time_limit > 0:  # also not a number
        raise UsageError("time_limit_not_positive", "The time limit must be above 0 minutes.", "Give --time-limit MIN.")
    label_map = (options.label_map or "") if name.startswith(NNUNET) else ""
    if label_map not in ("", *vertebrae.LABEL_MAPS):
        label_map = str(Path(label_map).absolute())  # the worker process has a working folder of its own
    kind, colon, folder = name.partition(":")
    if folder:
        name = f"{kind}{colon}{Path(folder).expanduser().absolute()}"
    return SegmenterRequest.parse(
        name, quality=options.quality, label_map=label_map, device=options.device, insist=options.insist
    )


@contextlib.contextmanager
def segmenting(time_limit_minutes: float | None) -> Iterator[WorkerClient]:
    """A worker process for as long as the command needs it; ended with all that it started, also by a signal."""
    limit = TIME_LIMIT_S if time_limit_minutes is None else time_limit_minutes * 60
    with terminated_like_interrupted(), contextlib.closing(WorkerClient(time_limit_s=limit)) as client:
        yield client


def segment(client: WorkerClient, ct: CTVolume, request: SegmenterRequest) -> SpineSegmentation:
    """Segment a CT, with progress on a terminal. Raises MedConvError; Ctrl+C ends the worker process."""
    try:
        return client.segment_and_wait(ct, request, console.say)
    except MissingRequirement as missing:
        if missing.code == "segmenter_weights_missing":
            missing.details = f"{FETCH_HINT} {missing.details}".strip()
        raise
    except InputRefused as refused:
        if refused.code == "demonstration_on_real_ct":
            refused.details = f"{INSIST_HINT} {refused.details}".strip()
        raise
    finally:
        console.clear()


def read_named_mask(path: Path, label_map: str, ct: CTVolume) -> tuple[SpineSegmentation, list[QualityNote]]:
    """A label map file with names; see `label_map_file.read_segmentation`."""
    return read_segmentation(path, label_map, ct.geometry)


def read_single_mask(path: Path, vertebra: str, ct: CTVolume) -> SpineSegmentation:
    """A mask file that holds one label, as a segmentation of that vertebra. Raises as `l1_mask.from_labels`."""
    labels, geometry, _owner = volume_io.read_labels(path)
    mask, notes = l1_mask.from_labels(labels, geometry, None, ct.geometry)
    block = mask.block_zyx.astype(np.uint8)
    return SpineSegmentation(block, mask.start_xyz, ct.geometry, {1: vertebra}, EXISTING, notes=tuple(notes))


def vertebra_name(text: str) -> str:
    """A vertebra's name as a person types it. Raises UsageError."""
    name = text.strip().upper()
    if name not in vertebrae.ORDER:
        raise UsageError("vertebra_unknown", f"There is no vertebra '{text}'.", "Give a name such as T12, L1 or L2.")
    return name


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM (a batch system's, a service manager's) ends the worker as Ctrl+C does; by itself it would orphan it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
