"""`medconv predict`: files in, result files out."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from medconv import (
    console,
    dicom_export,
    mask_source,
    pipeline,
    report,
    report_html,
    result_files,
    tscore,
    volume_io,
)
from medconv.case_reading import read_around_mask
from medconv.config import ModelCard
from medconv.dicom_series import find_series
from medconv.explanation import Explanation, explain
from medconv.explanation_picture import explanation_png
from medconv.explanation_report import explanation_document, explanation_section, print_explanation
from medconv.grid import start_in
from medconv.hounsfield import check_hounsfield
from medconv.inference import LoadedModel
from medconv.mask_source import Decision, Levels
from medconv.planes import png_bytes, render_planes
from medconv.segment_command import LevelView, print_level, view_of, write_levels
from medconv.segmenter import EXISTING, TOTALSEGMENTATOR, SegmenterRequest
from medconv.slices import check_slices
from medconv.tau_adjustment import check_adjustment, starting_adjustment
from medconv.types import (
    Adjustment,
    CTVolume,
    InputRefused,
    L1Mask,
    LevelChoice,
    Prediction,
    QualityNote,
    UsageError,
)

RESULT, REPORT, MASK = "result.json", "report.html", "{}_mask.nii.gz"
PLANE = "{}_{}.png"
EXPLANATION, MAP, MAP_PICTURE = "explanation.json", "{}_explanation.nii.gz", "{}_explanation.png"


@dataclass
class _Case:
    """What is known of a case so far: a refusal tells all of it. `timing_s` adds up."""

    ct: CTVolume | None = None
    mask: L1Mask | None = None
    choice: LevelChoice | None = None
    notes: tuple[QualityNote, ...] = ()
    levels: Levels | None = None
    view: LevelView | None = None
    series_files: tuple[str, ...] = ()
    timing_s: dict[str, float] = field(default_factory=dict)


def run_predict(options: argparse.Namespace, target: str = "") -> int:
    """Predict one case and write its files; returns the exit code. Raises MedConvError after writing a refusal.

    target: explain this as well (a key of `explanation.TARGETS`); "" explains nothing.
    """
    decision, request = Decision.of(options), _request(options)
    if options.dicom:
        dicom_export.check_request(options.ct)
    out: Path = options.out
    result_files.prepare(out, result_files.ANSWER, [options.ct, options.mask])
    console.say("Loading MedConv")
    try:
        model = LoadedModel.load(options.weights, options.device, options.runtime, console.say)
    finally:
        console.clear()
    adjustment = chosen_adjustment(options, model.card)
    case, started = _Case(), perf_counter()
    try:
        if options.dicom:
            enhanced = dicom_export.enhanced_file(options.ct)
            case.series_files = enhanced or find_series(options.ct, options.series).files
            dicom_export.check_series(case.series_files)
        prediction = _analyse(case, options, request, decision, model, adjustment)
        explained = _explain(case, prediction, model, target) if target else None
    except InputRefused as refusal:
        _write_refusal(out, refusal, case)
        if case.levels is not None and case.levels.refusal is refusal:
            raise mask_source.how_to_decide(refusal, case.levels, decision, out) from None
        raise
    finally:
        console.clear()
    timing = {**case.timing_s, **prediction.timing_s, "total": perf_counter() - started}
    prediction = replace(prediction, timing_s=timing)
    console.say("Writing the results")
    _write_answer(out, case, prediction, explained)
    console.clear()
    _print_answer(prediction, case, out)
    if explained is not None:
        print_explanation(explained)
    return 0


def chosen_adjustment(options: argparse.Namespace, card: ModelCard) -> Adjustment:
    """The weights' own adjustment with what the person chose instead. Raises UsageError."""
    start = starting_adjustment(
        options.adjustment or card.default_adjustment.method, card.default_adjustment, card.tau1_train
    )
    adjustment = Adjustment(
        start.method,
        start.tau1 if options.tau1 is None else options.tau1,
        start.tau2 if options.tau2 is None else options.tau2,
    )
    check_adjustment(adjustment, card.tau1_train)
    return adjustment


def _request(options: argparse.Namespace) -> SegmenterRequest | None:
    """The segmenter to run; None if the mask is given. Raises UsageError if the two contradict each other."""
    name = options.segmenter or (EXISTING if options.mask else TOTALSEGMENTATOR)
    if name == EXISTING:
        if options.mask is None:
            raise UsageError(
                "mask_needed",
                "The segmenter 'existing' takes L1 from a mask.",
                "Give a label map with --mask FILE --label N (31 in TotalSegmentator's maps, 20 in VerSe/CTSpine1K's).",
            )
        _check_naming(options)
        return None
    request = mask_source.request_of(name, options)
    if options.mask is not None:
        raise UsageError(
            "two_sources", "L1 comes either from a mask or from a segmenter.", "Leave out --mask or --segmenter."
        )
    if options.label is not None:
        raise UsageError("label_without_mask", "--label belongs to a mask.", "Leave it out, or give --mask FILE.")
    return request


def _check_naming(options: argparse.Namespace) -> None:
    if options.label is not None and options.label_map:
        raise UsageError("label_named_twice", "--label and --label-map both name L1's label.", "Give one of the two.")
    if not options.label_map and (options.l1_is or options.instead):
        raise UsageError(
            "names_needed",
            "--l1-is and --instead need the vertebrae's names.",
            "Give --label-map totalsegmentator, verse or a JSON file; or point at the vertebra with --label N.",
        )


def _analyse(
    case: _Case,
    options: argparse.Namespace,
    request: SegmenterRequest | None,
    decision: Decision,
    model: LoadedModel,
    adjustment: Adjustment,
) -> Prediction:
    started = perf_counter()
    console.say("Reading the CT")
    source = volume_io.open_ct(options.ct, options.series)
    if request is None and not options.label_map:
        read = read_around_mask(source, options.mask, options.label)
        case.ct, case.mask, case.choice, case.notes = read.ct, read.mask, read.level, read.notes
    else:
        _take_named(case, source.read(), options, request, decision)
    case.timing_s["read"] = perf_counter() - started - case.timing_s.get("segment", 0.0)
    assert case.ct is not None
    assert case.mask is not None
    return pipeline.predict(
        case.ct, case.mask, model, adjustment, notes=case.notes, level=case.choice, progress=console.say
    )


def _take_named(
    case: _Case, ct: CTVolume, options: argparse.Namespace, request: SegmenterRequest | None, decision: Decision
) -> None:
    """With the whole CT: its vertebrae are found or judged, and shown, one and all."""
    case.ct = ct
    if request is not None:
        _segment(case, ct, request, decision, options.time_limit)
        return
    segmentation, notes = mask_source.read_named_mask(options.mask, options.label_map, ct)
    case.notes = (*notes, *segmentation.notes)
    _take_level(case, mask_source.judge(ct, segmentation, decision))


def _segment(
    case: _Case, ct: CTVolume, request: SegmenterRequest, decision: Decision, time_limit_minutes: float | None
) -> None:
    # What can't carry an answer is refused before minutes go into its segmentation.
    check_hounsfield(ct)
    check_slices(ct)
    started = perf_counter()
    with mask_source.segmenting(time_limit_minutes) as client:
        segmentation = mask_source.segment(client, ct, request)
    case.timing_s["segment"] = perf_counter() - started
    case.notes = segmentation.notes
    _take_level(case, mask_source.judge(ct, segmentation, decision))


def _take_level(case: _Case, levels: Levels) -> None:
    """Raises InputRefused if no vertebra may be measured; the case then holds what there is to show."""
    assert case.ct is not None
    case.levels, case.view = levels, view_of(case.ct, levels)
    if levels.refusal is not None:
        raise levels.refusal
    case.mask, case.choice = levels.mask, levels.choice


def _explain(case: _Case, prediction: Prediction, model: LoadedModel, target: str) -> Explanation:
    started = perf_counter()
    explained = explain(model, prediction.case, target, progress=console.say)
    case.timing_s["explain"] = perf_counter() - started
    return explained


def _write_answer(out: Path, case: _Case, prediction: Prediction, explained: Explanation | None) -> None:
    assert case.ct is not None
    ct, vertebra = case.ct, prediction.case.vertebra.lower()
    pictures = {name: png_bytes(picture) for name, picture in render_planes(ct, prediction.case).items()}
    with result_files.written_together(out) as folder:
        if case.levels is not None and case.view is not None:
            write_levels(folder, case.levels, case.view)
        for name, png in pictures.items():
            (folder / PLANE.format(vertebra, name)).write_bytes(png)
        volume_io.write_mask(folder / MASK.format(vertebra), measured_mask(ct, prediction))
        document = report.result_document(prediction, dict(case.view.document) if case.view else None)
        if case.series_files:
            dicom_export.write_dicom(folder, measured_mask(ct, prediction), document, case.series_files)
        section = _write_explanation(folder, ct, prediction, explained) if explained is not None else ""
        _write_report(folder, document, pictures, case.view, section)


def _write_explanation(folder: Path, ct: CTVolume, prediction: Prediction, explained: Explanation) -> str:
    """The map, its picture and figures; returns the section for the report."""
    vertebra, document = prediction.case.vertebra.lower(), explanation_document(explained)
    png = explanation_png(ct, prediction.case, explained)
    volume_io.write_image(folder / MAP.format(vertebra), explained.values_zyx, explained.geometry)
    (folder / MAP_PICTURE.format(vertebra)).write_bytes(png)
    (folder / EXPLANATION).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
    return explanation_section(document, png)


def _write_refusal(out: Path, refusal: InputRefused, case: _Case) -> None:
    """A refusal shows what was found, so that the person can look and decide."""
    document = report.refusal_document(refusal, dict(case.view.document) if case.view else None)
    with result_files.written_together(out) as folder:
        if case.levels is not None and case.view is not None:
            write_levels(folder, replace(case.levels, mask=None), case.view)
        _write_report(folder, document, {}, case.view)


def measured_mask(ct: CTVolume, prediction: Prediction) -> L1Mask:
    """The mask that the answer rests on, without stray pieces, on the whole CT's grid."""
    grid = ct.whole_geometry
    return L1Mask(prediction.case.mask_zyx, start_in(grid, prediction.case.ct.geometry), grid)


def _write_report(
    folder: Path, document: dict[str, Any], pictures: dict[str, bytes], view: LevelView | None, explanation: str = ""
) -> None:
    svg = ""
    if view is not None:
        svg = view.svg if document["status"] == "refused" else view.sagittal_svg  # a refusal asks for a look
    (folder / REPORT).write_text(report_html.result_page(document, pictures, svg, explanation), "utf-8")
    (folder / RESULT).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")


def _print_answer(prediction: Prediction, case: _Case, out: Path) -> None:
    core, vertebra = prediction.attenuation, prediction.case.vertebra
    notes = {note.code: note for note in prediction.quality}
    print(tscore.headline(prediction.t_score_class, notes, prediction.prediction_set))
    for code in tscore.QUALIFYING:
        if code in notes:
            print(f"  {notes[code].severity}: {notes[code].message}")
    print("  " + "   ".join(f"{c} {p:.1%}" for c, p in prediction.probabilities.items()))
    print(
        f"  {vertebra} trabecular attenuation {core.mean_hu:.0f} HU (median {core.median_hu:.0f}, SD {core.sd_hu:.0f})"
    )
    if case.view is not None:
        print_level(case.view.document)
    told = {doubt.code for doubt in case.choice.doubts} if case.choice else set()
    told.update(tscore.QUALIFYING)
    for note in prediction.quality:
        if note.code not in told:
            print(f"  {note.severity}: {note.message}")
    print(f"  Report: {out / REPORT}")
    if case.series_files:
        names = (dicom_export.SEGMENTATION, dicom_export.REPORT)
        print(f"  DICOM: {', '.join(str(out / name.format(vertebra.lower())) for name in names)}")
