"""Brings a case onto the page: read in a thread, then put into the scene in place of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from BoneDensityMedConvLib.browser_panel import case_reading
from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest, ReadCase
from medconv.segmenter import DEMONSTRATION, TOTALSEGMENTATOR
from medconv.types import InputRefused

READING = "Reading the images…"
MASK_FILE = "mask file"  # the "request" that made a segmentation which was read: its colours and names are the panel's


class CaseLoader:
    """Loads one case at a time. center: shows L1 in the views once the case is there."""

    def __init__(self, state: Any, scene: Any, views: Any, presenter: Any, center: Callable[[], None]) -> None:
        self._state = state
        self._scene = scene
        self._views = views
        self._presenter = presenter
        self._center_on_l1 = center
        self._nodes: list[Any] = []

    def as_typed(self) -> CaseRequest:
        """The case that the page's form asks for. Raises UsageError."""
        state = self._state
        return case_reading.request_from_form(
            state.ct_path, state.mask_path, state.label_map, state.label_number, state.series
        )

    async def load(self, make_request: Callable[[], CaseRequest], stage: str) -> None:
        """Read a case in a thread, then put it into the scene in place of the one before."""
        if self._state.loading or self._presenter.view_model()["busy"]:
            return
        loop = asyncio.get_running_loop()
        with self._state:
            self._state.update({"loading": stage, "load_message": None})
        try:
            request = await loop.run_in_executor(None, make_request)
            self.show(await loop.run_in_executor(None, case_reading.read_case, request))
        except InputRefused as refusal:
            if refusal.code == "several_series":
                choices = await loop.run_in_executor(None, case_reading.series_choices, request.ct_path)
                self._state.update({"series_list": choices, "series": choices[0]["id"]})
                raise InputRefused(refusal.code, refusal.message, "Choose one under 'DICOM series'.") from refusal
            raise
        finally:
            with self._state:
                self._state.loading = ""

    def show(self, case: ReadCase) -> None:
        """Put a case that was read into the scene, in place of the one before."""
        from BoneDensityMedConvLib import segments, spine_display, spine_segments

        self._remove()
        ct = segments.add_ct(self._scene, case.ct, case.name)
        ct.SetName(case.name)  # MRML would number the names of cases that are loaded one after the other
        self._nodes = [ct]
        # The CT first: the views draw in the order of adding, and a mask that was there before would hide the CT.
        self._views.show(ct)
        segmentation, segment_id = None, ""
        if case.spine is not None:
            segmentation, segment_id = spine_segments.add_spine(case.spine, ct, MASK_FILE), "L1"
            segmentation.GetSegmentation().GetSegment(segment_id).SetColor(*segments.BONE_COLOR)
            spine_display.make_surface(segmentation, segment_id)
        elif case.l1 is not None:
            segmentation, segment_id = segments.add_l1(self._scene, case.l1, ct)
        if segmentation is not None:
            self._nodes.append(segmentation)
        self._presenter.set_ct(ct)
        self._presenter.set_segmentation(segmentation, segment_id)
        if segmentation is None:
            # The network that needs no download knows simulated CTs, and them alone.
            self._presenter.set_segmenter(DEMONSTRATION if case.ct.is_simulated else TOTALSEGMENTATOR)
        self._views.fit_planes()
        self._center_on_l1()
        self._state.update({"series_list": [], "series": "", "case_open": case.l1 is None})
        self._state.case_round += 1
        if case.note:
            self._state.load_message = {"severity": "info", "text": case.note, "remedy": ""}

    def _remove(self) -> None:
        """Take the CT, its segmentation and the nodes that only serve to display them out of the scene."""
        self._views.show(None)
        self._presenter.set_segmentation(None, "")
        self._presenter.set_ct(None)
        for node in [*self._nodes, *self._made_by_the_panel()]:
            displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
            for one in [node, *filter(None, displays)]:
                if one.GetScene() is not None:  # the names of levels go with their segmentation
                    self._scene.RemoveNode(one)
        self._nodes = []

    def _made_by_the_panel(self) -> list[Any]:
        """Segmentations and names of levels that were added since the case was loaded; the scene is the panel's own."""
        made = []
        for kind in ("vtkMRMLSegmentationNode", "vtkMRMLMarkupsFiducialNode"):
            nodes = self._scene.GetNodesByClass(kind)
            nodes.UnRegister(None)
            found = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]
            made += [node for node in found if node not in self._nodes]
        return made
