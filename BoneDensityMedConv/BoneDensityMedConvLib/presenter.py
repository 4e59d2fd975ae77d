"""What a panel shows and does: actions and `view_model()`, see docs/decisions/0002 and 0004. No Qt, no trame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from BoneDensityMedConvLib import (
    adjustment_choice,
    comparison,
    inputs,
    level_choice,
    level_view,
    segmentation_origin,
    segmenter_choice,
    segmenter_weights,
    slice_views,
    stored_result,
    view_model,
)
from BoneDensityMedConvLib.adjustment_actions import AdjustmentActions
from BoneDensityMedConvLib.case_flow import CaseFlow
from BoneDensityMedConvLib.comparison_run import ComparisonRun
from BoneDensityMedConvLib.explanation_actions import ExplanationActions
from BoneDensityMedConvLib.explanation_run import ExplanationRun
from BoneDensityMedConvLib.model_choice import ModelChoice
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.warm_up import WarmUp
from BoneDensityMedConvLib.work import Work
from medconv import RESEARCH_USE_ONLY
from medconv.segmenter import EXISTING, QUALITIES
from medconv.types import Cancelled, InputRefused
from medconv.worker_client import WorkerClient


class Presenter(AdjustmentActions, ExplanationActions):
    """Drives one case on one parameter node.

    parameter_node: a `vtkMRMLScriptedModuleNode`, or what `parameters.wrap` makes of it.
    on_change: called without arguments whenever `view_model()` may have changed; so is every `observe`d callable.
    worker: replaces the analysis process in tests.
    slice_logics: gives the slice views to arrange; by default those of Slicer's window.
    """

    def __init__(
        self,
        parameter_node: Any,
        on_change: Callable[[], None] | None = None,
        worker: Any = None,
        slice_logics: Callable[[], list[Any]] = slice_views.slicer_slice_logics,
    ) -> None:
        self._work = Work(worker if worker is not None else WorkerClient())
        self._state = PanelState(self._work.stop)
        self._work.failed = self._state.say_error
        self._flow = CaseFlow(self._state, self._work, slice_logics)
        self._comparison = ComparisonRun(self._state, self._work, slice_logics)
        self._explanation = ExplanationRun(self._state, self._work, slice_logics)
        self._models = ModelChoice()
        WarmUp(self._state, self._work)
        if on_change:
            self._state.observe(on_change)
        self.set_parameter_node(parameter_node)

    # Life

    @property
    def parameters(self) -> Any:
        """The typed parameter node."""
        return self._state.parameters

    def observe(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `view_model()` may have changed, until `close`."""
        self._state.observe(callback)

    def set_parameter_node(self, parameter_node: Any) -> None:
        """Work on another node from now on; for the node of a scene that was just closed or loaded."""
        self._models.forget()
        self._state.set_node(parameter_node)

    def close(self) -> None:
        """End the worker and remove every observer."""
        self._state.close()
        self._work.close()

    # Choices

    def set_ct(self, node: Any) -> None:
        """Choose the CT: a `vtkMRMLScalarVolumeNode`, or None."""
        if node is not self.parameters.ct:
            self._state.message = None
            self._state.write(ct=node)

    def set_segmentation(self, node: Any, segment_id: str | None = None) -> None:
        """Choose the segmentation and its segment of L1; without an id, the segment tagged or named L1 if any.

        A person who points at a segment wants that one measured: the source is then the existing segment.
        """
        segment_id = inputs.find_l1(node) if segment_id is None else segment_id
        if node is not self.parameters.segmentation or segment_id != self.parameters.segmentId:
            self._state.message = None
            source = EXISTING if segment_id else self.parameters.segmenter
            self._state.write(segmentation=node, segmentId=segment_id, segmenter=source)

    def set_segmenter(self, segmenter: str) -> None:
        """Choose where the mask of L1 comes from, by an id of `view_model()["segmenters"]`."""
        if segmenter in segmenter_choice.LABELS:
            self._choose(segmenter=segmenter)

    def set_quality(self, quality: str) -> None:
        """Choose TotalSegmentator's quality, by an id of the view model's qualities."""
        if quality in QUALITIES:
            self._choose(quality=quality)

    def set_nnunet_folder(self, folder: str) -> None:
        """Choose the nnU-Net v2 model folder."""
        self._choose(nnunetFolder=str(folder))

    def set_nnunet_label_map(self, label_map: str) -> None:
        """Choose which numbers the nnU-Net model gives: an id of the view model's label maps, or a JSON file."""
        self._choose(nnunetLabelMap=str(label_map))

    def set_insist(self, insist: bool) -> None:
        """Run the demonstration network on a CT that does not look simulated."""
        self._choose(insist=bool(insist))

    # Work

    def analyse(self) -> None:
        """Go as far as possible: segment if need be, check the level, analyse; `poll()` brings it forward."""
        self._models.forget()
        self._begin(self._flow.start, needs=self._hint)

    def cancel(self) -> None:
        """Stop the work; an earlier result stays as it is."""
        if self._work.busy:
            self._work.stop()
            cancelled = Cancelled()
            self._state.say("info", cancelled.message, cancelled.remedy)
            self._state.notify()

    def poll(self) -> bool:
        """Take up what the worker reported; True while there is more to come."""
        if self._work.poll():
            self._state.notify()
        return self._work.busy

    # The level

    def confirm_level(self) -> None:
        """The outlined vertebra is L1, says the reader; the analysis follows at once."""
        self._decide(lambda levels: levels.confirmed())

    def shift_level(self, steps: int) -> None:
        """The vertebra above (+1) or below (-1) is L1, says the reader; the analysis follows at once."""
        self._decide(lambda levels: levels.shifted(steps))

    def use_instead(self, level: str) -> None:
        """Measure T12 or L2 in L1's place; the same once more goes back to L1. The analysis follows at once."""
        if level in level_choice.STAND_INS:
            self._decide(lambda levels: levels.with_instead(level))

    # Comparison

    def set_second_source(self, choice: str) -> None:
        """Choose what the segmentation is compared with, by an id of the view model's `compare_choices`."""
        if choice in [entry["id"] for entry in comparison.choices(self.parameters)]:
            self._choose(secondSource=choice)

    def compare_with(self, choice: str) -> None:
        """Compare with a second segmentation of the same CT, by an id of the view model's `compare_choices`."""
        self.set_second_source(choice)
        self._begin(lambda: self._comparison.start(choice), needs=self._compare_hint)

    def clear_comparison(self) -> None:
        """Back to the chosen segmentation alone."""
        if not self._work.busy:
            self._comparison.clear()
            self._state.notify()

    # Weights of TotalSegmentator; the panel has asked before

    def fetch_weights(self) -> None:
        """Fetch the weights that the chosen quality needs."""
        self._begin(lambda: segmenter_weights.fetch(self._state, self._work))

    def import_weights(self, path: str) -> None:
        """Import weights from a file or folder."""
        self._begin(lambda: segmenter_weights.import_file(self._state, self._work, str(path)))

    def remove_weights(self) -> None:
        """Remove all weights that are used here."""
        self._begin(lambda: segmenter_weights.remove(self._state))

    # Views

    def center_on_l1(self) -> None:
        """Show what is measured in the three planes: CT in a bone window, outlines, names, centred."""
        try:
            (self._comparison if comparison.view(self.parameters) else self._flow).show()
            self._explanation.draw()
        except InputRefused as error:
            self._state.say_error(error, "warning")
            self._state.notify()

    def view_model(self) -> dict[str, Any]:
        """All that a panel shows; keys as in docs/decisions/0002 and 0004."""
        chosen, work = self.parameters, self._work
        card, hint, choices = self._models.in_use(chosen), self._hint(), comparison.choices(chosen)
        second = comparison.second_source(chosen, choices)
        adjustment = adjustment_choice.current(chosen, card) if card else None
        levels = level_view.view(level_choice.kept(chosen), work.busy)
        doubts = levels["doubts"] if levels else []
        return {
            "research_use": RESEARCH_USE_ONLY,
            "demonstration": view_model.demonstration(card, segmentation_origin.is_demonstration(chosen.segmentation)),
            "simulated_ct": inputs.simulated_note(chosen.ct),
            "segmenters": segmenter_choice.list_view(),
            "segmenter": chosen.segmenter,
            "segmenter_options": segmenter_choice.options_view(chosen, second),
            "segmenter_weights": segmenter_weights.view(chosen),
            "ct_name": inputs.ct_name(chosen),
            "segment_name": inputs.segment_name(chosen),
            "can_analyse": not work.busy and not hint,
            "hint": hint,
            "busy": work.busy,
            "stage": work.stage if work.busy else "",
            "fraction": work.fraction if work.busy else 0.0,
            "message": self._state.message,
            "levels": levels,
            "adjustment": view_model.adjustment_view(adjustment, card),
            "result": stored_result.view(chosen, adjustment, [doubt["message"] for doubt in doubts]),
            **self._explanation_view(),
            "comparison": comparison.view(chosen),
            "compare_choices": choices,
            "second_source": second,
            "can_compare": not work.busy and not self._compare_hint() and any(c["available"] for c in choices),
        }

    # Inside

    def _choose(self, **values: Any) -> None:
        """Write a choice, if it is one."""
        if any(getattr(self.parameters, name) != value for name, value in values.items()):
            self._state.message = None
            self._state.write(**values)

    def _begin(self, action: Callable[[], None], needs: Callable[[], str] = lambda: "") -> None:
        """Start work unless there is some; what is missing or goes wrong is told."""
        if self._work.busy:
            return
        self._state.message = None
        missing = needs()
        if missing:
            self._state.say("error", "That can't start yet.", missing)
        else:
            with self._state.telling():
                action()
        self._state.notify()

    def _decide(self, change: Callable[[level_choice.Levels], level_choice.Levels]) -> None:
        self._begin(lambda: self._flow.decide(change))

    def _hint(self) -> str:
        """What is missing before Analyse may be pressed, or ""."""
        return inputs.what_is_missing(self.parameters) or self._models.problem(self.parameters)

    def _compare_hint(self) -> str:
        return comparison.what_is_missing(self.parameters)
