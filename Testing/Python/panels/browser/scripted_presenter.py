"""A presenter that shows what a test writes down and records what the page asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from panels.scripted_presenter import MODEL

SEGMENTATION_KEYS = (
    "segmenter_options", "segmenter_weights", "levels", "comparison", "compare_choices", "second_source",
    "can_compare", "explanation", "can_explain",
)  # fmt: skip


def empty_view() -> dict[str, Any]:
    """The view model before anything was chosen, with one segmenter missing."""
    return {
        "research_use": "Research use only.",
        "demonstration": "trained on simulated CT: demonstration only",
        "simulated_ct": "",
        "segmenters": [
            {"id": "existing", "label": "An existing segment", "available": True, "reason": ""},
            {"id": "totalsegmentator", "label": "TotalSegmentator", "available": False, "reason": "Not installed."},
        ],
        "segmenter": "existing",
        "ct_name": "",
        "segment_name": "",
        "can_analyse": False,
        "hint": "Choose a CT.",
        "busy": False,
        "stage": "",
        "fraction": 0.0,
        "message": None,
        "adjustment": {
            "method": "log_prior",
            "methods": [
                {"id": "log_prior", "label": "Prior shift", "help": "Help on the prior shift."},
                {"id": "temperature", "label": "Temperature", "help": "Help on temperature."},
            ],
            "tau1": 1.0,
            "tau2": 0.5,
            "tau1_enabled": False,
            "tau2_enabled": True,
            "tau1_note": "τ1 = 1 belongs to the weights.",
            "tau_minimum": 0.0,
            "tau_maximum": 2.0,
            "tau_step": 0.05,
            "is_default": True,
        },
        "result": None,
        **{key: copy.deepcopy(MODEL[key]) for key in SEGMENTATION_KEYS},
    }


def some_result() -> dict[str, Any]:
    """A result with one note of each severity."""
    return {
        "class_id": "osteopenia",
        "class_name": "Osteopenia",
        "class_label": "Osteopenia (T-score between −2.5 and −1.0)",
        "qualifiers": [],
        "now_line": "Now: Osteopenia.",
        "probabilities": [
            {"id": "normal", "label": "Normal", "value": 0.25},
            {"id": "osteopenia", "label": "Osteopenia", "value": 0.625},
            {"id": "osteoporosis", "label": "Osteoporosis", "value": 0.125},
        ],
        "hu_line": "Trabecular attenuation of L1: 132 HU (mean), 110 HU (median)",
        "l1_line": "L1: 35.6 ml",
        "quality": [
            {"severity": "warning", "message": "Tube voltage unknown."},
            {"severity": "info", "message": "No contrast agent stated."},
        ],
        "model_line": "medconv-slim (1a2b3c4d)",
        "adjustment_line": "log_prior, τ1 = 1, τ2 = 0.5",
    }


class ScriptedPresenter:
    """`view` is shown as it is; `calls` lists (action, arguments). A key of `answers` changes the view when called."""

    def __init__(self, _node: Any) -> None:
        self.view = empty_view()
        self.calls: list[tuple[Any, ...]] = []
        self._observers: list[Callable[[], None]] = []

    def observe(self, callback: Callable[[], None]) -> None:
        self._observers.append(callback)

    def view_model(self) -> dict[str, Any]:
        return self.view

    def show(self, **changes: Any) -> None:
        """Change the view model and report it."""
        self.view = {**self.view, **changes}
        for callback in self._observers:
            callback()

    def poll(self) -> bool:
        self.calls.append(("poll",))
        return bool(self.view["busy"])

    def close(self) -> None:
        self.calls.append(("close",))

    def __getattr__(self, action: str) -> Callable[..., None]:
        if action.startswith("_"):
            raise AttributeError(action)

        def record(*arguments: Any) -> None:
            self.calls.append((action, *arguments))

        return record
