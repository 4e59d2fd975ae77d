"""A trained run, or an exported weight file, answers the cases of a cohort: the sample that evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medconv import weights
from medconv.config import CLASS_ORDER, ModelCard
from medconv.training.cohorts.cases import Cohort, LabelledCase
from medconv.training.cohorts.crops import CropSet
from medconv.training.figures.baseline import HuCases, HuReader, can_be_fitted, cross_fitted_hu_readers, hu_readers
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.sample import Sample
from medconv.training.runs.export import FinishedRun
from medconv.training.runs.readout import as_predictions, network_logits, read_out

# Upper ends, in mm, of the sub-groups of slice thickness.
THICKNESS_MM: Sequence[tuple[float, str]] = ((1.25, "up to 1.25 mm"), (2.5, "1.25 to 2.5 mm"), (5.0, "2.5 to 5 mm"))
FITTED_ON_TRAINING = "Fitted on the {n} training patients of the cohort whose HU could be measured."
CROSS_FITTED = (
    "No training patients with HU: each patient's answer comes from a fit on nine tenths of the other patients here."
)


def answers_of_finished_run(finished: FinishedRun, cases: CropSet, split: str, device: str = "cpu") -> Predictions:
    """What a run says of these crops; they must be made with the run's own preprocessing."""
    parts = finished.parts()
    parts.network.to(device)
    parts.head.to(device)
    logits, t_scores = read_out(parts.head, parts.network, cases, finished.settings, device)
    prior = finished.predictions.class_prior
    return as_predictions(split, cases, logits, t_scores, prior, parts.head.tau1_train)


def answers_of_weight_file(card: ModelCard, file: Path, cases: CropSet, split: str, device: str = "cpu") -> Predictions:
    """What an exported network says of these crops. Raises MissingRequirement for a changed or damaged file."""
    logits = network_logits(weights.load_network(card, file).to(device), cases)
    logits = logits[:, [card.class_order.index(c) for c in CLASS_ORDER]]
    prior = tuple(card.class_prior[c] for c in CLASS_ORDER)
    return as_predictions(split, cases, logits, np.full(len(cases), np.nan), prior, card.tau1_train)


def sample_of(cohort: Cohort, predictions: Predictions) -> Sample:
    """The predictions with patients and sub-groups, as the cohort knows them."""
    known = {case.case_id: case for case in cohort.cases}
    cases = [known[case_id] for case_id in predictions.case_ids]
    truth = cohort.truth or {}
    kvp = ["" if np.isnan(v) else f"{v:g} kVp" for v in predictions.kvp.tolist()]
    groups: Mapping[str, tuple[str, ...]] = {
        "Slice thickness": tuple(_thickness(case, truth.get(case.case_id, {})) for case in cases),
        "Tube voltage": tuple(kvp),
        "Contrast": tuple(str(truth.get(case.case_id, {}).get("scan_phase", "")) for case in cases),
        "Kernel": tuple(str(truth.get(case.case_id, {}).get("scan_kernel", "")) for case in cases),
        "Scanner": tuple(case.scanner or "" for case in cases),
    }
    return Sample(
        predictions=predictions,
        patients=tuple(case.patient_id for case in cases),
        reference=_reference(cohort),
        cohort=cohort.name,
        groups={name: values for name, values in groups.items() if len(set(values) - {""}) > 1},
        model=cohort.model,
    )


def readers_for(sample: Sample, training: CropSet | None) -> tuple[dict[str, HuReader] | None, str]:
    """HU readers with answers for the sample, and how they were fitted in words; None where HU is not known."""
    p = sample.predictions
    if training is not None:
        fitted_on = HuCases(training.median_hu, training.kvp, training.classes)
        if can_be_fitted(fitted_on):
            n = int(np.isfinite(training.median_hu).sum())
            return hu_readers(fitted_on, p.median_hu, p.kvp), FITTED_ON_TRAINING.format(n=n)
    own = HuCases(p.median_hu, p.kvp, p.classes)
    if not can_be_fitted(own):
        return None, ""
    return cross_fitted_hu_readers(own, sample.patients), CROSS_FITTED


def _reference(cohort: Cohort) -> str:
    return "simulated T-score" if cohort.model is not None else f"{cohort.reference} T-score"


def _thickness(case: LabelledCase, truth: Mapping[str, object]) -> str:
    """The sub-group of a case: by the simulator's sheet, else by the distance of the slices in the file's header."""
    told = truth.get("scan_slice_thickness_mm")
    thickness = float(str(told)) if told not in (None, "") else _slice_distance_mm(case.ct)
    if thickness is None:
        return ""
    return next((name for end, name in THICKNESS_MM if thickness <= end + 1e-3), "over 5 mm")


def _slice_distance_mm(ct: Path) -> float | None:
    """The largest voxel edge of a file, from its header alone; None for a DICOM folder or an unreadable file."""
    import SimpleITK as sitk

    if not ct.is_file():
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(ct))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return float(max(reader.GetSpacing()[:3]))
