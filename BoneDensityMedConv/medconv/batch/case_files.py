"""What a batch writes of a case beside its row: report, pictures, DICOM; a folder a case, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medconv import dicom_export, report_html, result_files, worker_errors
from medconv.batch.jobs import BatchJob
from medconv.batch.settings import BatchSettings
from medconv.mask_source import Levels
from medconv.planes import png_bytes, render_planes
from medconv.predict_command import measured_mask
from medconv.segment_command import LevelView, write_levels
from medconv.types import CTVolume, InputRefused, MissingRequirement, Prediction

CASES = "cases"
RESULT, REPORT, PLANE = "result.json", "report.html", "{}_{}.png"


@dataclass(frozen=True)
class Shown:
    """What there is to show of a case; a refusal has no prediction. series_files: of a CT that is a DICOM series."""

    ct: CTVolume | None = None
    series_files: tuple[str, ...] = ()
    prediction: Prediction | None = None
    levels: Levels | None = None
    view: LevelView | None = None


def clear(out: Path, case_id: str) -> None:
    """Remove what an earlier answer of this case has left: it must not stand beside another row."""
    shutil.rmtree(out / CASES / case_id, ignore_errors=True)


def write(
    job: BatchJob, out: Path, settings: BatchSettings, document: dict[str, Any], shown: Shown
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write what the settings ask for; returns the document, which then says what could not be written, and the files.

    The files are relative to `out`. Raises MissingRequirement if the folder can't be written: that is no case's fault.
    """
    as_dicom = settings.dicom and bool(shown.series_files) and shown.prediction is not None
    if not (settings.reports or as_dicom):
        return document, ()
    with _all_or_nothing(job, out) as staging:
        if as_dicom:
            document = _write_dicom(staging, document, shown)
        if settings.reports:
            _write_report(staging, document, shown)
    return document, _listed(job, out)


def copy(job: BatchJob, out: Path, files: tuple[str, ...]) -> tuple[str, ...]:
    """The same files for a case with the same pixels. Raises FileNotFoundError if one is gone."""
    if not files:
        return ()
    for file in files:
        (out / file).stat()
    with _all_or_nothing(job, out) as staging:
        for file in files:
            shutil.copyfile(out / file, staging / Path(file).name)
    return _listed(job, out)


@contextlib.contextmanager
def _all_or_nothing(job: BatchJob, out: Path) -> Iterator[Path]:
    """A folder to write into, in place of whatever an attempt before has left."""
    folder = out / CASES / job.case_id
    try:
        clear(out, job.case_id)
        folder.mkdir(parents=True, exist_ok=True)
        with result_files.written_together(folder) as staging:
            yield staging
    except OSError as error:
        told = worker_errors.explain(error)
        if isinstance(told, MissingRequirement):
            raise told from error
        raise MissingRequirement(
            "results_not_written",
            f"The results can't be written ({error.strerror or type(error).__name__}).",
            "Check the batch's folder, its permissions and free space; the same command goes on.",
        ) from error


def _write_dicom(folder: Path, document: dict[str, Any], shown: Shown) -> dict[str, Any]:
    """Segmentation and structured report. The answer stands also where the series' headers can't carry them."""
    assert shown.ct is not None
    assert shown.prediction is not None
    try:
        dicom_export.write_dicom(folder, measured_mask(shown.ct, shown.prediction), document, shown.series_files)
    except InputRefused as refusal:
        note = {"code": "dicom_not_written", "severity": "info", "message": f"No DICOM result: {refusal.message}"}
        return {**document, "quality": [*document["quality"], note]}
    return document


def _write_report(folder: Path, document: Mapping[str, Any], shown: Shown) -> None:
    pictures: dict[str, bytes] = {}
    if shown.ct is not None and shown.prediction is not None:
        case = shown.prediction.case
        pictures = {name: png_bytes(picture) for name, picture in render_planes(shown.ct, case).items()}
        for name, png in pictures.items():
            (folder / PLANE.format(case.vertebra.lower(), name)).write_bytes(png)
    refused, svg = shown.prediction is None, ""
    if shown.levels is not None and shown.view is not None:
        write_levels(folder, replace(shown.levels, mask=None) if refused else shown.levels, shown.view)
        svg = shown.view.svg if refused else shown.view.sagittal_svg  # a refusal asks for a look
    (folder / REPORT).write_text(report_html.result_page(dict(document), pictures, svg), "utf-8")
    (folder / RESULT).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")


def _listed(job: BatchJob, out: Path) -> tuple[str, ...]:
    folder = out / CASES / job.case_id
    return tuple(sorted(file.relative_to(out).as_posix() for file in folder.iterdir() if file.is_file()))
