"""A mask with many vertebrae, as the browser panel takes it: `python load_spine.py CT MASK` prints JSON lines.

The case is loaded, analysed, compared with a copy of its segmentation, and replaced by itself, twice over.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mrml.fake_worker import FakeWorker

from BoneDensityMedConvLib import spine_segments
from BoneDensityMedConvLib.browser_panel import create_app
from BoneDensityMedConvLib.browser_panel.case_reading import read_case, request_from_form
from BoneDensityMedConvLib.presenter import Presenter


async def main(ct: str, mask: str) -> None:
    """Every step in one process: render windows want one loop and one thread for all their life."""
    worker = FakeWorker()
    panel = create_app(presenter=lambda node: Presenter(node, worker=worker, slice_logics=list))
    presenter = panel.presenter
    case = read_case(request_from_form(ct, mask, "totalsegmentator", 0, None))
    for _ in range(2):
        panel.cases.show(case)
        panel.views.render()
        await asyncio.sleep(0)
        presenter.analyse()
        worker.answers()
        presenter.poll()
        level = worker.jobs[-1]["case"].level
        view = presenter.view_model()
        other = spine_segments.add_spine(case.spine, presenter.parameters.ct, "another source")
        presenter.compare_with(f"scene:{other.GetID()}")
        while presenter.poll():
            pass
        comparison = presenter.view_model()["comparison"]
        tell(
            message=view["message"],
            found=[one["name"] for one in view["levels"]["levels"]],
            statement=view["levels"]["statement"],
            decided_by=level.decided_by,
            has_result=view["result"] is not None,
            compared={row["name"]: row["dice"] for row in comparison["rows"]},
            title=comparison["title"],
            nodes=panel.scene.GetNumberOfNodes(),
        )
    panel.close()


def tell(**facts: Any) -> None:
    """One line of JSON."""
    print(json.dumps(facts), flush=True)


asyncio.run(main(*sys.argv[1:]))
