"""What the bench measures, section by section, in the order in which it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from medconv.bench.figures import Row
from medconv.bench.settings import Say, Settings

Measure = Callable[[Settings, Say], Iterator[Row]]


@dataclass(frozen=True)
class Section:
    """module: in `medconv.bench`, its `measure(settings, say)` yields rows. seconds: what it takes on two cores.

    on_request: done only if it is named, or with --full.
    """

    name: str
    title: str
    module: str
    seconds: float
    quick_seconds: float
    on_request: bool = False


SECTIONS = (
    Section("machine", "This computer", "machine", 14, 6),
    Section("network", "The network's pass, by runtime", "network_passes", 180, 16),
    Section("transformers", "MedConv beside ViT and JointViT", "transformers", 170, 9),
    Section("stages", "From files to the result, stage by stage", "stages", 75, 11),
    Section("training", "Feeding a training", "training_feed", 25, 5),
    Section("growth", "How cost grows with the CT and with the cohort", "growth", 230, 16),
    Section("panel", "From a click to the class", "panel_click", 40, 6),
    Section(
        "segmentation", "Segmentation beside the plain TotalSegmentator", "segmentation", 900, 400, on_request=True
    ),
)
NAMES = tuple(section.name for section in SECTIONS)


def find(name: str) -> Section:
    """The section of that name. Raises KeyError."""
    return {section.name: section for section in SECTIONS}[name]


def run_here(name: str, settings: dict[str, Any], emit: Callable[[object], None]) -> dict[str, Any]:
    """Measure a section; rows and progress go out as they come. For the process that `apart` starts."""
    measure: Measure = import_module(f"medconv.bench.{find(name).module}").measure
    for row in measure(Settings(**settings), lambda stage, done: emit({"say": [stage, done]})):
        emit({"row": row.to_json()})
    return {}
