"""`medconv predict`: files in, result files out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from medconv import l1_mask, pipeline, report, report_html, tscore, volume_io
from medconv.config import ModelCard
from medconv.grid import index3
from medconv.inference import LoadedModel
from medconv.planes import png_bytes, render_planes
from medconv.tau_adjustment import check_adjustment, starting_adjustment
from medconv.types import Adjustment, CTVolume, InputRefused, L1Mask, MissingRequirement, Prediction, UsageError

RESULT, REPORT, MASK = "result.json", "report.html", "l1_mask.nii.gz"
PLANE = "l1_{}.png"


def run_predict(options: argparse.Namespace) -> int:
    """Predict one case and write its files; returns the exit code. Raises MedConvError after writing a refusal."""
    _check_request(options)
    out: Path = options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError("out_is_a_file", f"{out} is a file, not a folder.", "Choose another --out.") from error
    _remove_earlier_results(out)
    model = LoadedModel.load(options.weights, options.device)
    adjustment = chosen_adjustment(options, model.card)
    try:
        ct, prediction = _analyse(options, model, adjustment)
    except InputRefused as refusal:
        _write_report(out, report.refusal_document(refusal), {})
        raise
    _say("Writing the results")
    _write_answer(out, ct, prediction)
    _say("")
    _print_answer(prediction, out)
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


def _check_request(options: argparse.Namespace) -> None:
    if options.segmenter not in (None, "existing"):
        raise MissingRequirement(
            "segmenter_missing",
            f"The segmenter '{options.segmenter}' is not part of this version.",
            "Give a label map that holds L1 with --mask FILE --label N.",
        )
    if options.mask is None:
        raise UsageError(
            "mask_needed",
            "An L1 mask is needed.",
            "Give a label map with --mask FILE --label N (31 in TotalSegmentator's maps, 20 in VerSe/CTSpine1K's).",
        )


def _analyse(options: argparse.Namespace, model: LoadedModel, adjustment: Adjustment) -> tuple[CTVolume, Prediction]:
    started = perf_counter()
    _say("Reading the CT")
    ct = volume_io.read_ct(options.ct, options.series)
    _say("Reading the mask")
    labels, geometry, owner = volume_io.read_labels(options.mask)
    mask, notes = l1_mask.from_labels(labels, geometry, options.label, ct.geometry, source="mask file")
    del labels, owner
    read_at = perf_counter()
    prediction = pipeline.predict(ct, mask, model, adjustment, notes=notes, progress=lambda stage, _: _say(stage))
    timing = {"read": read_at - started, **prediction.timing_s, "total": perf_counter() - started}
    return ct, replace(prediction, timing_s=timing)


def _write_answer(out: Path, ct: CTVolume, prediction: Prediction) -> None:
    pictures = {name: png_bytes(picture) for name, picture in render_planes(ct, prediction.case).items()}
    for name, png in pictures.items():
        (out / PLANE.format(name)).write_bytes(png)
    volume_io.write_image(out / MASK, measured_mask(ct, prediction).full_array_zyx(), ct.geometry)
    _write_report(out, report.result_document(prediction), pictures)


def measured_mask(ct: CTVolume, prediction: Prediction) -> L1Mask:
    """The mask that the answer rests on, without stray pieces, on the CT's grid."""
    start = np.round(ct.geometry.lps_to_index(prediction.case.ct.geometry.origin_lps_mm))
    return L1Mask(prediction.case.mask_zyx, index3(start), ct.geometry)


def _write_report(out: Path, document: dict[str, Any], pictures: dict[str, bytes]) -> None:
    (out / REPORT).write_text(report_html.result_page(document, pictures), "utf-8")
    (out / RESULT).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")


def _remove_earlier_results(out: Path) -> None:
    """An earlier answer must not stand beside a new refusal."""
    for name in (RESULT, REPORT, MASK, *(PLANE.format(p) for p in ("sagittal", "axial", "coronal"))):
        (out / name).unlink(missing_ok=True)


def _print_answer(prediction: Prediction, out: Path) -> None:
    core = prediction.attenuation
    print(tscore.LABELS[prediction.t_score_class])
    print("  " + "   ".join(f"{c} {p:.1%}" for c, p in prediction.probabilities.items()))
    print(f"  L1 trabecular attenuation {core.mean_hu:.0f} HU (median {core.median_hu:.0f}, SD {core.sd_hu:.0f})")
    for note in prediction.quality:
        print(f"  {note.severity}: {note.message}")
    print(f"  Report: {out / REPORT}")


def _say(stage: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{stage}", end="", file=sys.stderr, flush=True)
