"""The map of what moved the answer over the CT, in three planes with a colour bar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medconv.dot_letters import draw_text, text_size
from medconv.explanation import Explanation
from medconv.planes import PLANES, Overlay, Region, png_bytes, render_regions
from medconv.types import CTVolume, FloatArray, L1Case

# Red and blue are told apart by readers with any of the usual colour deficiencies.
TOWARDS_NORMAL_RGB, TOWARDS_OSTEOPOROSIS_RGB = (64, 136, 255), (255, 64, 48)
STRONGEST_OPACITY = 0.75  # the bone stays readable under the strongest colour
FAINTEST = 0.08  # of the full range: below it nothing is drawn
# A map whose every value is small stays pale: at 0.05 log-odds per ml a whole vertebra moves the odds by less than 10.
SMALLEST_RANGE = 0.05
RANGE_PERCENTILE = 99.0
OUTLINE_RGB = (255, 176, 0)
BAR_ROWS, GAP_PX, TEXT_RGB, GROUND = 16, 6, (235, 235, 235), 90


def colour_range(explanation: Explanation) -> float:
    """The value that has the strongest colour: log-odds per ml, the 99th percentile of |map| in the vertebra."""
    size = np.abs(explanation.values_zyx[explanation.values_zyx != 0])
    return max(float(np.percentile(size, RANGE_PERCENTILE)) if size.size else 0.0, SMALLEST_RANGE)


def colours(share: FloatArray) -> FloatArray:
    """Shares of the colour range, −1 (towards normal) to 1 (towards osteoporosis), any shape, to red, green, blue
    (0 to 255) and opacity (0 to 1) in a last axis of 4. Around 0 all is transparent."""
    strength = np.clip((np.abs(share) - FAINTEST) / (1 - FAINTEST), 0.0, 1.0)
    rgb = np.where((share > 0)[..., np.newaxis], TOWARDS_OSTEOPOROSIS_RGB, TOWARDS_NORMAL_RGB)
    return np.concatenate([rgb, STRONGEST_OPACITY * np.sqrt(strength)[..., np.newaxis]], axis=-1)


def explanation_png(ct: CTVolume, case: L1Case, explanation: Explanation) -> bytes:
    """Sagittal, axial and coronal plane side by side, the colour bar below, as one PNG."""
    full = colour_range(explanation)
    overlay = Overlay(explanation.values_zyx, explanation.geometry, lambda values: colours(values / full))
    outline = Region(case.mask_zyx, case.ct.geometry, OUTLINE_RGB, 0.0)
    pictures = render_regions(ct, case.center_lps_mm, [outline], [overlay])
    gap = np.zeros((next(iter(pictures.values())).shape[0], GAP_PX, 3), np.uint8)
    row = np.concatenate([part for name in PLANES for part in (pictures[name], gap)][:-1], axis=1)
    return png_bytes(np.concatenate([row, _bar(row.shape[1])]))


def _bar(width: int) -> NDArray[np.uint8]:
    """The colours on a middle grey, with a word at each end."""
    height, left = text_size("NORMAL")
    right = text_size("OSTEOPOROSIS")[1]
    bar = np.zeros((BAR_ROWS + 2 * GAP_PX, width, 3), np.uint8)
    start, stop = width // 4, width - width // 4
    rgba = colours(np.linspace(-1.0, 1.0, stop - start))
    shown = GROUND + rgba[:, 3:] * (rgba[:, :3] - GROUND)
    bar[GAP_PX : GAP_PX + BAR_ROWS, start:stop] = shown.round().astype(np.uint8)
    row = GAP_PX + (BAR_ROWS - height) // 2
    draw_text(bar, "NORMAL", row, start - left - 2 * GAP_PX, TEXT_RGB)
    draw_text(bar, "OSTEOPOROSIS", row, min(stop + 2 * GAP_PX, width - right), TEXT_RGB)
    return bar
