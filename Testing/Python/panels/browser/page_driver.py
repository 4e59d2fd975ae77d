"""Short words for what a person does on the page, by the controls' `data-test` names."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def outline(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a pixel has the hue of an outline, brighter than a mask's light fill: Slicer's bone colour (241, 214, 145)
    or, among named neighbours, the measured vertebra's amber (255, 176, 0)."""
    r, g, b = (pixels[..., i].astype(int) for i in range(3))
    return (r > 200) & (r - b > 45) & (r - g > -60) & (r - g < 90)


class PageDriver:
    """One open page."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def control(self, name: str) -> Any:
        """The one element with that data-test name."""
        return self.page.locator(f'[data-test="{name}"]')

    def text(self, name: str) -> str:
        return " ".join(self.control(name).inner_text().split())

    def click(self, name: str) -> None:
        self.control(name).click()

    def open_case(self) -> None:
        """Unfold the section of files, which folds away when a case is loaded."""
        self.control("case").evaluate("details => details.open = true")

    def load(self, ct: Any, mask: Any = "", label: int | None = None) -> None:
        """Type the paths, and L1's number if it isn't TotalSegmentator's, and press Load."""
        self.open_case()
        self.control("ct-path").fill(str(ct))
        self.control("mask-path").fill(str(mask))
        if label is None:
            self.control("label-map").select_option("totalsegmentator")
        else:
            self.control("label-map").select_option("other")
            self.control("label-number").fill(str(label))
        self.click("load-files")

    def wait_for_text(self, name: str, text: str, timeout_ms: float = 15_000) -> None:
        """Until the element's text holds `text`."""
        self.page.wait_for_function(
            """([name, text]) => {
                const found = document.querySelector(`[data-test="${name}"]`);
                return found && found.innerText.replace(/\\s+/g, ' ').includes(text);
            }""",
            arg=[name, text],
            timeout=timeout_ms,
        )

    def is_enabled(self, name: str) -> bool:
        return bool(self.control(name).is_enabled())

    def probabilities(self) -> dict[str, float]:
        """Class → probability, as exact as the page holds it."""
        rows = self.page.locator('[data-test^="probability-"]')
        found = rows.evaluate_all("rows => rows.map(row => [row.dataset.test, row.dataset.value])")
        return {name.removeprefix("probability-"): float(value) for name, value in found}

    def pixels(self, view: str) -> NDArray[np.uint8]:
        """What a view's image area shows, shape (rows, columns, 3)."""
        from PIL import Image

        area = self.control(f"view-{view}").locator(".view__image")
        return np.asarray(Image.open(io.BytesIO(area.screenshot())).convert("RGB"))

    def wait_for_pixels(self, view: str, wanted: Any, timeout_ms: float = 15_000) -> NDArray[np.uint8]:
        """Until `wanted(pixels)` is true; returns the pixels. Raises AssertionError after the time."""
        waited = 0.0
        while True:
            pixels = self.pixels(view)
            if wanted(pixels):
                return pixels
            assert waited < timeout_ms, f"the {view} view never showed what was expected"
            self.page.wait_for_timeout(100)
            waited += 100
