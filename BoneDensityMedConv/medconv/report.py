"""The answer as a document: result.json, the same for an answer and for a refusal."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from medconv import RESEARCH_USE_ONLY, __version__
from medconv.level_report import level_document
from medconv.types import InputRefused, Prediction, QualityNote

SCHEMA_FILE = "result.schema.json"


def result_document(prediction: Prediction, level: dict[str, Any] | None = None) -> dict[str, Any]:
    """The document of result.json for an answer: plain JSON types, no identity, no path.

    level: what `level_report.level_document` made of the segmentation; without it, what the prediction itself knows.
    """
    case, adjustment = prediction.case, prediction.adjustment
    x, y, z = case.center_lps_mm
    return {
        **_frame("ok"),
        "t_score_class": str(prediction.t_score_class),
        "probabilities": {str(c): p for c, p in prediction.probabilities.items()},
        "logits": {str(c): logit for c, logit in prediction.logits.items()},
        "prediction_set": [str(c) for c in prediction.prediction_set] or None,
        "adjustment": {"method": adjustment.method, "tau1": adjustment.tau1, "tau2": adjustment.tau2},
        "attenuation": vars(prediction.attenuation).copy(),
        "l1": {
            "volume_ml": case.volume_ml,
            "center_ras_mm": [-x, -y, z],
            "touches_border": case.touches_border,
        },
        "level": level or (level_document(case.level) if case.level else None),
        "quality": notes_document(prediction.quality),
        "model": vars(prediction.model).copy(),
        "device": prediction.device,
        "runtime": prediction.runtime,
        "timing_s": dict(prediction.timing_s),
    }


def refusal_document(refusal: InputRefused, level: dict[str, Any] | None = None) -> dict[str, Any]:
    """The document of result.json for an input that was refused; `level` as in `result_document`."""
    return {
        **_frame("refused"),
        "level": level,
        "refusal": {"code": refusal.code, "message": refusal.message, "remedy": refusal.remedy},  # no details
    }


def notes_document(notes: tuple[QualityNote, ...]) -> list[dict[str, str]]:
    """Quality notes as plain JSON types."""
    return [{"code": n.code, "severity": str(n.severity), "message": n.message} for n in notes]


def schema() -> dict[str, Any]:
    """The JSON schema of result.json (JSON Schema 2020-12)."""
    document: dict[str, Any] = json.loads(files("medconv").joinpath(SCHEMA_FILE).read_text("utf-8"))
    return document


def _frame(status: str) -> dict[str, Any]:
    return {
        "research_use": RESEARCH_USE_ONLY,
        "status": status,
        "t_score_class": None,
        "probabilities": None,
        "logits": None,
        "prediction_set": None,
        "adjustment": None,
        "attenuation": None,
        "l1": None,
        "level": None,
        "quality": [],
        "refusal": None,
        "model": None,
        "device": None,
        "runtime": None,
        "timing_s": {},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of all that takes part in an answer."""
    found = {"medconv": __version__, "python": platform.python_version()}
    for package in ("numpy", "SimpleITK", "torch"):
        try:
            found[package.lower()] = version(package)
        except PackageNotFoundError:
            continue
    return found
