"""The parameter node that a presenter works on, the message it shows, and who is told when either changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import slicer
import vtk

from BoneDensityMedConvLib import (
    comparison,
    explanation_view,
    kept_explanation,
    level_choice,
    level_labels,
    parameters,
    scene,
    stored_result,
)
from BoneDensityMedConvLib.observation import Observations, content_events
from medconv import worker_errors
from medconv.types import MedConvError

STALE_RESULT = "The CT or the segment has changed since the last analysis, so its result was removed."


class PanelState:
    """What a panel shows, apart from the work under way.

    stop_work: called when the scene is about to close, or another parameter node is taken.
    """

    def __init__(self, stop_work: Callable[[], None]) -> None:
        self._stop_work = stop_work
        self._observers: list[Callable[[], None]] = []
        self._on_node, self._on_content = Observations(), Observations()
        self._observed: tuple[Any, ...] = ()
        self._writing = False
        self.message: dict[str, str] | None = None
        self.parameters: Any = None

    @property
    def node(self) -> Any:
        """The `vtkMRMLScriptedModuleNode`."""
        return self.parameters.parameterNode

    def observe(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever what the panel shows may have changed, until `close`."""
        self._observers.append(callback)

    def set_node(self, parameter_node: Any) -> None:
        """Work on another node, or read this one anew; `parameter_node` may be wrapped already."""
        wrapped = parameters.wrap(parameter_node)
        if self.parameters is None or wrapped.parameterNode is not self.node:
            self._stop_work()
            self._on_node.remove()
            self.parameters = wrapped
            self._on_node.add(self.node, [vtk.vtkCommand.ModifiedEvent], self._modified)
            opened, events = self.node.GetScene(), slicer.vtkMRMLScene
            changes = [events.NodeRemovedEvent, events.EndImportEvent, events.EndCloseEvent]
            self._on_node.add(opened, changes, self._scene_changed)
            self._on_node.add(opened, [events.StartCloseEvent], self._stop_work)
            self.message = None
        self.look_again()

    def close(self) -> None:
        """Remove every observer."""
        self._observers.clear()
        self._on_node.remove()
        self._on_content.remove()
        self._observed = ()

    def write(self, look: bool = True, **values: Any) -> None:
        """Write fields as one change; `look` checks whether what is kept still belongs to the inputs."""
        self._writing = True
        was_modifying = self.node.StartModify()
        try:
            for name, value in values.items():
                setattr(self.parameters, name, value)
        finally:
            self.node.EndModify(was_modifying)
            self._writing = False
        if look:
            self.look_again()
        else:
            self.notify()

    def look_again(self) -> None:
        """Watch the chosen nodes, drop what is kept but not theirs, and tell the panel."""
        chosen = self.parameters
        now = (chosen.ct, chosen.segmentation, chosen.comparisonFirst, chosen.comparisonSecond)
        explained = chosen.explanation
        if now != self._observed:
            self._on_content.remove()
            for node in now:
                self._on_content.add(node, content_events(node), self._modified)
            self._observed = now
        dropped: dict[str, Any] = {}
        if stored_result.is_stale(chosen):
            self.say("info", STALE_RESULT, "Analyse again.")
            dropped |= stored_result.NOTHING
        if level_choice.is_stale(chosen):
            dropped |= level_choice.NOTHING
        if comparison.is_stale(chosen):
            dropped |= comparison.NOTHING
        if kept_explanation.is_stale(chosen, without_result="resultJson" in dropped):
            dropped |= kept_explanation.NOTHING
        elif explained is not None:
            explanation_view.dress(explained)
        if dropped:
            self.write(look=False, **dropped)
            if "explanation" in dropped:
                kept_explanation.remove(explained)
        else:
            self.notify()

    def say(self, severity: str, text: str, remedy: str) -> None:
        """Show a message until the next action; the panel is told by whoever calls `notify` next."""
        self.message = {"severity": severity, "text": text, "remedy": remedy}

    def say_error(self, error: MedConvError, severity: str = "error") -> None:
        """Show an error's cause and next step."""
        self.say(severity, error.message, " ".join(part for part in (error.remedy, error.details) if part))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What goes wrong inside becomes the message."""
        try:
            yield
        except MedConvError as error:
            self.say_error(error)
        except (OSError, MemoryError) as error:
            self.say_error(worker_errors.not_started(error))

    def notify(self) -> None:
        """Tell every observer."""
        for callback in tuple(self._observers):
            callback()

    def _modified(self) -> None:
        if not self._writing and not scene.is_changing(self.node.GetScene()):
            self.look_again()

    def _scene_changed(self) -> None:
        if self.node.GetScene() is None:
            # The node was removed: an unattached one serves until the panel brings the new scene's.
            self.set_node(slicer.vtkMRMLScriptedModuleNode())
        elif not scene.is_changing(self.node.GetScene()):
            level_labels.remove_orphans(self.node.GetScene())
            self.look_again()
