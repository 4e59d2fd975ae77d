"""The panel in a web browser, for a machine without Slicer: a page from 127.0.0.1 with the CT in MRML views.

`app` is the panel, `page.html` and `page.css` what it looks like, `case_reading` reads files, `image_views` holds the
three planes and 3D, `serving` is the local web server. trame and trame-slicer are imported only when a panel is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from BoneDensityMedConvLib.browser_panel.app import BrowserPanel
    from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest

TITLE = "Bone density class of L1 from CT"
LOCAL_HOST = "127.0.0.1"


def run_browser_panel(
    ct_path: Path | None,
    mask_path: Path | None,
    label: int | None,
    *,
    label_map: str = "",
    series: str | None = None,
    port: int = 0,
    host: str = LOCAL_HOST,
    open_browser: bool = True,
    title: str = TITLE,
) -> int:
    """Serve the panel until Ctrl-C; returns the exit code 0.

    Prints one line, `Panel: http://127.0.0.1:PORT/`, as soon as the page can be opened. With `ct_path` the case is
    loaded at once; label_map is how its mask is numbered, "" if only L1's number is known. port 0 picks a free one.
    host must be this machine: the panel reads the files of whoever runs it.

    Raises MissingRequirement without trame-slicer, UsageError if the port is taken or the host is another machine's.
    """
    from BoneDensityMedConvLib.browser_panel.case_reading import CaseRequest
    from BoneDensityMedConvLib.browser_panel.serving import serve_until_stopped

    first_case = None if ct_path is None else CaseRequest(ct_path, mask_path, label, label_map, series=series)
    return serve_until_stopped(
        lambda: create_app(first_case=first_case, title=title), host=host, port=port, open_browser=open_browser
    )


def create_app(
    *, first_case: CaseRequest | None = None, title: str = TITLE, presenter: Any = None, server: Any = None
) -> BrowserPanel:
    """The panel without its web server; needs a running asyncio loop.

    presenter: a factory that takes a `vtkMRMLScriptedModuleNode`; by default the real `Presenter`.
    """
    from BoneDensityMedConvLib.browser_panel.app import BrowserPanel

    return BrowserPanel(first_case=first_case, title=title, presenter_factory=presenter, server=server)
