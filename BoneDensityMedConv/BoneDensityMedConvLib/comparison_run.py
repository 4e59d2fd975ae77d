"""Compare the chosen segmentation with a second one of the same CT: find or make it, measure both, show both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from BoneDensityMedConvLib import (
    comparison,
    level_choice,
    scene,
    segmentation_origin,
    segmentation_run,
    segmenter_choice,
    slice_views,
    spine_display,
    spine_segments,
)
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.work import Span, Work
from medconv import l1_mask, segmentation_comparison, vertebrae
from medconv.segmentation_comparison import StructureComparison
from medconv.types import CTVolume, InputRefused, SpineSegmentation, UsageError, Vector3

SEGMENTING: Span = (0.0, 0.9)
MEASURING: Span = (0.9, 1.0)
COMPARED = (*vertebrae.ORDER, vertebrae.SACRUM)


class ComparisonRun:
    """The second segmentation, from the choice to the figures and the picture; `poll` of `work` brings it forward."""

    def __init__(self, state: PanelState, work: Work, slice_logics: Callable[[], list[Any]]) -> None:
        self._state = state
        self._work = work
        self._slice_logics = slice_logics

    def start(self, choice: str) -> None:
        """choice: an id of `comparison.choices`. Raises MedConvError with what is in the way."""
        chosen = self._state.parameters
        listed = next((entry for entry in comparison.choices(chosen) if entry["id"] == choice), None)
        if listed is None or not listed["available"]:
            raise UsageError("no_comparison", "There is nothing to compare with.", listed["reason"] if listed else "")
        first = chosen.segmentation
        if choice.startswith(comparison.IN_SCENE):
            second = chosen.ct.GetScene().GetNodeByID(choice.removeprefix(comparison.IN_SCENE))
            self._measure(first, second, (0.0, 1.0))
            return
        request = segmenter_choice.request(chosen, choice)
        second = segmentation_run.present(chosen.ct, request)
        if second is None:
            segmentation_run.start(
                chosen.ct, request, self._work, lambda new: self._measure(first, new, MEASURING), SEGMENTING
            )
        else:
            self._measure(first, second, (0.0, 1.0))

    def clear(self) -> None:
        """Back to the chosen segmentation alone."""
        forget(self._state)
        chosen = self._state.parameters
        levels = level_choice.kept(chosen)
        if levels is not None and chosen.segmentation is not None:
            spine_display.show(chosen.segmentation, levels, self._slice_logics())

    def show(self) -> None:
        """Both segmentations as outlines in two colours, centred on the vertebra that is measured."""
        chosen = self._state.parameters
        first, second = chosen.comparisonFirst, chosen.comparisonSecond
        for node, color in ((first, comparison.FIRST_COLOR), (second, comparison.SECOND_COLOR)):
            spine_display.show_in_one_color(node, color)
        slice_views.use_bone_window(chosen.ct)
        slice_views.show_planes(self._slice_logics(), chosen.ct, self._center_ras_mm())

    def _center_ras_mm(self) -> Vector3:
        chosen = self._state.parameters
        levels = level_choice.kept(chosen)
        if levels is not None and levels.measured is not None:
            return levels.measured.center_ras_mm
        mask = scene.segment_mask(chosen.segmentation, chosen.segmentId, scene.ct_volume(chosen.ct))
        x, y, z = l1_mask.center_lps_mm(mask)
        return -x, -y, z

    def _measure(self, first: Any, second: Any, span: Span) -> None:
        """Measure one structure after the other, so that the window stays alive."""
        if first is None or first.GetScene() is None:
            raise InputRefused("segmentation_gone", "The first segmentation is no longer there.", "Analyse again.")
        self._work.start_steps(self._steps(first, second), "Comparing", span)

    def _steps(self, first: Any, second: Any) -> Iterator[tuple[str, float]]:
        chosen = self._state.parameters
        ct = scene.ct_volume(chosen.ct)
        levels = level_choice.kept(chosen)
        measured = levels.used_as if levels else "L1"
        used_as = levels.shown_as() if levels else {}
        one = _named_as_used(_read(first, chosen.segmentId, ct), used_as)
        other = _read(second, "", ct)
        rows: list[StructureComparison] = []
        mine = {used_as.get(name, name) for name in spine_segments.found_structures(first)}
        named = mine | set(spine_segments.found_structures(second))
        names = [name for name in COMPARED if name in named]
        for number, name in enumerate(names):
            yield f"Comparing {name}", number / len(names)
            rows += segmentation_comparison.compare_segmentations(one, other, [name])
        titles = [_title(node) for node in (first, second)]
        view = comparison.document(titles[0], titles[1], rows, measured)
        self._state.write(**comparison.fields(chosen, first, second, view))
        self.show()


def forget(state: PanelState) -> None:
    """Let the comparison go: each segmentation in its own colours again, only the chosen one shown."""
    chosen = state.parameters
    first, second = chosen.comparisonFirst, chosen.comparisonSecond
    for node in (first, second):
        if node is not None:
            spine_display.clear_one_color(node)
            if node is not chosen.segmentation:
                node.SetDisplayVisibility(False)
    state.write(look=False, **comparison.NOTHING)


def _read(node: Any, preferred_id: str, ct: CTVolume) -> SpineSegmentation:
    found = spine_segments.read_spine(node, ct, preferred_id)
    if found is None:
        name = node.GetName()
        message = f"No segment of '{name}' names a vertebra in this CT."
        raise InputRefused("no_vertebra_named", message, "Name its segments, for instance L1, or tag them.")
    return segmentation_comparison.without_specks(found)


def _named_as_used(found: SpineSegmentation, used_as: dict[str, str]) -> SpineSegmentation:
    """Names after the reader's relabel: compared is what the answer rests on."""
    return replace(found, names={label: used_as.get(name, name) for label, name in found.names.items()})


def _title(node: Any) -> str:
    if segmentation_origin.is_made_here(node):
        return segmentation_origin.segmenter_name(segmentation_origin.origin_of(node).segmenter)
    return str(node.GetName())
