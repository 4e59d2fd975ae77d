"""What a panel shows and does: actions and `view_model()`, see docs/decisions/0002. No Qt, no trame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from BoneDensityMedConvLib import (
    adjustment_choice,
    inputs,
    parameters,
    scene,
    segmenter_choice,
    slice_views,
    stored_result,
    view_model,
)
from BoneDensityMedConvLib.analysis_run import AnalysisRun, Finished
from medconv.worker_client import WorkerClient
from BoneDensityMedConvLib.model_choice import ModelChoice
from BoneDensityMedConvLib.observation import Observations, content_events
from medconv import RESEARCH_USE_ONLY, pipeline
from medconv.config import ModelCard
from medconv.segmenter import EXISTING, QUALITIES
from medconv.types import Adjustment, Cancelled, InputRefused, MedConvError, UsageError

STALE_RESULT = "The CT or the segment has changed since the last analysis, so its result was removed."


class Presenter:
    """Drives one analysis on one parameter node.

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
        self._observers: list[Callable[[], None]] = [on_change] if on_change else []
        self._run = AnalysisRun(worker if worker is not None else WorkerClient())
        self._slice_logics = slice_logics
        self._on_node, self._on_content = Observations(), Observations()
        self._observed: tuple[Any, Any] = (None, None)
        self._writing = False
        self._message: dict[str, str] | None = None
        self._models = ModelChoice()
        self.parameters: Any = None
        self.set_parameter_node(parameter_node)

    # Life

    def observe(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `view_model()` may have changed, until `close`."""
        self._observers.append(callback)

    def set_parameter_node(self, parameter_node: Any) -> None:
        """Work on another node from now on; for the node of a scene that was just closed or loaded."""
        wrapped = parameters.wrap(parameter_node)
        if self.parameters is None or wrapped.parameterNode is not self._node:
            self._run.stop()
            self._on_node.remove()
            self.parameters = wrapped
            self._on_node.add(self._node, [vtk.vtkCommand.ModifiedEvent], self._modified)
            opened, events = self._node.GetScene(), slicer.vtkMRMLScene
            changes = [events.NodeRemovedEvent, events.EndImportEvent, events.EndCloseEvent]
            self._on_node.add(opened, changes, self._scene_changed)
            self._on_node.add(opened, [events.StartCloseEvent], self._run.stop)
            self._message = None
        self._models.forget()
        self._look_again()

    def close(self) -> None:
        """End the worker and remove every observer."""
        self._observers.clear()
        self._on_node.remove()
        self._on_content.remove()
        self._observed = (None, None)
        self._run.close()

    # Choices

    def set_ct(self, node: Any) -> None:
        """Choose the CT: a `vtkMRMLScalarVolumeNode`, or None."""
        if node is not self.parameters.ct:
            self._message = None
            self._write(ct=node)

    def set_segmentation(self, node: Any, segment_id: str | None = None) -> None:
        """Choose the segmentation and its segment of L1; without an id, the segment tagged or named L1 if any."""
        segment_id = inputs.find_l1(node) if segment_id is None else segment_id
        if node is not self.parameters.segmentation or segment_id != self.parameters.segmentId:
            self._message = None
            # A person who points at a segment wants that one measured.
            source = {"segmenter": EXISTING} if segment_id else {}
            self._write(segmentation=node, segmentId=segment_id, **source)

    def set_segmenter(self, segmenter: str) -> None:
        """Choose where the mask of L1 comes from, by an id of `view_model()["segmenters"]`."""
        if segmenter in segmenter_choice.LABELS:
            self._write(segmenter=segmenter)

    def set_quality(self, quality: str) -> None:
        """Choose TotalSegmentator's quality, by an id of the view model's qualities."""
        if quality in QUALITIES:
            self._write(quality=quality)

    def set_nnunet_folder(self, folder: str) -> None:
        """Choose the nnU-Net v2 model folder."""
        self._write(nnunetFolder=str(folder))

    def set_nnunet_label_map(self, label_map: str) -> None:
        """Choose which numbers the nnU-Net model gives: an id of the view model's label maps, or a JSON file."""
        self._write(nnunetLabelMap=str(label_map))

    def set_insist(self, insist: bool) -> None:
        """Run the demonstration network on a CT that does not look simulated."""
        self._write(insist=bool(insist))

    # Work

    def analyse(self) -> None:
        """Judge the CT and the mask now, and start the network in the worker; `poll()` brings it forward."""
        if self._run.busy:
            return
        self._message = None
        self._models.forget()
        hint = self._hint()
        if hint:
            self._say("error", "The analysis can't start yet.", hint)
        else:
            try:
                mask = self._run.start(self.parameters)
                inputs.tag_if_named_l1(self.parameters)
                inputs.show(self.parameters, mask, self._slice_logics())
            except MedConvError as error:
                self._say("error", error.message, error.remedy)
        self._notify()

    def cancel(self) -> None:
        """Stop the analysis; an earlier result stays as it is."""
        if self._run.busy:
            self._run.stop()
            cancelled = Cancelled()
            self._say("info", cancelled.message, cancelled.remedy)
            self._notify()

    def poll(self) -> bool:
        """Take up what the worker reported; True while there is more to come."""
        changed, outcome = self._run.poll()
        if isinstance(outcome, MedConvError):
            self._say("error", outcome.message, outcome.remedy)
        elif outcome is not None:
            self._take(outcome)
        if changed:
            self._notify()
        return self._run.busy

    # Adjustment

    def set_method(self, method: str) -> None:
        """Choose the post-hoc adjustment, by an id of the view model's methods."""
        self._adjust(lambda card: adjustment_choice.with_method(self.parameters, card, method))

    def set_tau1(self, tau1: float) -> None:
        """Move tau1, where the method lets it move."""
        self._adjust(lambda card: adjustment_choice.with_tau1(self.parameters, card, tau1))

    def set_tau2(self, tau2: float) -> None:
        """Move tau2."""
        self._adjust(lambda card: adjustment_choice.with_tau2(self.parameters, card, tau2))

    def reset_adjustment(self) -> None:
        """Back to the weights' own method and taus."""
        self._adjust(lambda card: card.default_adjustment)

    # Views

    def center_on_l1(self) -> None:
        """Show L1 in the three planes: CT in a bone window, outline and light fill, centred."""
        try:
            _, mask = inputs.read(self.parameters)
        except InputRefused as error:
            self._say("warning", error.message, error.remedy)
            self._notify()
            return
        inputs.show(self.parameters, mask, self._slice_logics())

    def view_model(self) -> dict[str, Any]:
        """All that a panel shows; keys as in docs/decisions/0002."""
        chosen, run = self.parameters, self._run
        card = self._models.in_use(chosen)
        adjustment = adjustment_choice.current(chosen, card) if card else None
        hint = self._hint()
        return {
            "research_use": RESEARCH_USE_ONLY,
            "demonstration": pipeline.SIMULATED_NOTE if card and card.simulated_only else "",
            "simulated_ct": inputs.simulated_note(chosen.ct),
            "segmenters": segmenter_choice.list_view(),
            "segmenter": chosen.segmenter,
            "segmenter_options": segmenter_choice.options_view(chosen),
            "segmenter_weights": None,
            "ct_name": inputs.ct_name(chosen),
            "segment_name": inputs.segment_name(chosen),
            "can_analyse": not run.busy and not hint,
            "hint": hint,
            "busy": run.busy,
            "stage": run.stage if run.busy else "",
            "fraction": run.fraction if run.busy else 0.0,
            "message": self._message,
            "adjustment": view_model.adjustment_view(adjustment, card),
            "result": stored_result.view(chosen, adjustment),
            "levels": None,
            "comparison": None,
            "compare_choices": [],
            "can_compare": False,
        }

    # Inside

    @property
    def _node(self) -> Any:
        return self.parameters.parameterNode

    def _take(self, finished: Finished) -> None:
        chosen = self.parameters
        refusal = finished.document.get("refusal")
        if refusal:
            self._say("error", refusal["message"], refusal["remedy"])
        elif not inputs.still_same(chosen, finished.fingerprint):
            self._say("warning", "The CT or the segment changed while the analysis ran.", "Analyse again.")
        else:
            kept = stored_result.fields(chosen, finished.document, finished.card, finished.fingerprint)
            if chosen.adjustmentIsDefault:
                kept |= adjustment_choice.fields(finished.card.default_adjustment, finished.card)
            self._write(**kept)

    def _hint(self) -> str:
        """What is missing before Analyse may be pressed, or ""."""
        return inputs.what_is_missing(self.parameters) or self._models.problem(self.parameters)

    def _adjust(self, choose: Callable[[ModelCard], Adjustment]) -> None:
        card = self._models.in_use(self.parameters)
        if card is None:
            return
        try:
            wanted = choose(card)
            if wanted != adjustment_choice.current(self.parameters, card):
                self._message = None
                self._write(look=False, **adjustment_choice.fields(wanted, card))
        except UsageError as error:
            self._say("warning", error.message, error.remedy)
            self._notify()

    def _write(self, look: bool = True, **values: Any) -> None:
        """Write fields as one change; `look` checks whether the result still belongs to the inputs."""
        self._writing = True
        was_modifying = self._node.StartModify()
        try:
            for name, value in values.items():
                setattr(self.parameters, name, value)
        finally:
            self._node.EndModify(was_modifying)
            self._writing = False
        if look:
            self._look_again()
        else:
            self._notify()

    def _look_again(self) -> None:
        """Watch the chosen nodes, drop a result that is not theirs, and tell the panel."""
        chosen = self.parameters
        now = (chosen.ct, chosen.segmentation)
        if now != self._observed:
            self._on_content.remove()
            for node in now:
                self._on_content.add(node, content_events(node), self._modified)
            self._observed = now
        if stored_result.is_stale(chosen):
            self._say("info", STALE_RESULT, "Analyse again.")
            self._write(look=False, **stored_result.NOTHING)
        else:
            self._notify()

    def _modified(self) -> None:
        if not self._writing and not scene.is_changing(self._node.GetScene()):
            self._look_again()

    def _scene_changed(self) -> None:
        if self._node.GetScene() is None:
            # The node was removed: an unattached one serves until the panel brings the new scene's.
            self.set_parameter_node(slicer.vtkMRMLScriptedModuleNode())
        elif not scene.is_changing(self._node.GetScene()):
            self._look_again()

    def _say(self, severity: str, text: str, remedy: str) -> None:
        self._message = {"severity": severity, "text": text, "remedy": remedy}

    def _notify(self) -> None:
        for callback in tuple(self._observers):
            callback()
