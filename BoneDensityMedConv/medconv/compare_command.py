"""`medconv compare`: two segmentations of one CT side by side, with Dice and surface distances per level."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medconv import console, mask_source, result_files, volume_io
from medconv.comparison_picture import COLUMNS, comparison_png, comparison_svg, render_comparison
from medconv.comparison_report import (
    comparison_csv,
    comparison_document,
    comparison_page,
    counted_differently,
    source_name,
)
from medconv.hounsfield import check_hounsfield
from medconv.segmentation_comparison import compare_segmentations, structure_mask, without_specks
from medconv.segmenter import SegmenterRequest
from medconv.types import CTVolume, InputRefused, SpineSegmentation, UsageError
from medconv.vertebrae import LABEL_MAPS


@dataclass(frozen=True)
class Source:
    """One of the two: a segmenter to run, or a file with its label map ("" if it holds one label)."""

    request: SegmenterRequest | None = None
    file: Path | None = None
    label_map: str = ""


def run_compare(options: argparse.Namespace) -> int:
    """Compare two segmentations and write the figure and the table. Raises MedConvError."""
    sources = [source_of(text, options) for text in (options.a, options.b)]
    vertebra = mask_source.vertebra_name(options.vertebra)
    out: Path = options.out
    result_files.prepare(out, result_files.COMPARISON, [options.ct, *(source.file for source in sources)])
    console.say("Reading the CT")
    ct = volume_io.read_ct(options.ct, options.series)
    check_hounsfield(ct)
    a, b = map(without_specks, _segmentations(ct, sources, vertebra, options.time_limit))
    if structure_mask(a, vertebra) is None and structure_mask(b, vertebra) is None:
        raise InputRefused(
            "vertebra_absent",
            f"Neither segmentation holds {vertebra}.",
            "Choose another one with --vertebra, or a CT that shows it.",
        )
    console.say("Comparing")
    document = comparison_document(a, b, vertebra, compare_segmentations(a, b))
    cells = render_comparison(ct, a, b, vertebra)
    names = {"CT": "CT", "A": f"A: {source_name(document['a'])}", "B": f"B: {source_name(document['b'])}"}
    svg = comparison_svg(cells, {column: names[column] for column in COLUMNS})
    with result_files.written_together(out) as folder:
        (folder / "comparison.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
        (folder / "comparison.csv").write_text(comparison_csv(document), "utf-8")
        (folder / "comparison.svg").write_text(svg, "utf-8")
        (folder / "comparison.png").write_bytes(comparison_png(cells))
        (folder / "comparison.html").write_text(comparison_page(document, svg), "utf-8")
    console.clear()
    _print(document, names, out)
    return 0


def source_of(text: str, options: argparse.Namespace) -> Source:
    """From the command line's SEGMENTER or FILE[:LABELMAP]. Raises UsageError."""
    if mask_source.is_automatic(text):
        return Source(mask_source.request_of(text, options))
    file, label_map = Path(text), ""
    if not file.exists():
        # Only the last colon can divide: a Windows path has one after its drive letter.
        name, colon, label_map = text.rpartition(":")
        if not colon or not (label_map in LABEL_MAPS or Path(label_map).is_file()) or not Path(name).exists():
            raise UsageError(
                "comparison_source_unknown",
                f"'{text}' is neither a segmenter nor a mask file.",
                "Give totalsegmentator, nnunet:FOLDER, demonstration, FILE, FILE:totalsegmentator, FILE:verse or "
                "FILE:LABELMAP.json.",
            )
        file = Path(name)
    return Source(None, file, label_map)


def _segmentations(
    ct: CTVolume, sources: list[Source], vertebra: str, time_limit_minutes: float | None
) -> tuple[SpineSegmentation, SpineSegmentation]:
    """Both, with one worker process for those that need it; files first, so that a wrong one is told at once."""
    found: dict[int, SpineSegmentation] = {}
    for place, source in enumerate(sources):
        if source.file is not None:
            found[place] = _from_file(ct, source, vertebra)
    todo = [(place, source.request) for place, source in enumerate(sources) if source.request is not None]
    with mask_source.segmenting(time_limit_minutes) if todo else contextlib.nullcontext() as client:
        for place, request in todo:
            assert client is not None
            found[place] = mask_source.segment(client, ct, request)
    return found[0], found[1]


def _from_file(ct: CTVolume, source: Source, vertebra: str) -> SpineSegmentation:
    assert source.file is not None
    if source.label_map:
        return mask_source.read_named_mask(source.file, source.label_map, ct)[0]
    try:
        return mask_source.read_single_mask(source.file, vertebra, ct)
    except UsageError as error:
        remedy = "Write FILE:totalsegmentator, FILE:verse or FILE:LABELMAP.json."
        raise UsageError("label_map_needed", error.message, remedy, source.file.name) from error


def _print(document: dict[str, Any], names: dict[str, str], out: Path) -> None:
    print(f"{names['A']}\n{names['B']}")
    for sentence in counted_differently(document):
        print(f"  warning: {sentence}")
    for row in document["levels"]:
        if row["only_in"]:
            print(f"  {row['name']:<7} only in {row['only_in'].upper()}")
        else:
            print(f"  {row['name']:<7} Dice {row['dice']:.3f}, mean surface distance {row['mean_surface_mm']:.2f} mm")
    print(f"  Report: {out / 'comparison.html'}")
