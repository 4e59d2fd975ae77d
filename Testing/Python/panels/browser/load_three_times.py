"""Load a case three times over: `python load_three_times.py CT MASK` prints the counts of nodes after each time."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from scripted_presenter import ScriptedPresenter

from BoneDensityMedConvLib.browser_panel import create_app
from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest, read_case

KINDS = (
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLScalarVolumeDisplayNode",
    "vtkMRMLSegmentationDisplayNode",
)


async def counts(ct: str, mask: str) -> list[list[int]]:
    """Nodes of each kind, and all nodes, after each of three loads."""
    panel = create_app(presenter=ScriptedPresenter)
    case = read_case(CaseRequest(Path(ct), Path(mask), 31))
    found = []
    for _ in range(3):
        panel.cases.show(case)
        found.append([*map(panel.scene.GetNumberOfNodesByClass, KINDS), panel.scene.GetNumberOfNodes()])
    panel.close()
    return found


print(json.dumps(asyncio.run(counts(*sys.argv[1:]))))
