"""One case of a batch: its files in, its outcome out. Knows nothing of processes, ledgers or other cases."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import SimpleITK as sitk

from medconv import dicom_export, mask_source, pipeline, report, volume_io, worker_errors
from medconv.batch import case_files, measuring, rehearsal
from medconv.batch.jobs import BatchJob, CaseOutcome, Status
from medconv.batch.pixels import pixels_digest
from medconv.batch.settings import BatchSettings
from medconv.case_reading import read_around_mask
from medconv.dicom_series import find_series
from medconv.hounsfield import check_hounsfield
from medconv.inference import LoadedModel
from medconv.input_paths import check_text, existing, not_permitted
from medconv.label_map_file import read_segmentation
from medconv.mask_source import Decision, Levels
from medconv.runtimes import REFERENCE
from medconv.segment_command import LevelView, view_of
from medconv.segmenter import Segmenter, make_segmenter
from medconv.slices import check_slices
from medconv.types import (
    Cancelled,
    CTVolume,
    InputRefused,
    L1Case,
    L1Mask,
    LevelChoice,
    MissingRequirement,
    QualityNote,
    SpineSegmentation,
    UsageError,
)

ACQUISITION = ("modality", "kvp", "kernel", "slice_thickness_mm", "contrast_agent")  # not the patient's age or sex
FAILED_MESSAGE = "The case failed unexpectedly ({}). The ledger says where."


@dataclass
class Tools:
    """What a process needs for all its cases; loaded once.

    known: the outcome of an earlier case with these pixels, by their SHA-256, or None.
    """

    settings: BatchSettings
    out: Path
    model: LoadedModel
    known: Callable[[str], CaseOutcome | None] = lambda pixels: None
    _segmenter: Segmenter | None = None

    @staticmethod
    def load(settings: BatchSettings, out: Path) -> Tools:
        """Load the network, for one thread of this process. Raises MissingRequirement, UsageError."""
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        model = LoadedModel.load(settings.weights or None, settings.device, settings.runtime or REFERENCE)
        if settings.device == "cpu":
            import torch

            torch.set_num_threads(1)
        return Tools(settings, out, model)

    @property
    def segmenter(self) -> Segmenter | None:
        """Stays warm from case to case. Raises MissingRequirement."""
        request = self.settings.segmenter_request()
        if self._segmenter is None and request is not None:
            self._segmenter = make_segmenter(request)
        return self._segmenter


@dataclass
class _Found:
    """What is known of a case so far; a refusal tells all of it."""

    ct: CTVolume | None = None
    files: tuple[str, ...] = ()
    mask: L1Mask | None = None
    choice: LevelChoice | None = None
    notes: tuple[QualityNote, ...] = ()
    levels: Levels | None = None
    view: LevelView | None = None
    case: L1Case | None = None
    pixels: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Any:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started


def run_job(job: BatchJob, tools: Tools) -> CaseOutcome:
    """Answer a case. Whatever is wrong with it becomes its outcome.

    Raises MissingRequirement where nothing is wrong with the case, and the next would fare no better (a full disk,
    a segmenter's weights), and Cancelled. A case for which memory did not suffice is FAILED with "out_of_memory".
    """
    found, started = _Found(), perf_counter()
    case_files.clear(tools.out, job.case_id)
    measuring.restart_peak()
    try:
        outcome = _answer(job, tools, found)
    except Exception as error:  # noqa: BLE001 - whatever failed is told as this case's outcome, the others go on
        outcome = _unanswered(job, tools, found, error)
    seconds = {**found.seconds, "total": perf_counter() - started}
    acquisition = {name: getattr(found.ct.acquisition, name) for name in ACQUISITION} if found.ct else {}
    return replace(outcome, acquisition=acquisition, measured=seconds | measuring.memory_mb())


def _answer(job: BatchJob, tools: Tools, found: _Found) -> CaseOutcome:
    rehearsal.perform(job.case_id)
    _check_paths(job, tools)
    with found.timed("read"):
        labels = _read(job, found)
        assert found.ct is not None
        found.pixels = pixels_digest(found.ct, labels, found.mask, found.choice, found.notes)
    # DICOM results name the patient of their own series: they are never another case's.
    if not tools.settings.dicom and (known := tools.known(found.pixels)) is not None:
        with contextlib.suppress(OSError):  # the other's files are gone: this case is answered by itself
            return _as_known(job, tools, known)
    if labels is not None:
        _take_level(found, mask_source.judge(found.ct, labels, Decision()))
    elif not job.mask:
        _segment(found, tools)
    assert found.mask is not None
    with found.timed("prepare"):
        found.case = pipeline.prepare(found.ct, found.mask, notes=found.notes, level=found.choice)
    prediction = pipeline.analyse(found.case, tools.model, tools.settings.adjusted_by())
    found.seconds.update(prediction.timing_s)
    level = dict(found.view.document) if found.view else None
    document = report.result_document(replace(prediction, timing_s={}), level)
    with found.timed("report"):
        enhanced = dicom_export.enhanced_file(Path(job.ct)) if tools.settings.dicom and not found.files else ()
        shown = case_files.Shown(found.ct, found.files or enhanced, prediction, found.levels, found.view)
        document, files = case_files.write(job, tools.out, tools.settings, document, shown)
    return CaseOutcome(job.case_id, Status.OK, document, pixels=found.pixels, files=files)


def _check_paths(job: BatchJob, tools: Tools) -> None:
    """Raise InputRefused for what no reader may be given."""
    for path in (job.ct, job.mask, *job.files):
        check_text(path)
    existing(job.ct)
    if job.mask:
        try:
            existing(job.mask)
        except InputRefused as refusal:
            if refusal.code != "file_missing":
                raise
            raise InputRefused(
                "mask_missing", "The mask is not there.", "Restore the file, or correct its path."
            ) from refusal
    if not job.mask and not tools.settings.segmenter:
        raise InputRefused(
            "mask_missing",
            "No mask belongs to this CT.",
            "Give its mask (see the naming rules), or a segmenter: --segmenter totalsegmentator.",
        )


def _read(job: BatchJob, found: _Found) -> SpineSegmentation | None:
    """The CT, or what of it the mask needs, into `found`; and the mask, or the named labels that are returned."""
    found.files = job.files
    if Path(job.ct).is_dir() and not job.files:
        found.files = find_series(Path(job.ct), job.series_uid or None).files
    source = volume_io.open_ct(job.ct, job.series_uid or None, found.files)
    if not job.mask:
        found.ct = source.read()
    elif job.label_map:
        found.ct = source.read()
        segmentation, notes = read_segmentation(Path(job.mask), job.label_map, found.ct.geometry)
        found.notes = (*notes, *segmentation.notes)
        return segmentation
    else:
        read = read_around_mask(source, job.mask, job.label)
        found.ct, found.mask, found.choice, found.notes = read.ct, read.mask, read.level, read.notes
    return None


def _segment(found: _Found, tools: Tools) -> None:
    assert found.ct is not None
    # What can't carry an answer is refused before minutes go into its segmentation.
    check_hounsfield(found.ct)
    check_slices(found.ct)
    segmenter = tools.segmenter
    assert segmenter is not None
    with found.timed("segment"):
        segmentation = segmenter.segment(found.ct, lambda stage, fraction: None)
    found.notes = segmentation.notes
    _take_level(found, mask_source.judge(found.ct, segmentation, Decision()))


def _take_level(found: _Found, levels: Levels) -> None:
    assert found.ct is not None
    with found.timed("levels"):
        found.levels, found.view = levels, view_of(found.ct, levels)
    if levels.refusal is not None:
        raise levels.refusal
    found.mask, found.choice = levels.mask, levels.choice


def _as_known(job: BatchJob, tools: Tools, known: CaseOutcome) -> CaseOutcome:
    """Another case's outcome as this one's, with copies of its files. Raises OSError if they are not there."""
    files = case_files.copy(job, tools.out, known.files)
    return replace(known, case_id=job.case_id, files=files, measured={})


def _unanswered(job: BatchJob, tools: Tools, found: _Found, error: Exception) -> CaseOutcome:
    """The outcome for an error. Raises what is not the case's own fault."""
    if isinstance(error, Cancelled):
        raise error
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EACCES:
        error = not_permitted()
    if isinstance(error, InputRefused | UsageError):
        level = dict(found.view.document) if found.view else None
        refusal = InputRefused(error.code, error.message, error.remedy)
        document = report.refusal_document(refusal, level)
        shown = case_files.Shown(levels=found.levels, view=found.view)
        document, files = case_files.write(job, tools.out, tools.settings, document, shown)
        told = (refusal.code, refusal.message, refusal.remedy)
        return CaseOutcome(job.case_id, Status.REFUSED, document, *told, pixels=found.pixels, files=files)
    told_error = worker_errors.explain(error, "case")
    if isinstance(told_error, MissingRequirement) and told_error.code != "out_of_memory":
        raise told_error from error
    message = told_error.message
    if told_error.code == "internal_error":  # what an error says may differ from run to run, its kind does not
        message = FAILED_MESSAGE.format(type(error).__name__)
    code = "read_error" if isinstance(error, OSError) else told_error.code
    return CaseOutcome(
        job.case_id, Status.FAILED, {}, code, message, told_error.remedy, found.pixels, details=told_error.details
    )
