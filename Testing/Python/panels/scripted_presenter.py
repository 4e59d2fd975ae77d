"""A presenter that says what a test tells it and remembers what a panel asks of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

METHODS = [
    {"id": "log_prior", "label": "Prior shift", "help": "Takes class frequencies out."},
    {"id": "temperature", "label": "Temperature", "help": "Sharpens a class."},
]
RESULT: dict[str, Any] = {
    "class_id": "osteopenia",
    "class_name": "Osteopenia",
    "class_label": "Osteopenia (T-score between −2.5 and −1)",
    "qualifiers": [],
    "now_line": "Now: Osteopenia. Normal 20.0 %, osteopenia 65.4 %, osteoporosis 14.6 %",
    "probabilities": [
        {"id": "normal", "label": "Normal", "value": 0.2},
        {"id": "osteopenia", "label": "Osteopenia", "value": 0.6543},
        {"id": "osteoporosis", "label": "Osteoporosis", "value": 0.1457},
    ],
    "hu_line": "L1 trabecular attenuation: mean 118 HU, median 104 HU, SD 61 HU (2,345 voxels, 8.1 ml)",
    "l1_line": "L1: volume 35.6 ml, centre at L 4, P 31, S 120 mm",
    "quality": [
        {"severity": "warning", "message": "kVp unknown: no correction for tube voltage."},
        {"severity": "info", "message": "L1 as given; its level was not checked."},
    ],
    "model_line": "Weights: medconv-demo, trained on simulated CT",
    "adjustment_line": "Adjustment: Prior shift, tau1 = 1, tau2 = 1; the weights' own setting",
}
MODEL: dict[str, Any] = {
    "research_use": "Research use only. Not a medical device. Not to rule out low bone density.",
    "demonstration": "",
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
        "method": "log_prior", "methods": METHODS, "tau1": 1.0, "tau2": 1.0, "tau1_enabled": False,
        "tau2_enabled": True, "tau1_note": "tau1 belongs to the weights.", "tau_minimum": 0.0, "tau_maximum": 2.0,
        "tau_step": 0.05, "is_default": True,
    },
    "result": None,
    "segmenter_options": {
        "quality": "full",
        "qualities": [
            {"id": "full", "label": "Full", "help": "Finer outline."}, {"id": "fast", "label": "Fast", "help": "3 mm."},
        ],
        "quality_enabled": False,
        "nnunet_folder": "", "nnunet_label_map": "", "nnunet_enabled": False,
        "nnunet_label_maps": [{"id": "", "label": "The folder's own"}, {"id": "verse", "label": "VerSe, CTSpine1K"}],
        "insist": False, "insist_enabled": False, "second_insist_enabled": False,
        "insist_label": "Use it all the same", "demonstration_note": "",
    },
    "segmenter_weights": None,
    "levels": None,
    "explanation": None,
    "can_explain": False,
    "comparison": None,
    "compare_choices": [
        {"id": "demonstration", "label": "Demonstration", "available": True, "reason": ""},
        {"id": "nnunet", "label": "nnU-Net", "available": False, "reason": "Choose its folder first."},
    ],
    "second_source": "demonstration",
    "can_compare": False,
}  # fmt: skip
LEVELS: dict[str, Any] = {
    "line": "Found: T12, L1, L2, L3",
    "levels": [{"name": "L1", "shown_as": "L1", "is_target": True, "volume_ml": 42.0, "center_ras_mm": [0, 0, 0]}],
    "doubtful": True,
    "confirmed": False,
    "doubts": [{"severity": "warning", "message": "Neither rib 12 nor the sacrum is in view."}],
    "question": "Is the outlined vertebra L1?",
    "statement": "L1 is in doubt.",
    "undecided": True,
    "change_label": "Not L1?",
    "can_confirm": True,
    "can_shift_up": True,
    "can_shift_down": False,
    "shift_up_label": "L1 is one higher (called T12)",
    "shift_down_label": "L1 is one lower (called L2)",
    "shift_up_note": "T12 is measured as L1.",
    "shift_down_note": "L2 can't be measured: it is cut by the border of the CT.",
    "alternatives": [],
}
WEIGHTS: dict[str, Any] = {
    "text": "135 MB are missing.",
    "complete": False,
    "can_fetch": True,
    "fetch_question": "Download 135 MB?",
    "can_import": True,
    "can_remove": False,
    "remove_question": "Delete 400 MB?",
}
EXPLANATION: dict[str, Any] = {
    "headline": "The trabecular core of L1 moved the answer most, towards osteoporosis.",
    "rows": [
        {
            "name": "Trabecular core", "effect": "towards osteoporosis, odds × 2.1", "map_share": 0.6,
            "volume_share": 0.25,
        },
        {"name": "Posterior elements", "effect": "hardly", "map_share": 0.4, "volume_share": 0.75},
    ],
    "notes": [],
    "limits": "The map shows what the network used.",
    "legend": [
        {"label": "towards osteoporosis", "color": "#ff4030"}, {"label": "towards normal", "color": "#4088ff"},
    ],
    "visible": True,
    "opacity": 0.6,
}  # fmt: skip
COMPARISON: dict[str, Any] = {
    "title": "TotalSegmentator and demonstration",
    "line": "L1: Dice 0.912",
    "rows": [
        {"name": "L1", "dice": 0.9124, "mean_surface_mm": 0.62, "hausdorff95_mm": 2.04},
        {"name": "T12", "dice": None, "mean_surface_mm": None, "hausdorff95_mm": None},
    ],
    "legend": [{"label": "TotalSegmentator", "color": "#ffb000"}, {"label": "demonstration", "color": "#5aaaff"}],
}


class ScriptedPresenter:
    """`model` is what `view_model()` gives; `asked` lists (action, arguments); `fails` maps actions to exceptions."""

    def __init__(self) -> None:
        self.model = copy.deepcopy(MODEL)
        self.asked: list[tuple[Any, ...]] = []
        self.fails: dict[str, Exception] = {}
        self.parameters = SimpleNamespace(ct=None, segmentation=None, segmentId="")
        self._observers: list[Callable[[], None]] = []

    def observe(self, callback: Callable[[], None]) -> None:
        self._observers.append(callback)

    def view_model(self) -> dict[str, Any]:
        return copy.deepcopy(self.model)

    def show(self, **changes: Any) -> None:
        """Change the model and tell the panel."""
        self.model.update(changes)
        for callback in self._observers:
            callback()

    def adjust(self, **changes: Any) -> None:
        self.show(adjustment={**self.model["adjustment"], **changes})

    def set_ct(self, node: Any) -> None:
        self.parameters.ct = node
        self._record("set_ct", node)

    def set_segmentation(self, node: Any, segment_id: str | None = None) -> None:
        self.parameters.segmentation, self.parameters.segmentId = node, segment_id or self.l1_of(node)
        self._record("set_segmentation", node, segment_id)

    def l1_of(self, node: Any) -> str:
        """The segment that the presenter chooses by itself."""
        return "L1" if node is not None and node.GetSegmentation().GetSegment("L1") else ""

    def __getattr__(self, action: str) -> Callable[..., None]:
        if action.startswith("_"):
            raise AttributeError(action)
        return lambda *arguments: self._record(action, *arguments)

    def _record(self, action: str, *arguments: Any) -> None:
        self.asked.append((action, *arguments))
        if action in self.fails:
            raise self.fails[action]
        self.show()
