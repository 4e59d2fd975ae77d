"""What the four views show and how one moves through them, on the real panel."""

from __future__ import annotations

import numpy as np
import pytest
from page_driver import outline

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("view", ["sagittal", "axial", "coronal"])
def test_each_plane_shows_bone_in_the_bone_window_and_the_mask_centred_on_l1(analysed, screenshots, view):
    analysed.click("center-on-l1")
    pixels = analysed.wait_for_pixels(view, lambda p: outline(p).sum() > 200).astype(int)
    rows, columns = np.nonzero(outline(pixels))
    height, width = pixels.shape[:2]
    if view != "sagittal":  # in the sagittal plane the arch lies to one side of the body
        assert abs((columns.min() + columns.max()) / 2 - width / 2) < 0.06 * width
    assert rows.min() < height / 2 < rows.max()
    # Window 1800, level 400: 40 HU (soft tissue) is grey 76, 150 HU (trabecular bone) 92, 700 HU (cortex) 170; the
    # light fill mixes a quarter of the segment's colour (241, 214, 145) in.
    soft = pixels[8:20, width // 4 : width // 2].reshape(-1, 3)
    if view == "axial":
        assert np.median(soft, axis=0) == pytest.approx([76, 76, 76], abs=6)
    trabecular = pixels[height // 2 - 6 : height // 2 + 6, width // 2 - 6 : width // 2 + 6].reshape(-1, 3)
    assert np.median(trabecular, axis=0) == pytest.approx([129, 122, 105], abs=8)
    analysed.page.screenshot(path=screenshots / "browser_panel_phantom.png")


def test_3d_shows_the_vertebra(analysed):
    analysed.click("center-on-l1")

    def has_surface(pixels: np.ndarray) -> bool:
        r, b = pixels[..., 0].astype(int), pixels[..., 2].astype(int)
        return bool(((r - b > 40) & (r > 90)).mean() > 0.02)

    analysed.wait_for_pixels("three_d", has_surface)


def test_the_mouse_wheel_and_the_arrow_keys_scroll_through_the_slices(analysed):
    analysed.click("center-on-l1")
    area = analysed.control("view-axial").locator(".view__image").bounding_box()
    before = analysed.text("position-axial")
    analysed.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    analysed.page.mouse.wheel(0, -240)
    analysed.page.wait_for_function(
        "before => document.querySelector('[data-test=position-axial]').innerText !== before", arg=before
    )
    wheeled = analysed.text("position-axial")
    picture = analysed.pixels("axial")
    analysed.control("slice-axial").focus()
    for _ in range(12):
        analysed.page.keyboard.press("ArrowUp")
    analysed.page.wait_for_function(
        "before => document.querySelector('[data-test=position-axial]').innerText !== before", arg=wheeled
    )
    analysed.wait_for_pixels("axial", lambda pixels: not np.array_equal(pixels, picture))


def test_the_planes_carry_the_letters_of_the_patient_s_sides(analysed):
    letters = {
        view: "".join(analysed.text(f"edge-{edge}-{view}") for edge in ("left", "right", "top", "bottom"))
        for view in ("axial", "coronal", "sagittal")
    }
    assert letters == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
