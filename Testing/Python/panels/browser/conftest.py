"""A real headless Chromium, a panel in a process of its own, and a page that reports whatever goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from page_driver import PageDriver
from panel_process import COMMAND, PanelProcess

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, headless. Its absence is a failure: `python3 run.py test` installs it."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("Chromium is missing: install it with `apt-get install chromium`, or use `python3 run.py test`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Traffic:
    """What a page asked for and what it complained of."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def outside(self) -> list[str]:
        """Requests to anything but this machine."""
        return [url for url in self.requests if urlsplit(url.removeprefix("blob:")).hostname not in ("127.0.0.1", None)]


@contextmanager
def watched_pages(chromium: Any) -> Iterator[Callable[..., PageDriver]]:
    """A function that opens pages; in the end they must not have complained or asked anything of another machine."""
    opened: list[tuple[Any, Traffic]] = []

    def open_page(panel: PanelProcess, width: int = 1280, height: int = 800) -> PageDriver:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(15_000)
        traffic = Traffic()
        traffic.watch(page)
        opened.append((page, traffic))
        page.goto(panel.url)
        page.wait_for_selector("[data-test=title]")
        return PageDriver(page)

    yield open_page
    for page, _ in opened:
        page.close()
    for _, traffic in opened:
        assert traffic.outside() == []
        assert traffic.complaints == []


@pytest.fixture
def open_panel(chromium: Any) -> Iterator[Callable[..., PageDriver]]:
    """`open_panel(panel, width, height)` opens a page that is watched until the test's end."""
    with watched_pages(chromium) as open_page:
        yield open_page


@pytest.fixture(scope="session")
def watch_pages(chromium: Any) -> Iterator[Callable[..., PageDriver]]:
    """As `open_panel`, for pages that many tests share."""
    with watched_pages(chromium) as open_page:
        yield open_page


@pytest.fixture(scope="session")
def scripted_page(watch_pages: Callable[..., PageDriver], scripted_panel: PanelProcess) -> PageDriver:
    """One page on the scripted panel."""
    return watch_pages(scripted_panel)


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where screenshots go: MEDCONV_SCREENSHOTS, else a temporary folder."""
    folder = Path(os.environ.get("MEDCONV_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def phantom_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A hand-made vertebra in a CT, and its mask with label 31."""
    from core.phantom import phantom, write

    return write(phantom(noise_sd=15), tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="session")
def scripted_panel(phantom_files: tuple[Path, Path]) -> Iterator[PanelProcess]:
    """The panel on a scripted presenter, with the phantom loaded."""
    ct, mask = map(str, phantom_files)
    panel = PanelProcess([str(Path(__file__).with_name("scripted_panel.py")), ct, mask, "31"])
    yield panel
    panel.close()


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest and random weights: what the panel shows doesn't depend on how good they are."""
    import torch
    from core.conftest import untrained_card

    from medconv.network import build_network
    from medconv.weights import save_weights

    folder = tmp_path_factory.mktemp("weights")
    card = untrained_card()
    torch.manual_seed(0)
    state = {name: tensor.numpy() for name, tensor in build_network(card.architecture).state_dict().items()}
    card = save_weights(folder / card.file, state, card)
    (folder / "manifest.json").write_text(json.dumps({"models": [card.to_json()]}))
    return folder


@pytest.fixture(scope="session")
def environment(random_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights only, nobody's own folders, and no package index."""
    home = tmp_path_factory.mktemp("home")
    return {
        "MEDCONV_WEIGHTS_DIR": str(random_weights),
        "MEDCONV_DATA": str(home / "data"),
        "MEDCONV_CACHE": str(home / "cache"),
        "PIP_NO_INDEX": "1",
    }


@pytest.fixture(scope="session")
def panel(environment: dict[str, str]) -> Iterator[PanelProcess]:
    """`medconv panel`, with the real presenter and worker."""
    panel = PanelProcess(["-c", COMMAND, "panel", "--no-open"], environment=environment)
    yield panel
    panel.close()


@pytest.fixture(scope="session")
def panel_page(panel: PanelProcess, watch_pages: Callable[..., PageDriver]) -> PageDriver:
    """One page on the real panel."""
    return watch_pages(panel)


@pytest.fixture
def analysed(panel_page: PageDriver, phantom_files: tuple[Path, Path]) -> PageDriver:
    """The page with the phantom's result and the weights' own adjustment."""
    page = panel_page
    if page.control("result").count() == 0 or page.text("case-name") != "ct.nii.gz · L1":
        page.load(*phantom_files)
        page.wait_for_text("case-name", "ct.nii.gz · L1")
        page.click("analyse")
        page.control("result").wait_for(timeout=60_000)
    if page.is_enabled("reset-adjustment"):
        page.click("reset-adjustment")
        page.page.wait_for_function("document.querySelector('[data-test=reset-adjustment]').disabled")
    return page
