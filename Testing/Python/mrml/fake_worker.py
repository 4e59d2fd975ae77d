"""A worker without a process: the test says what happens next."""

from __future__ import annotations

import copy
from typing import Any

from medconv.explanation import Explanation
from medconv.types import SpineSegmentation
from medconv.worker_client import Done, Event, Explained, Failure, Progress, Result, Segmented

# PAPER_AND_CODE's worked example: prior (0.5, 0.4, 0.1), logits (1, 0, 0).
DOCUMENT: dict[str, Any] = {
    "status": "ok",
    "t_score_class": "normal",
    "probabilities": {"normal": 0.669540, "osteopenia": 0.220306, "osteoporosis": 0.110153},
    "logits": {"normal": 1.0, "osteopenia": 0.0, "osteoporosis": 0.0},
    "adjustment": {"method": "log_prior", "tau1": 1.0, "tau2": 0.5},
    "attenuation": {"mean_hu": 117.4, "median_hu": 101.9, "sd_hu": 60.2, "voxels": 1234, "volume_ml": 5.12},
    "l1": {"volume_ml": 35.61, "center_ras_mm": [-5.7, 111.9, -382.6], "touches_border": False},
    "quality": [
        {"code": "kvp_unknown", "severity": "info", "message": "Tube voltage unknown."},
        {"code": "trained_on_simulated_ct", "severity": "warning", "message": "Said by the banner."},
    ],
    "refusal": None,
    "model": {"name": "untrained", "sha256": "", "trained_on": "nothing: random weights for a test"},
    "device": "cpu",
    "timing_s": {"network": 0.1},
    "versions": {"medconv": "0"},
}


class FakeWorker:
    """Remembers what it was asked, and reports what `next_events` holds."""

    def __init__(self) -> None:
        self.warmed: list[tuple[str | None, str]] = []
        self.jobs: list[dict[str, Any]] = []
        self.explanations: list[dict[str, Any]] = []
        self.segmentations: list[dict[str, Any]] = []
        self.weights_jobs: list[tuple[str, str]] = []
        self.next_events: list[Event] = []
        self.cancelled = 0
        self.closed = 0
        self.refuses_with: Exception | None = None

    def warm(self, weights=None, device="auto") -> None:
        if self.refuses_with is not None:
            raise self.refuses_with
        self.warmed.append((weights, device))

    def analyse(self, case, weights=None, device="auto", adjustment=None) -> None:
        if self.refuses_with is not None:
            raise self.refuses_with
        self.jobs.append({"case": case, "weights": weights, "device": device, "adjustment": adjustment})

    def explain(self, case, weights=None, device="auto") -> None:
        self.explanations.append({"case": case, "weights": weights, "device": device})

    def segment(self, ct, request) -> None:
        if self.refuses_with is not None:
            raise self.refuses_with
        self.segmentations.append({"ct": ct, "request": request})

    def fetch_weights(self, quality, weights_folder="") -> None:
        self.weights_jobs.append(("fetch", quality))

    def import_weights(self, file, weights_folder="") -> None:
        self.weights_jobs.append(("import", str(file)))

    def poll(self) -> list[Event]:
        events, self.next_events = self.next_events, []
        return events

    def cancel(self) -> None:
        self.cancelled += 1
        self.next_events = []

    def close(self) -> None:
        self.closed += 1

    def answers(self, **changes: Any) -> None:
        self.next_events = [Result(copy.deepcopy(DOCUMENT) | changes)]

    def finds(self, segmentation: SpineSegmentation) -> None:
        self.next_events = [Segmented(segmentation)]

    def explains(self, explanation: Explanation) -> None:
        self.next_events = [Explained(explanation)]

    def is_done(self, text: str) -> None:
        self.next_events = [Done(text)]

    def fails(self, code: str, message: str, remedy: str) -> None:
        self.next_events = [Failure(code, message, remedy)]

    def progresses(self, stage: str, fraction: float) -> None:
        self.next_events = [Progress(stage, fraction)]
