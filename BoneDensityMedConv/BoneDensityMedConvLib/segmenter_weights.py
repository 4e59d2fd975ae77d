"""TotalSegmentator's weights as the panel tells of them, and their fetching, import and removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medconv.segmenter import TOTALSEGMENTATOR
from medconv.segmenters import weights_store
from medconv.types import MissingRequirement
from medconv.worker_client import Done

if TYPE_CHECKING:  # both rest on the choices, which ask this module what is missing
    from BoneDensityMedConvLib.panel_state import PanelState
    from BoneDensityMedConvLib.work import Work

MEGABYTE = 1e6


def view(chosen: Any) -> dict[str, Any] | None:
    """The `segmenter_weights` of the view model: None unless TotalSegmentator is chosen."""
    if chosen.segmenter != TOTALSEGMENTATOR:
        return None
    found = weights_store.status(chosen.quality)
    everything = weights_store.status(weights_store.ALL)
    return {
        "text": _text(found, chosen.quality),
        "complete": found.complete,
        "can_fetch": not found.complete,
        "fetch_question": (
            f"Download {_count(len(found.missing) + len(found.damaged))} of TotalSegmentator from github.com "
            f"(some hundred megabytes, once) into {found.folder}? Nothing about you or your images is sent."
        ),
        "can_import": True,
        "can_remove": everything.size_bytes > 0,
        "remove_question": (
            f"Delete {everything.size_bytes / MEGABYTE:.0f} MB of TotalSegmentator's weights from {found.folder}? "
            "Other programs on this computer that use TotalSegmentator would have to fetch them again."
        ),
    }


def what_is_missing(quality: str) -> str:
    """Why TotalSegmentator can't run yet, and what to do; "" if its weights are there."""
    found = weights_store.status(quality)
    return "" if found.complete else f"{_text(found, quality)} Fetch or import them."


def fetch(state: PanelState, work: Work) -> None:
    """Fetch what is missing; the panel has asked. Raises MedConvError if it can't be started."""
    quality = state.parameters.quality
    work.start(lambda worker: worker.fetch_weights(quality), lambda done: _tell(state, done), "Fetching weights")


def import_file(state: PanelState, work: Work, path: str) -> None:
    """Import weights from a file or folder. Raises MedConvError if it can't be started."""
    work.start(lambda worker: worker.import_weights(path), lambda done: _tell(state, done), "Importing weights")


def remove(state: PanelState) -> None:
    """Remove all of TotalSegmentator's weights that are used here; the panel has asked. Raises MissingRequirement."""
    try:
        freed = weights_store.remove()
    except OSError as error:
        message = f"The weights can't be removed ({error.strerror or error})."
        raise MissingRequirement("weights_not_removed", message, "Close programs that use them, try again.") from error
    state.say("info", f"{freed / MEGABYTE:.0f} MB of weights were removed.", "")


def _tell(state: PanelState, done: Done) -> None:
    state.say("info", done.text, "Press Analyse." if not what_is_missing(state.parameters.quality) else "")


def _text(found: weights_store.WeightsStatus, quality: str) -> str:
    if found.complete:
        return f"Weights for quality '{quality}' are on this computer ({found.size_bytes / MEGABYTE:.0f} MB)."
    if found.damaged:
        name, wrong = found.damaged[0]
        return f"TotalSegmentator's weights are not whole: in {name}, {wrong}."
    return f"TotalSegmentator's weights for quality '{quality}' are not on this computer."


def _count(networks: int) -> str:
    return "one network" if networks == 1 else f"{networks} networks"
