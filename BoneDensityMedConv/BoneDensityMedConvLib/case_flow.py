"""From one press of Analyse to the result: segment if need be, check the level, ask if it is in doubt, analyse.

A press goes as far as it can. With an automatic source the CT is segmented unless the scene holds what the same source
made of it; then the level is checked. If it is certain, or a person has answered, the analysis follows at once: after
an answer (`decide`) as after a press. What is in the way is a message or, of the level, the question that `level_view`
words; the next press takes up where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from BoneDensityMedConvLib import (
    analysis_run,
    comparison_run,
    inputs,
    level_choice,
    level_findings,
    segmentation_run,
    segmenter_choice,
    spine_display,
    spine_segments,
    stored_result,
)
from BoneDensityMedConvLib.level_choice import Levels
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.work import Span, Work
from medconv.types import InputRefused, L1Mask

WHOLE: Span = (0.0, 1.0)
SEGMENTING: Span = (0.0, 0.9)  # of one press that does both; the network for L1 alone takes seconds
ANALYSING: Span = (0.9, 1.0)
NOT_THIS_CT = "Another CT was chosen while this one was segmented."


class CaseFlow:
    """The steps of one case; what a person sees of them goes to `state`."""

    def __init__(self, state: PanelState, work: Work, slice_logics: Callable[[], list[Any]]) -> None:
        self._state = state
        self._work = work
        self._slice_logics = slice_logics

    def start(self) -> None:
        """Go as far as possible. Raises MedConvError with what is in the way."""
        chosen = self._state.parameters
        if not segmenter_choice.is_automatic(chosen):
            inputs.tag_if_named_l1(chosen)
            self._judge(WHOLE)
            return
        request = segmenter_choice.request(chosen)
        node = segmentation_run.present(chosen.ct, request)
        if node is None:
            ct_node = chosen.ct
            segmentation_run.start(ct_node, request, self._work, lambda new: self._segmented(ct_node, new), SEGMENTING)
        else:
            self._choose(node)
            self._judge(WHOLE)

    def decide(self, change: Callable[[Levels], Levels]) -> None:
        """Take a person's answer about the level, and go on with it at once. Raises MedConvError."""
        chosen = self._state.parameters
        levels = level_choice.kept(chosen)
        decided = change(levels) if levels is not None else None
        if decided is None or decided == levels:
            return
        target = spine_segments.found_structures(chosen.segmentation).get(decided.target, chosen.segmentId)
        kept = level_choice.fields(chosen, decided) | {"segmentId": target}
        # A result is one of a vertebra under a name: it does not outlive either.
        self._state.write(look=False, **kept, **stored_result.NOTHING)
        self._judge(WHOLE)

    def show(self) -> None:
        """Arrange the views on what is chosen now. Raises MedConvError."""
        chosen = self._state.parameters
        levels = level_choice.kept(chosen)
        if levels is not None and levels.found:
            self._show(levels)
        else:
            self._show_single(inputs.read(chosen)[1])

    def _segmented(self, ct_node: Any, node: Any) -> None:
        """Go on with a new segmentation."""
        if self._state.parameters.ct is not ct_node:
            self._state.say("info", NOT_THIS_CT, "Its segmentation is in the scene; press Analyse for this one.")
            return
        self._choose(node)
        self._work.start_steps(self._judging(), "Checking the level", ANALYSING)

    def _judging(self) -> Iterator[tuple[str, float]]:
        """In a step of its own, so that a window is drawn between the new segmentation and its check."""
        yield "Checking the level", 0.0
        self._judge(ANALYSING)

    def _choose(self, node: Any) -> None:
        """Take a segmentation that was made here as the chosen one."""
        if node is not self._state.parameters.segmentation:
            message = self._state.message
            self._state.write(segmentation=node, segmentId="")
            self._state.message = message  # that an older result went is no news now

    def _judge(self, span: Span) -> None:
        """Check the level of the chosen segmentation; analyse if nothing stands against it, else say what does."""
        chosen = self._state.parameters
        findings = level_findings.read(chosen)
        if findings is None:
            mask = analysis_run.start(
                self._state, self._work, level_findings.of_single_segment(chosen), inputs.level_notes(chosen), span
            )
            self._show_single(mask)
            return
        levels = findings.levels
        ids = spine_segments.found_structures(chosen.segmentation, chosen.segmentId)
        kept = level_choice.fields(chosen, levels) | {"segmentId": ids.get(levels.target, chosen.segmentId)}
        self._state.write(**kept)
        spine_segments.call_as(chosen.segmentation, levels.shown_as())
        self._show(levels)
        try:
            choice = findings.choice()
        except InputRefused:
            self._state.notify()  # the levels themselves say why nothing is measured, and what a person can answer
        else:
            analysis_run.start(self._state, self._work, choice, findings.spine.notes, span)

    def _show_single(self, mask: L1Mask) -> None:
        chosen = self._state.parameters
        spine_display.hide_others(chosen.segmentation, chosen.ct)
        inputs.show(chosen, mask, self._slice_logics())

    def _show(self, levels: Levels) -> None:
        chosen, logics = self._state.parameters, self._slice_logics()
        if chosen.comparisonJson:
            comparison_run.forget(self._state)  # its colours, and after a relabel its names, are no longer right
        spine_display.hide_others(chosen.segmentation, chosen.ct)
        spine_display.frame(levels, chosen.ct, logics)
        spine_display.show(chosen.segmentation, levels, logics)
