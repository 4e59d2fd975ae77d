"""Level pictures as files: SVG with real text over the pixels, and PNG with the names in dots."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray

from medconv.dot_letters import draw_text, text_size
from medconv.level_picture import LevelPicture, Mark, colour_of
from medconv.planes import LETTER_RGB, PLANES, draw_scale_bar, png_bytes

GAP_PX = 12
EDGE_PX = 8
FONT = "font:600 14px system-ui,sans-serif"
SMALL_FONT = "font:600 13px system-ui,sans-serif"


def levels_svg(pictures: Iterable[LevelPicture], title: str) -> str:
    """All pictures side by side as one SVG that stands alone; `title` is what a screen reader says."""
    parts, x, height = [], 0, 0
    for picture in pictures:
        rows, columns, _ = picture.pixels.shape
        parts.append(f'<g transform="translate({x},0)">{_picture_svg(picture)}</g>')
        x, height = x + columns + GAP_PX, max(height, rows)
    width = max(x - GAP_PX, 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}" style="background:#000"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg>"
    )


def levels_png(pictures: Iterable[LevelPicture]) -> bytes:
    """The same pictures side by side as PNG."""
    drawn = [_picture_dots(picture) for picture in pictures]
    height = max(p.shape[0] for p in drawn)
    columns = []
    for pixels in drawn:
        columns += [np.pad(pixels, ((0, height - pixels.shape[0]), (0, 0), (0, 0))), np.zeros((height, GAP_PX, 3))]
    return png_bytes(np.concatenate(columns[:-1], axis=1).astype(np.uint8))


def _picture_svg(picture: LevelPicture) -> str:
    rows, columns, _ = picture.pixels.shape
    pixels = picture.pixels.copy()
    draw_scale_bar(pixels, picture.pixel_mm)
    data = base64.b64encode(png_bytes(pixels)).decode("ascii")
    letters = "".join(_text(letter, x, y, "middle", LETTER_RGB, SMALL_FONT) for letter, x, y in _directions(picture))
    return f'<image width="{columns}" height="{rows}" href="data:image/png;base64,{data}"/>{letters}' + "".join(
        _mark_svg(mark) for mark in picture.marks
    )


def _directions(picture: LevelPicture) -> list[tuple[str, float, float]]:
    """The letters of the edges with the middle of their base line: two in the upper corners, top and bottom."""
    rows, columns, _ = picture.pixels.shape
    low = float(EDGE_PX + 11)
    places = [(2.0 * EDGE_PX, low), (columns - 2.0 * EDGE_PX, low), (columns / 2, low), (columns / 2, rows - EDGE_PX)]
    return [(letter, x, y) for letter, (x, y) in zip(PLANES[picture.plane][2], places, strict=True)]


def _mark_svg(mark: Mark) -> str:
    red, green, blue = colour_of(mark.level)
    line = (
        f'<line x1="{mark.x + 2:.1f}" y1="{mark.y:.1f}" x2="{mark.to_x:.1f}" y2="{mark.to_y:.1f}" '
        f'style="stroke:rgb({red},{green},{blue});stroke-width:1.5"/>'
    )
    return line + _text(told(mark), mark.x, mark.y + 5, "end", (red, green, blue), FONT)


def _text(text: str, x: float, y: float, anchor: str, rgb: tuple[int, int, int], font: str) -> str:
    # A style attribute, so that the styles of a page around it do not repaint it; the halo keeps it readable on bone.
    red, green, blue = rgb
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{font};fill:rgb({red},{green},{blue});'
        f'stroke:#000;stroke-width:3px;stroke-opacity:.75;paint-order:stroke">{escape(text)}</text>'
    )


def told(mark: Mark) -> str:
    """The name as it stands in the picture: a doubtful one with a question mark."""
    return f"{mark.level.text} ?" if mark.level.is_doubtful else mark.level.text


def _picture_dots(picture: LevelPicture) -> NDArray[np.uint8]:
    pixels = picture.pixels.copy()
    draw_scale_bar(pixels, picture.pixel_mm)
    height, width = text_size("A")
    for letter, x, y in _directions(picture):
        draw_text(pixels, letter, round(y) - height, round(x) - width // 2, LETTER_RGB)
    for mark in picture.marks:
        text = mark.level.text.partition(" (")[0] + (" ?" if mark.level.is_doubtful else "")
        wide = text_size(text)[1]
        row, column = round(mark.y) - height // 2, max(round(mark.x) - wide, 0)
        # A dark field behind the name; what lies outside the picture is cut off by the slice.
        field = pixels[max(row - 2, 0) : row + height + 2, max(column - 3, 0) : column + wide + 2]
        field[:] = field // 3
        draw_text(pixels, text, row, column, colour_of(mark.level))
    return pixels
