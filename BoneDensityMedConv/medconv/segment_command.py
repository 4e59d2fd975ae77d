"""`medconv segment`: a CT in; its vertebrae with names, the level check's doubts and a picture of the levels out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any

from medconv import RESEARCH_USE_ONLY, console, l1_mask, mask_source, result_files, volume_io
from medconv.hounsfield import check_hounsfield
from medconv.html_page import notes_list, page
from medconv.label_map_file import LABELS, write_segmentation
from medconv.level_drawing import levels_png, levels_svg
from medconv.level_picture import render_levels
from medconv.level_report import (
    DEMONSTRATION_BANNER,
    level_banners,
    level_document,
    level_section,
    named_levels,
    statement,
    told_cause,
    told_once,
)
from medconv.mask_source import Decision, Levels
from medconv.report import notes_document, versions
from medconv.types import CTVolume, QualityNote

LEVELS, PICTURE_SVG, PICTURE_PNG, REPORT = "levels.json", "levels.svg", "levels.png", "report.html"
MASK = "{}_mask.nii.gz"
TITLE = "Vertebrae that were found, with their names"


@dataclass(frozen=True)
class LevelView:
    """The levels as a document and as pictures ("" and no bytes if there is nothing to show).

    svg and png: sagittal and coronal; sagittal_svg: for a page that has words beside it.
    """

    document: Mapping[str, Any]
    svg: str = ""
    sagittal_svg: str = ""
    png: bytes = b""


def run_segment(options: argparse.Namespace) -> int:
    """Segment one CT and write what was found; returns 0 also if the level is in doubt: the doubt is told.

    Raises MedConvError: nothing was found, the CT can't be segmented, something is missing.
    """
    out: Path = options.out
    decision = Decision.of(options)
    request = mask_source.request_of(options.segmenter, options)
    result_files.prepare(out, result_files.ANSWER, [options.ct])
    started = perf_counter()
    console.say("Reading the CT")
    ct = volume_io.read_ct(options.ct, options.series)
    notes = check_hounsfield(ct)
    read_at = perf_counter()
    with mask_source.segmenting(options.time_limit) as client:
        segmentation = mask_source.segment(client, ct, request)
    timing = {"read": read_at - started, "segment": perf_counter() - read_at}
    console.say("Checking the level")
    levels = mask_source.judge(ct, segmentation, decision)
    view = view_of(ct, levels)
    console.say("Writing the results")
    with result_files.written_together(out) as folder:
        write_levels(folder, levels, view)
        timing["total"] = perf_counter() - started
        document = levels_document(levels, view, (*notes, *segmentation.notes), timing)
        (folder / LEVELS).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
        (folder / REPORT).write_text(segment_page(document, view.svg), "utf-8")
    console.clear()
    _print_found(levels, decision, document, out)
    return 0


def view_of(ct: CTVolume, levels: Levels) -> LevelView:
    """What a person is shown of the levels."""
    check = levels.check
    # As long as nobody has decided, a doubt about any level is one about the vertebra called L1.
    undecided = {check.target} if levels.choice is None and check.doubts and check.target else set()
    document = level_document(levels.choice, levels.segmentation, check.doubts, undecided.union(check.doubtful))
    pictures = render_levels(ct, levels.segmentation, named_levels(document["levels"]))
    if not pictures:
        return LevelView(document)
    both = list(pictures.values())
    return LevelView(document, levels_svg(both, TITLE), levels_svg([pictures["sagittal"]], TITLE), levels_png(both))


def write_levels(folder: Path, levels: Levels, view: LevelView) -> None:
    """The labels with their names, the mask of the chosen vertebra if one was chosen, and the picture."""
    write_segmentation(folder, levels.segmentation)
    if levels.mask is not None and levels.choice is not None:
        name = MASK.format(levels.choice.used_as.lower())
        volume_io.write_mask(folder / name, levels.mask)
    if view.svg:
        (folder / PICTURE_SVG).write_text(view.svg, "utf-8")
        (folder / PICTURE_PNG).write_bytes(view.png)


def levels_document(
    levels: Levels, view: LevelView, notes: tuple[QualityNote, ...], timing_s: Mapping[str, float]
) -> dict[str, Any]:
    """The document of levels.json: `level` as in result.json, why nothing was chosen if so, notes, times."""
    refusal = levels.refusal
    return {
        "research_use": RESEARCH_USE_ONLY,
        "level": dict(view.document),
        "undecided": None
        if refusal is None
        else {"code": refusal.code, "message": refusal.message, "remedy": refusal.remedy},
        "quality": notes_document(notes),
        "timing_s": dict(timing_s),
        "versions": versions(),
    }


def segment_page(document: Mapping[str, Any], svg: str) -> str:
    """report.html of a segmentation."""
    undecided, why = document["undecided"], ""
    if undecided:
        why = (
            '<section class="card"><h1>Which vertebra is L1</h1><p class="class">Open</p>'
            f"<p>{escape(told_cause(undecided['code'], undecided['message']))}</p>"
            f"<p><strong>What to do:</strong> {escape(undecided['remedy'])}</p></section>"
        )
    body = (
        f"{level_banners(document['level'])}{why}{level_section(document['level'], svg)}"
        '<section class="card"><h2>How far to trust this</h2>'
        f"{notes_list(told_once(document['quality'], document['level']), 'No quality notes.')}</section>"
    )
    return page("MedConv: vertebrae in a CT", body, document["versions"])


def print_level(document: Mapping[str, Any]) -> None:
    """The level in lines: what is measured, and every doubt."""
    print(f"  {statement(document)}")
    for doubt in document["doubts"]:
        print(f"  {doubt['severity']}: {doubt['message']}")
    if document["demonstration"]:
        print(f"  {DEMONSTRATION_BANNER}")


def _print_found(levels: Levels, decision: Decision, document: Mapping[str, Any], out: Path) -> None:
    level = document["level"]
    names = ", ".join(row["name"] for row in level["levels"]) or "no vertebra"
    print(f"Found: {names}")
    print_level(level)
    if levels.mask is not None:
        print(f"  {level['used_as']} mask {l1_mask.volume_ml(levels.mask):.1f} ml")
    if levels.refusal is not None:
        print(f"  No mask was written. {mask_source.how_to_decide(levels.refusal, levels, decision, out)}")
    for note in document["quality"]:
        print(f"  {note['severity']}: {note['message']}")
    print(f"  Labels: {out / LABELS}\n  Report: {out / REPORT}")
