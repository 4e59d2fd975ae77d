"""What a panel shows and does: actions and `view_model()`, see docs/decisions/0002. No Qt, no trame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medconv import RESEARCH_USE_ONLY

from BoneDensityMedConvLib import parameters


class Presenter:
    """Drives one analysis on one parameter node.

    `on_change` is called without arguments whenever `view_model()` may have changed; so is every callable given to
    `observe`.
    """

    def __init__(self, parameter_node: Any, on_change: Callable[[], None] | None = None, worker: Any = None) -> None:
        self._observers: list[Callable[[], None]] = [on_change] if on_change else []
        self._worker = worker
        self.parameters = parameters.wrap(parameter_node)

    def observe(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `view_model()` may have changed, until `close`."""
        self._observers.append(callback)

    def set_parameter_node(self, parameter_node: Any) -> None:
        """Work on another node from now on; for the fresh node that Slicer makes after a scene was closed."""
        self.parameters = parameters.wrap(parameter_node)
        self._notify()

    def set_ct(self, node: Any) -> None:
        """Choose the CT: a `vtkMRMLScalarVolumeNode`, or None."""
        self.parameters.ct = node
        self._notify()

    def set_segmentation(self, node: Any, segment_id: str | None = None) -> None:
        """Choose the segmentation and its segment of L1; without an id, the segment tagged or named L1 if any."""
        self.parameters.segmentation = node
        self.parameters.segmentId = segment_id or ""
        self._notify()

    def set_segmenter(self, segmenter: str) -> None:
        """Choose where the mask of L1 comes from."""
        self._notify()

    def analyse(self) -> None:
        """Start the analysis; `poll()` brings it forward."""

    def cancel(self) -> None:
        """Stop the analysis."""

    def poll(self) -> bool:
        """Take up what the worker reported; True while there is more to come."""
        return False

    def set_method(self, method: str) -> None:
        """Choose the post-hoc adjustment."""

    def set_tau1(self, tau1: float) -> None:
        """Set tau1."""

    def set_tau2(self, tau2: float) -> None:
        """Set tau2."""

    def reset_adjustment(self) -> None:
        """Back to the weights' own method and taus."""

    def center_on_l1(self) -> None:
        """Show L1 in the three planes."""

    def close(self) -> None:
        """End the worker and remove every observer."""
        self._observers.clear()

    def view_model(self) -> dict[str, Any]:
        """All that a panel shows; keys as in docs/decisions/0002."""
        return {
            "research_use": RESEARCH_USE_ONLY,
            "demonstration": "",
            "simulated_ct": "",
            "segmenters": [{"id": "existing", "label": "An existing segment", "available": True, "reason": ""}],
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
                "methods": [{"id": "log_prior", "label": "Class prior", "help": ""}],
                "tau1": 1.0,
                "tau2": 1.0,
                "tau1_enabled": False,
                "tau2_enabled": True,
                "tau1_note": "",
                "tau_minimum": 0.0,
                "tau_maximum": 1.5,
                "tau_step": 0.05,
                "is_default": True,
            },
            "result": None,
        }

    def _notify(self) -> None:
        for callback in tuple(self._observers):
            callback()
