"""Two segmentations beside the CT that both were made from, in three planes (the paper's Figure 1, for one case)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from medconv.dot_letters import draw_text, text_size
from medconv.planes import OUTLINE_RGB, PLANES, Region, png_bytes, render_regions
from medconv.segmentation_comparison import structure_mask
from medconv.types import CTVolume, L1Mask, SpineSegmentation, Vector3
from medconv.vertebrae import ORDER, SACRUM

COLUMNS = ("CT", "A", "B")
NEIGHBOUR_RGB = (125, 200, 255)
HIGHLIGHT_OPACITY = 0.2
GAP_PX = 6
HEADING_PX = 26
HEADING_RGB = (235, 235, 235)

Cells = Mapping[str, Mapping[str, NDArray[np.uint8]]]


def render_comparison(ct: CTVolume, a: SpineSegmentation, b: SpineSegmentation, vertebra: str) -> Cells:
    """Pictures by column ("CT", "A", "B") and plane, all through the centre of that vertebra in `a` (or else in `b`).

    Raises ValueError if neither has it.
    """
    center = next((_center(mask) for s in (a, b) if (mask := structure_mask(s, vertebra)) is not None), None)
    if center is None:
        raise ValueError(f"neither segmentation holds {vertebra}")
    regions = {"CT": [], "A": _regions(a, vertebra), "B": _regions(b, vertebra)}
    return {column: render_regions(ct, center, regions[column]) for column in COLUMNS}


def comparison_png(cells: Cells) -> bytes:
    """Rows of planes, columns CT, A and B, as one PNG."""
    columns = []
    for heading in COLUMNS:
        pictures = [cells[heading][plane] for plane in PLANES]
        width = pictures[0].shape[1]
        head = np.zeros((HEADING_PX, width, 3), np.uint8)
        rows, text_width = text_size(heading)
        draw_text(head, heading, (HEADING_PX - rows) // 2, (width - text_width) // 2, HEADING_RGB)
        gap = np.zeros((GAP_PX, width, 3), np.uint8)
        columns += [np.concatenate([head, *(part for p in pictures for part in (p, gap))])[:-GAP_PX]]
        columns += [np.zeros((columns[-1].shape[0], GAP_PX, 3), np.uint8)]
    return png_bytes(np.concatenate(columns[:-1], axis=1))


def comparison_svg(cells: Cells, headings: Mapping[str, str]) -> str:
    """The same as SVG; `headings` are what stands over the columns, by column."""
    parts, height, width = [], 0, 0
    for column in COLUMNS:
        y = HEADING_PX
        pictures = [cells[column][plane] for plane in PLANES]
        side = pictures[0].shape[1]
        parts.append(
            f'<text x="{width + side / 2}" y="{HEADING_PX - 8}" text-anchor="middle" '
            f'style="font:600 15px system-ui,sans-serif;fill:#fff">{escape(headings[column])}</text>'
        )
        for picture in pictures:
            rows, columns, _ = picture.shape
            data = base64.b64encode(png_bytes(picture)).decode("ascii")
            parts.append(
                f'<image x="{width}" y="{y}" width="{columns}" height="{rows}" href="data:image/png;base64,{data}"/>'
            )
            y += rows + GAP_PX
        width, height = width + side + GAP_PX, max(height, y - GAP_PX)
    width -= GAP_PX
    told = escape("; ".join(headings[column] for column in COLUMNS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{told}" style="background:#000"><title>{told}</title>{"".join(parts)}</svg>'
    )


def _regions(segmentation: SpineSegmentation, vertebra: str) -> list[Region]:
    """All vertebrae outlined, the one that is compared filled and on top."""
    found = [(name, structure_mask(segmentation, name)) for name in (*ORDER, SACRUM)]
    neighbours = [
        Region(mask.block_zyx, mask.geometry, NEIGHBOUR_RGB, 0.0)
        for name, mask in found
        if mask is not None and name != vertebra
    ]
    own = structure_mask(segmentation, vertebra)
    highlighted = [] if own is None else [Region(own.block_zyx, own.geometry, OUTLINE_RGB, HIGHLIGHT_OPACITY)]
    return [*neighbours, *highlighted]


def _center(mask: L1Mask) -> Vector3:
    x, y, z = (float(v) for v in mask.geometry.index_to_lps(np.argwhere(mask.block_zyx).mean(axis=0)[::-1]))
    return x, y, z
