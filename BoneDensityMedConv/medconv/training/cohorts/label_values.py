"""What one cell of a label sheet may hold, and what it means. Each function raises Problem with the reason."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from medconv.training.cohorts.cases import TEST, TRAIN, VALIDATION
from medconv.types import TScoreClass

T_SCORE_LIMIT = 8.0
KVP_RANGE = (60.0, 160.0)
DECIMALS = 6  # a T-score of −2.5 that a formula left as −2.4999999999 is −2.5
CT_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
CLASS_NAMES: Mapping[str, TScoreClass] = {
    "normal": TScoreClass.NORMAL,
    "osteopenia": TScoreClass.OSTEOPENIA,
    "osteopenic": TScoreClass.OSTEOPENIA,
    "low bone mass": TScoreClass.OSTEOPENIA,
    "osteoporosis": TScoreClass.OSTEOPOROSIS,
    "osteoporotic": TScoreClass.OSTEOPOROSIS,
    "severe osteoporosis": TScoreClass.OSTEOPOROSIS,
    "established osteoporosis": TScoreClass.OSTEOPOROSIS,
}
# The order in which WHO Technical Report Series 843 (1994) lists its four categories; used only under a heading that
# says WHO.
WHO_NUMBERING: Mapping[int, TScoreClass] = {
    1: TScoreClass.NORMAL,
    2: TScoreClass.OSTEOPENIA,
    3: TScoreClass.OSTEOPOROSIS,
    4: TScoreClass.OSTEOPOROSIS,
}
SPLIT_WORDS: Mapping[str, str] = {
    "train": TRAIN, "training": TRAIN, "train_data": TRAIN,
    "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "val_data": VALIDATION,
    "test": TEST, "testing": TEST, "test_data": TEST,
}  # fmt: skip


class Problem(ValueError):
    """Why a cell can't be taken; worded to follow "row 3, column 'T-score'"."""


def number(cell: Any) -> float:
    """A number, also one with a decimal comma, a typographic minus, or stored as text."""
    if isinstance(cell, bool):
        raise Problem(f"holds {str(cell).upper()}, not a number")
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        raise Problem(f"holds a date ({cell}): the spreadsheet turned a number into one; format the column as numbers")
    text = str(cell).strip().replace("\u2212", "-").replace("\u2013", "-")
    if re.fullmatch(r"[+-]?[0-9]*,[0-9]+", text):
        text = text.replace(",", ".")
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        raise Problem(f"holds '{_short(cell)}', not a number")
    return float(text)


def is_number(cell: Any) -> bool:
    """True if `number` can read it."""
    try:
        number(cell)
    except Problem:
        return False
    return True


def t_score(cell: Any) -> float:
    """A DXA T-score within −8 to +8."""
    value = round(number(cell), DECIMALS)
    if not math.isfinite(value) or abs(value) > T_SCORE_LIMIT:
        raise Problem(
            f"holds {value:g}: T-scores lie within −{T_SCORE_LIMIT:g} and +{T_SCORE_LIMIT:g} (a density in mg/cm³, "
            "or a lost decimal point?)"
        )
    return value


def t_class(cell: Any, coding: Mapping[int, TScoreClass]) -> TScoreClass:
    """A WHO class by its name, or by a number where the heading says what numbers mean (`coding`)."""
    name = re.sub(r"[\s_-]+", " ", str(cell)).strip().lower()
    if name in CLASS_NAMES:
        return CLASS_NAMES[name]
    if not is_number(cell):
        raise Problem(f"holds '{_short(cell)}', which is none of normal, osteopenia, osteoporosis")
    value = number(cell)
    if value not in coding:
        raise Problem(f"holds {value:g}, but only {', '.join(map(str, coding))} have a meaning here")
    return coding[int(value)]


def coding_in(heading: str) -> dict[int, TScoreClass]:
    """Numbers that a heading explains: "Class (0=normal, 1=osteopenia, 2=osteoporosis)"; empty unless all classes."""
    pairs = re.findall(r"([0-9]+)\s*[=:]\s*([a-z]+)", heading.lower())
    coding = {int(n): CLASS_NAMES[name] for n, name in pairs if name in CLASS_NAMES}
    complete = len(coding) == len(pairs) and set(coding.values()) == set(TScoreClass)
    return coding if complete else {}


def kvp(cell: Any) -> float:
    """A tube voltage in kV, with or without its unit."""
    value = number(re.sub(r"\s*kvp?\s*$", "", cell, flags=re.IGNORECASE) if isinstance(cell, str) else cell)
    if not KVP_RANGE[0] <= value <= KVP_RANGE[1]:
        raise Problem(f"holds {value:g}: a tube voltage lies within {KVP_RANGE[0]:g} and {KVP_RANGE[1]:g} kV")
    return value


def label(cell: Any) -> int:
    """L1's number in the mask: whole and above 0."""
    try:
        value = number(cell)
    except Problem as problem:
        raise Problem(f"{problem}; it is for L1's number in the mask (classes go under 'Class')") from None
    if value < 1 or value != int(value):
        raise Problem(f"holds {value:g}; L1's number in the mask is a whole number above 0")
    return int(value)


def split(cell: Any) -> str:
    """One of train, validation, test."""
    word = str(cell).strip().lower()
    if word not in SPLIT_WORDS:
        raise Problem(f"holds '{_short(cell)}'; expected train, validation or test")
    return SPLIT_WORDS[word]


def identifier(cell: Any) -> str:
    """An ID or a name as text; a whole number that the sheet keeps as 17.0 is "17"."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.date | datetime.time):
        raise Problem(f"holds a date ({cell}); format the column as text")
    text = str(cell).strip()
    if text.startswith("#") and text.endswith(("!", "?", "/A")):
        raise Problem(f"holds the spreadsheet's error {text}")
    return text


def without_ending(name: str) -> str:
    """A file's name without an image's ending, so that a sheet may list IDs or files."""
    ending = next((e for e in CT_ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def _short(cell: Any) -> str:
    text = str(cell).strip()
    return text if len(text) <= 40 else text[:39] + "…"
