"""What moved the answer, in the real panel: asked for, drawn over the CT, made fainter, hidden, gone with the case."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.browser


def coloured(pixels) -> int:
    """How many pixels are plainly blue or red (the mask's outline is neither)."""
    r, g, b = (pixels[..., i].astype(int) for i in range(3))
    blue, red = (b - r > 40) & (b - g > 15), (r - g > 40) & (r - b > 40)
    return int(np.count_nonzero(blue | red))


@pytest.fixture
def explained(analysed, screenshots):
    page = analysed
    if page.control("explanation-headline").count() == 0:
        page.click("explain")
        page.control("explanation-headline").wait_for(timeout=240_000)
    elif not page.is_enabled("explanation-opacity"):
        page.click("explanation-visible")
    page.wait_for_pixels("axial", lambda pixels: coloured(pixels) > 200)
    page.page.screenshot(path=screenshots / "explanation.png")
    yield page
    # Other tests look at the same page: under the map, the mask is an outline only.
    page.click("explanation-visible")
    page.wait_for_pixels("axial", lambda pixels: coloured(pixels) == 0)


def test_the_parts_are_listed(explained):
    assert explained.text("explanation-headline").startswith("The ")
    rows = explained.control("explanation-rows").locator("tbody tr")
    assert [rows.nth(i).locator("th").inner_text() for i in range(rows.count())] == [
        "Trabecular core",
        "Cortical shell and endplates",
        "Posterior elements",
    ]
    assert "towards osteoporosis" in explained.text("explanation-legend")
    assert "does not show where disease is" in explained.text("explanation-limits")


def test_hiding_takes_it_off_and_showing_brings_it_back(explained):
    shown = coloured(explained.pixels("axial"))
    explained.click("explanation-visible")
    explained.wait_for_pixels("axial", lambda pixels: coloured(pixels) == 0)
    assert not explained.is_enabled("explanation-opacity")
    explained.click("explanation-visible")
    explained.wait_for_pixels("axial", lambda pixels: coloured(pixels) > 0.9 * shown)


def test_the_opacity_follows_its_slider(explained):
    shown = coloured(explained.pixels("axial"))
    explained.control("explanation-opacity").fill("0.05")
    explained.wait_for_pixels("axial", lambda pixels: coloured(pixels) < 0.2 * shown)
    explained.control("explanation-opacity").fill("0.6")
    explained.wait_for_pixels("axial", lambda pixels: coloured(pixels) > 0.9 * shown)
