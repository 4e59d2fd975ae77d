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
from BoneDensityMedConvLib.browser_panel.case_loading import READING, CaseLoader
from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest
from BoneDensityMedConvLib.browser_panel.image_views import PLANES, ImageViews, quiet_vtk
from medconv.types import MedConvError

POLL_INTERVAL_S = 0.1
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
        self._redraw_wanted = False
        self._tasks: set[asyncio.Task[Any]] = set()

        with quiet_vtk():
            self.views = ImageViews(self.server, self._slicer)
        node = self.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "BoneDensityMedConv")
        self.presenter = (presenter_factory or self._default_presenter)(node)
        self.presenter.observe(self._redraw_soon)
        self.cases = CaseLoader(self._state, self.scene, self.views, self.presenter, self._center_on_l1)
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
        options = view["segmenter_options"]
        self._state.quality = options["quality"]
        self._state.nnunet_label_map = options["nnunet_label_map"]
        self._state.insist = options["insist"]
        if view["explanation"]:
            self._state.explanation_visible = view["explanation"]["visible"]
            self._state.explanation_opacity = view["explanation"]["opacity"]
        self._state.second_source = view["second_source"]

    # What the page does

    def _bind_actions(self) -> None:
        for name, action in {
            "analyse": self._working(self._analyse),
            "confirm_level": self._working(lambda: self.presenter.confirm_level()),
            "shift_level": self._working(lambda steps: self.presenter.shift_level(int(steps))),
            "use_instead": self._working(lambda vertebra: self.presenter.use_instead(str(vertebra))),
            "compare_with": self._working(lambda source: self.presenter.compare_with(str(source))),
            "explain": self._working(lambda: self.presenter.explain()),
            "clear_comparison": lambda: self.presenter.clear_comparison(),
            "answer_weights": self._working(self._answer_weights),
            "use_nnunet_folder": lambda: self.presenter.set_nnunet_folder(_as_typed(self._state.nnunet_folder)),
            "cancel": lambda: self.presenter.cancel(),
            "reset_adjustment": lambda: self.presenter.reset_adjustment(),
            "center_on_l1": self._center_on_l1,
            "show_whole_ct": self._show_whole_ct,
        }.items():
            self.server.trigger(name)(self._safely(action))
        self.server.trigger("load_sample")(
            lambda: self._start(self.cases.load(case_reading.sample_request, "Getting the sample CT…"))
        )
        self.server.trigger("load_files")(lambda: self._start(self.cases.load(self.cases.as_typed, READING)))

        for variable, setter in {
            "tau1": lambda value: self.presenter.set_tau1(float(value)),
            "tau2": lambda value: self.presenter.set_tau2(float(value)),
            "method": lambda value: self.presenter.set_method(str(value)),
            "segmenter": lambda value: self.presenter.set_segmenter(str(value)),
            "quality": lambda value: self.presenter.set_quality(str(value)),
            "nnunet_label_map": lambda value: self.presenter.set_nnunet_label_map(str(value)),
            "insist": lambda value: self.presenter.set_insist(bool(value)),
            "explanation_visible": lambda value: self.presenter.set_explanation_visible(bool(value)),
            "explanation_opacity": lambda value: self._set_explanation_opacity(float(value)),
            "second_source": lambda value: self.presenter.set_second_source(str(value)),
        }.items():
            self._bind_choice(variable, setter)

    def _bind_choice(self, variable: str, setter: Callable[[Any], None]) -> None:
        """Hand what the person chose to the presenter, but not what the presenter itself put on the page."""

        def on_change(**state: Any) -> None:
            view = self.presenter.view_model()
            chosen = {name: view[name] for name in ("segmenter", "second_source")}
            explanation = view["explanation"] or {}
            chosen |= {f"explanation_{name}": explanation.get(name) for name in ("visible", "opacity")}
            shown = {**view["adjustment"], **view["segmenter_options"], **chosen}
            if state[variable] != shown[variable]:
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

    def _working(self, action: Callable[..., None]) -> Callable[..., None]:
        """An action that may start work in the presenter's worker, and the polling that follows it."""

        def run(*arguments: Any) -> None:
            self._state.load_message = None
            action(*arguments)
            self._start(self._poll_while_busy())

        return run

    def _analyse(self) -> None:
        self.presenter.analyse()
        if self.presenter.view_model()["busy"] and self._state.case_open:
            # Room for the progress, the level and the result.
            self._state.update({"case_open": False, "case_round": self._state.case_round + 1})

    def _set_explanation_opacity(self, opacity: float) -> None:
        self.presenter.set_explanation_opacity(opacity)
        self.views.render()  # a view notices another volume over the CT by itself, but no other opacity

    def _answer_weights(self, question: str) -> None:
        """What the reader said yes to."""
        if question == "fetch":
            self.presenter.fetch_weights()
        elif question == "remove":
            self.presenter.remove_weights()
        elif question == "import":
            self.presenter.import_weights(_as_typed(self._state.weights_path))

    async def _poll_while_busy(self) -> None:
        while self.presenter.poll():
            await asyncio.sleep(POLL_INTERVAL_S)
        self._redraw_soon()

    def _center_on_l1(self) -> None:
        from BoneDensityMedConvLib import level_labels

        level_labels.make_small(self.scene, False)
        if self.presenter.view_model()["segment_name"]:
            self.presenter.center_on_l1()
        self.views.frame_three_d()
        self.views.render()

    def _show_whole_ct(self) -> None:
        from BoneDensityMedConvLib import level_labels

        self.views.fit_planes()
        level_labels.make_small(self.scene)
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
            self._start(self.cases.load(lambda: request, READING))


def _as_typed(text: str) -> str:
    return str(case_reading.path_as_typed(text))


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
