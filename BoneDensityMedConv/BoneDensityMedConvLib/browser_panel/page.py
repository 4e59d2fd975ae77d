"""The page: its Vue template, its look, and the state that belongs to the page alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from BoneDensityMedConvLib.browser_panel.case_reading import LABEL_MAPS


def initial_state(title: str) -> dict[str, Any]:
    """What the page knows besides the presenter's view model (`view`) and the planes' positions."""
    return {
        "trame__title": title,
        "trame__template_error": _resource("ended.html"),
        "title": title,
        "ct_path": "",
        "mask_path": "",
        "label_map": LABEL_MAPS[0]["id"],
        "label_number": 31,
        "label_maps": LABEL_MAPS,
        "series": "",
        "series_list": [],
        "loading": "",
        "load_message": None,
        # What the reader is typing or has been asked, before the presenter hears of it.
        "asking": "",
        "weights_path": "",
        "nnunet_folder": "",
        "explanation_visible": True,
        "explanation_opacity": 0.0,
        # Each case makes the section of files anew, folded or not; in between, folding it is the reader's own affair.
        "case_open": True,
        "case_round": 0,
    }


def build(server: Any, planes: Iterable[str]) -> None:
    """Make the page of a trame server, with one figure for each plane and one for 3D."""
    from trame.ui.html import DivLayout
    from trame.widgets import client

    plane = _resource("plane.html")
    figures = [plane.replace("@@PLANE@@", name).replace("@@NAME@@", name.capitalize()) for name in planes]
    with DivLayout(server, classes="page") as layout:
        client.Style(_resource("page.css"))
        text = _resource("page.html").replace("@@PLANES@@", "".join(figures))
        for name in ("source", "level", "explanation", "comparison"):
            text = text.replace(f"@@{name.upper()}@@", _resource(f"{name}.html"))
        layout.root.add_child(text)


def _resource(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
