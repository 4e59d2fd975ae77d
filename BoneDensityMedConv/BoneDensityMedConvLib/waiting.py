"""Wait for an analysis while the window stays alive: for scripts and self-tests, never for a panel."""

from __future__ import annotations

import time
from typing import Any

import slicer

PAUSE_S = 0.02


def wait_for_result(presenter: Any, timeout_s: float) -> dict[str, Any]:
    """Poll `presenter` until it is no longer busy; returns `view_model()["result"]`.

    Raises RuntimeError with the presenter's own words if there is no result; after `timeout_s` the analysis is
    cancelled first.
    """
    end = time.monotonic() + timeout_s
    while presenter.view_model()["busy"]:
        if time.monotonic() > end:
            presenter.cancel()
            raise RuntimeError(f"The analysis took more than {timeout_s:g} s and was stopped.")
        presenter.poll()
        slicer.app.processEvents()
        time.sleep(PAUSE_S)
    model = presenter.view_model()
    if model["result"] is None:
        message = model["message"] or {"text": model["hint"], "remedy": ""}
        raise RuntimeError(f"There is no result. {message['text']} {message['remedy']}".strip())
    return dict(model["result"])
