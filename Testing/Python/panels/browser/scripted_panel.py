"""The panel on a scripted presenter, as a program of its own: `python scripted_panel.py [CT MASK LABEL]`.

Standard input, one JSON object a line: changes of the view model. Standard output: the panel's own line with its
address, then one JSON list for each call that the page made.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from scripted_presenter import ScriptedPresenter

from BoneDensityMedConvLib.browser_panel import create_app
from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest
from BoneDensityMedConvLib.browser_panel.serving import serve_until_stopped


class TalkingPresenter(ScriptedPresenter):
    """Tells each call on standard output and takes changes of the view from standard input."""

    def __init__(self, node: Any) -> None:
        super().__init__(node)
        self.calls = PrintedCalls()
        self._unfinished = b""
        asyncio.get_running_loop().add_reader(0, self._read)

    def _read(self) -> None:
        # Not by readline: lines that wait in its buffer would not call a reader again.
        arrived = os.read(0, 1 << 20)
        if not arrived:
            asyncio.get_running_loop().remove_reader(0)
        *lines, self._unfinished = (self._unfinished + arrived).split(b"\n")
        for line in lines:
            self.show(**json.loads(line))


class PrintedCalls(list[tuple[Any, ...]]):
    """Prints what is appended; nodes by their names."""

    def append(self, call: tuple[Any, ...]) -> None:
        super().append(call)
        if call[0] != "poll":
            print(json.dumps([getattr(part, "GetName", lambda part=part: part)() for part in call]), flush=True)


def main(arguments: list[str]) -> int:
    request = None
    if arguments:
        ct, mask, label = arguments
        request = CaseRequest(Path(ct), Path(mask), int(label))
    return serve_until_stopped(
        lambda: create_app(first_case=request, presenter=TalkingPresenter),
        host="127.0.0.1",
        port=0,
        open_browser=False,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
