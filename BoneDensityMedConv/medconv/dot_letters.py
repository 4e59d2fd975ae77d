"""Short words drawn into pictures with 5 x 7 dots a letter, for machines that have no fonts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LETTER_ROWS, LETTER_COLUMNS = 7, 5
ADVANCE = LETTER_COLUMNS + 1

# One number a row, most significant bit left.
GLYPHS: Mapping[str, tuple[int, ...]] = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 25, 21, 19, 19, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "?": (14, 17, 1, 2, 4, 0, 4),
    " ": (0,) * LETTER_ROWS,
}


def text_size(text: str, scale: int = 2) -> tuple[int, int]:
    """Rows and columns of a text in pixels."""
    return LETTER_ROWS * scale, (ADVANCE * len(text) - 1) * scale


def draw_text(
    picture: NDArray[np.uint8], text: str, row: int, column: int, rgb: tuple[int, int, int], scale: int = 2
) -> None:
    """Draw into an RGB picture, shape (rows, columns, 3), upper left corner at (row, column); what sticks out is cut.

    Letters without a glyph are left blank.
    """
    bits = np.zeros((LETTER_ROWS, ADVANCE * len(text)), bool)
    for place, letter in enumerate(text.upper()):
        glyph = GLYPHS.get(letter, GLYPHS[" "])
        columns = slice(ADVANCE * place, ADVANCE * place + LETTER_COLUMNS)
        bits[:, columns] = [[line >> (LETTER_COLUMNS - 1 - dot) & 1 for dot in range(LETTER_COLUMNS)] for line in glyph]
    rows, columns_in = np.nonzero(np.kron(bits, np.ones((scale, scale), bool)))
    rows, columns_in = rows + row, columns_in + column
    inside = (rows >= 0) & (rows < picture.shape[0]) & (columns_in >= 0) & (columns_in < picture.shape[1])
    picture[rows[inside], columns_in[inside]] = rgb
