"""The panel itself: binds the page to the presenter and the MRML scene. It computes nothing.

MRML, VTK and the presenter stay on the asyncio loop; files are read in a thread, and the network runs in the
presenter's worker process, so the page answers at all times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from BoneDensityMedConvLib.browser_panel import case_reading, page
from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest, ReadCase
from BoneDensityMedConvLib.browser_panel.image_views import PLANES, ImageViews, quiet_vtk
from medconv.types import InputRefused, MedConvError

POLL_INTERVAL_S = 0.1
READING = "Reading the images…"
_log = logging.getLogger(__name__)


class BrowserPanel:
    """One panel on one scene: made on a running asyncio loop, ended by `close`."""

    def __init__(
        self,
        *,
        first_case: CaseRequest | None,
        title: str,
        presenter_factory: Callable[[Any], Any] | None = None,
        server: Any = None,
    ) -> None:
        from trame.app import get_server
        from trame_slicer.core import SlicerApp

        self.server = server or get_server("bone-density-medconv", client_type="vue3")
        self._state = self.server.state
        self._loop = asyncio.get_running_loop()
        self._slicer = SlicerApp()
        self.scene = self._slicer.scene
        self._first_case = first_case
        self._case_nodes: list[Any] = []
        self._redraw_wanted = False
        self._tasks: set[asyncio.Task[Any]] = set()

        with quiet_vtk():
            self.views = ImageViews(self.server, self._slicer)
        node = self.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "BoneDensityMedConv")
        self.presenter = (presenter_factory or self._default_presenter)(node)
        self.presenter.observe(self._redraw_soon)
        self._state.update(page.initial_state(title))
        self._draw()
        self._bind_actions()
        page.build(self.server, PLANES)
        self.server.controller.on_server_ready.add(self._on_ready)

    def close(self) -> None:
        """End the worker process and free the views."""
        for task in self._tasks:
            task.cancel()
        self.presenter.close()
        self.views.close()

    def _default_presenter(self, node: Any) -> Any:
        from BoneDensityMedConvLib import slice_views
        from BoneDensityMedConvLib.presenter import Presenter

        return Presenter(node, slice_logics=lambda: slice_views.collected_slice_logics(self._slicer.app_logic))

    # What the page shows

    def _redraw_soon(self) -> None:
        """Draw once after the running action, however often the presenter reports a change."""
        if not self._redraw_wanted:
            self._redraw_wanted = True
            self._loop.call_soon(self._redraw)

    def _redraw(self) -> None:
        self._redraw_wanted = False
        with self._state:
            self._draw()

    def _draw(self) -> None:
        view = self.presenter.view_model()
        self._state.view = view
        self._state.tau1 = view["adjustment"]["tau1"]
        self._state.tau2 = view["adjustment"]["tau2"]
        self._state.method = view["adjustment"]["method"]
        self._state.segmenter = view["segmenter"]

    # What the page does

    def _bind_actions(self) -> None:
        for name, action in {
            "analyse": self._analyse,
            "cancel": lambda: self.presenter.cancel(),
            "reset_adjustment": lambda: self.presenter.reset_adjustment(),
            "center_on_l1": self._center_on_l1,
            "show_whole_ct": self.views.fit_planes,
        }.items():
            self.server.trigger(name)(self._safely(action))
        self.server.trigger("load_sample")(
            lambda: self._start(self._load(case_reading.sample_request, "Getting the sample CT…"))
        )
        self.server.trigger("load_files")(lambda: self._start(self._load(self._requested_case, READING)))

        for variable, setter in {
            "tau1": lambda value: self.presenter.set_tau1(float(value)),
            "tau2": lambda value: self.presenter.set_tau2(float(value)),
            "method": lambda value: self.presenter.set_method(str(value)),
            "segmenter": lambda value: self.presenter.set_segmenter(str(value)),
        }.items():
            self._bind_choice(variable, setter)

    def _bind_choice(self, variable: str, setter: Callable[[Any], None]) -> None:
        """Hand what the person chose to the presenter, but not what the presenter itself put on the page."""

        def on_change(**state: Any) -> None:
            view = self.presenter.view_model()
            shown = view["segmenter"] if variable == "segmenter" else view["adjustment"][variable]
            if state[variable] != shown:
                self._safely(setter)(state[variable])
                self._redraw_soon()

        self._state.change(variable)(on_change)

    def _safely(self, action: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            try:
                action(*arguments)
            except Exception as error:  # noqa: BLE001 - the page must outlive any error; it is shown and logged
                self._show_error(error)

        return run

    def _show_error(self, error: Exception) -> None:
        with self._state:
            self._state.load_message = error_message(error)

    def _analyse(self) -> None:
        self._state.load_message = None
        self.presenter.analyse()
        self._start(self._poll_while_busy())

    async def _poll_while_busy(self) -> None:
        while self.presenter.poll():
            await asyncio.sleep(POLL_INTERVAL_S)
        self._redraw_soon()

    def _center_on_l1(self) -> None:
        if self.presenter.view_model()["segment_name"]:
            self.presenter.center_on_l1()
        self.views.frame_three_d()
        self.views.render()

    def _start(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - as in _safely
                self._show_error(error)

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_ready(self, **_: Any) -> None:
        if self._first_case is not None:
            request = self._first_case
            self._start(self._load(lambda: request, READING))

    # Loading

    def _requested_case(self) -> CaseRequest:
        state = self._state
        return case_reading.request_from_form(
            state.ct_path, state.mask_path, state.label_map, state.label_number, state.series
        )

    async def _load(self, make_request: Callable[[], CaseRequest], stage: str) -> None:
        """Read a case in a thread, then put it into the scene in place of the one before."""
        if self._state.loading or self.presenter.view_model()["busy"]:
            return
        with self._state:
            self._state.update({"loading": stage, "load_message": None})
        try:
            request = await self._loop.run_in_executor(None, make_request)
            self._show_case(await self._loop.run_in_executor(None, case_reading.read_case, request))
        except InputRefused as refusal:
            if refusal.code == "several_series":
                choices = await self._loop.run_in_executor(None, case_reading.series_choices, request.ct_path)
                self._state.update({"series_list": choices, "series": choices[0]["id"]})
                raise InputRefused(refusal.code, refusal.message, "Choose one under 'DICOM series'.") from refusal
            raise
        finally:
            with self._state:
                self._state.loading = ""

    def _show_case(self, case: ReadCase) -> None:
        from BoneDensityMedConvLib import segments

        self._remove_case()
        ct = segments.add_ct(self.scene, case.ct, case.name)
        ct.SetName(case.name)  # MRML would number the names of cases that are loaded one after the other
        self._case_nodes = [ct]
        # The CT first: the views draw in the order of adding, and a mask that was there before would hide the CT.
        self.views.show(ct)
        segmentation, segment_id = None, ""
        if case.l1 is not None:
            segmentation, segment_id = segments.add_l1(self.scene, case.l1, ct)
            self._case_nodes.append(segmentation)
        self.presenter.set_ct(ct)
        self.presenter.set_segmentation(segmentation, segment_id)
        self.views.fit_planes()
        self._center_on_l1()
        self._state.update({"series_list": [], "series": "", "case_open": case.l1 is None})
        self._state.case_round += 1
        if case.note:
            self._state.load_message = {"severity": "info", "text": case.note, "remedy": ""}

    def _remove_case(self) -> None:
        """Take the CT, its segmentation and the nodes that only serve to display them out of the scene."""
        self.views.show(None)
        self.presenter.set_segmentation(None, "")
        self.presenter.set_ct(None)
        for node in self._case_nodes:
            displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
            for one in [node, *filter(None, displays)]:
                self.scene.RemoveNode(one)
        self._case_nodes = []


def error_message(error: Exception) -> dict[str, str]:
    """An error as the page shows it: cause and remedy. What was not foreseen is logged with its traceback."""
    if isinstance(error, MedConvError):
        return {"severity": "error", "text": error.message, "remedy": error.remedy}
    _log.error("Unexpected error in the panel", exc_info=error)
    return {
        "severity": "error",
        "text": f"Something unforeseen went wrong: {error}",
        "remedy": "Try again; the details are in the terminal that the panel was started from.",
    }
