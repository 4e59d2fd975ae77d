"""Fixtures of the MRML tests: a real scene on slicer-core without a window, phantoms in it, and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import slicer
from core.conftest import only_untrained, untrained_card, untrained_weights  # noqa: F401
from core.phantom import Phantom, grid, phantom
from core.spine_phantom import segmentation_of, spine_phantom
from mrml.fake_worker import FakeWorker

from BoneDensityMedConvLib import segments
from BoneDensityMedConvLib.presenter import Presenter
from medconv.types import SpineSegmentation


@dataclass
class Headless:
    """A scene with the logics that Slicer would give it."""

    scene: Any
    application_logic: Any
    segmentations_logic: Any

    def add(self, node_class: str, name: str = "") -> Any:
        return self.scene.AddNewNodeByClass(node_class, name)


@pytest.fixture
def headless() -> Iterator[Headless]:
    scene = slicer.vtkMRMLScene()
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    application_logic.GetColorLogic().SetMRMLScene(scene)
    application_logic.GetColorLogic().AddDefaultColorNodes()
    # Registers the conversions between surfaces and labelmaps, and the segmentation nodes.
    segmentations_logic = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations_logic.SetMRMLApplicationLogic(application_logic)
    segmentations_logic.SetMRMLScene(scene)
    markups_logic = slicer.vtkSlicerMarkupsLogic()
    application_logic.SetModuleLogic("Markups", markups_logic)
    markups_logic.SetMRMLApplicationLogic(application_logic)
    markups_logic.SetMRMLScene(scene)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    yield Headless(scene, application_logic, segmentations_logic)
    scene.Clear(True)


@pytest.fixture
def scene(headless: Headless) -> Any:
    return headless.scene


@pytest.fixture(scope="session")
def vertebra() -> Phantom:
    """The phantom on 2 mm voxels; treat as read-only."""
    return phantom(grid((2.0, 2.0, 2.0)))


@dataclass
class Loaded:
    """The phantom in a scene."""

    case: Phantom
    ct: Any
    segmentation: Any
    segment_id: str


@pytest.fixture
def load(scene: Any) -> Callable[[Phantom], Loaded]:
    def into_scene(case: Phantom) -> Loaded:
        ct = segments.add_ct(scene, case.ct, "CT")
        segmentation, segment_id = segments.add_l1(scene, case.mask, ct)
        return Loaded(case, ct, segmentation, segment_id)

    return into_scene


@pytest.fixture
def loaded(load: Callable[[Phantom], Loaded], vertebra: Phantom) -> Loaded:
    return load(vertebra)


@pytest.fixture
def parameter_node(headless: Headless) -> Any:
    """The node as Slicer's scripted module logic makes it."""
    node = slicer.vtkMRMLScriptedModuleNode()
    node.SetSingletonTag("BoneDensityMedConv")
    node.SetModuleName("BoneDensityMedConv")
    node.SetName("BoneDensityMedConv")
    return headless.scene.AddNode(node)


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def presenter(parameter_node: Any, worker: FakeWorker, only_untrained: Any) -> Iterator[Presenter]:  # noqa: F811
    made = Presenter(parameter_node, worker=worker)
    yield made
    made.close()


@pytest.fixture(scope="session")
def spine() -> Phantom:
    """T11 to L5 with the last ribs and the sacrum; treat as read-only."""
    return spine_phantom()


@pytest.fixture(scope="session")
def found(spine: Phantom) -> SpineSegmentation:
    """What a perfect segmenter finds in it."""
    return segmentation_of(spine)


@pytest.fixture
def spine_ct(scene: Any, spine: Phantom) -> Any:
    """The spine's CT in the scene."""
    return segments.add_ct(scene, spine.ct, "CT")
