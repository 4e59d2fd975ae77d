"""Names and numbers of vertebrae and of the landmarks beside them, in the label maps that segmenters use.

Names: "C1" … "C7", "T1" … "T13", "L1" … "L6", "S1", "sacrum", "rib_left_12", "rib_right_12" and, from TotalSegmentator,
the organs' own names ("liver"). Numbers: TotalSegmentator v2, task "total"
(github.com/wasserth/TotalSegmentator, map_to_binary.py), and VerSe / CTSpine1K
(github.com/anjany/verse: C1 = 1 … L5 = 24, L6 = 25, sacrum 26, coccyx 27, T13 = 28).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medconv.types import InputRefused, UsageError

ORDER: tuple[str, ...] = (
    *(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 14)), *(f"L{n}" for n in range(1, 7)), "S1",
)  # fmt: skip
LUMBAR = ("L1", "L2", "L3", "L4", "L5", "L6")
SACRUM = "sacrum"
LAST_RIBS = ("rib_left_12", "rib_right_12")
# A whole T11 has some 25 ml. Specks where the CT shows no such vertebra, and the last slice of one that is cut off, are
# no level that was found.
LEAST_VERTEBRA_ML = 4.0

# Cranial to caudal TotalSegmentator counts downwards: S1 = 26, L5 = 27 … L1 = 31, T12 = 32 … C1 = 50.
TOTALSEGMENTATOR: Mapping[str, int] = {
    "liver": 5, SACRUM: 25, "S1": 26,
    **{f"L{n}": 32 - n for n in range(1, 6)},
    **{f"T{n}": 44 - n for n in range(1, 13)},
    **{f"C{n}": 51 - n for n in range(1, 8)},
    "aorta": 52,
    **{f"rib_left_{n}": 91 + n for n in range(1, 13)},
    **{f"rib_right_{n}": 103 + n for n in range(1, 13)},
}  # fmt: skip
VERSE: Mapping[str, int] = {
    **{f"C{n}": n for n in range(1, 8)},
    **{f"T{n}": 7 + n for n in range(1, 13)},
    **{f"L{n}": 19 + n for n in range(1, 7)},
    SACRUM: 26,
    "T13": 28,
}
LABEL_MAPS: Mapping[str, Mapping[str, int]] = {"totalsegmentator": TOTALSEGMENTATOR, "verse": VERSE}


def is_vertebra(name: str) -> bool:
    """True for C1 to S1; the sacrum as a whole is a landmark."""
    return name in ORDER


def above(name: str, steps: int = 1) -> str:
    """The usual name of the vertebra `steps` above (negative: below), counting 12 thoracic and 5 lumbar ones."""
    usual = [v for v in ORDER if v not in ("T13", "L6")]
    place = usual.index(name) - steps
    if not 0 <= place < len(usual):
        raise ValueError(f"there is no vertebra {steps} above {name}")
    return usual[place]


def plain_name(name: str) -> str:
    """A segmenter's name of a structure in the names used here: "vertebrae_L1" and "vertebra_L1" become "L1"."""
    short = name.removeprefix("vertebrae_").removeprefix("vertebra_")
    return short if short in ORDER else name


def read_label_map(source: str | Path) -> dict[int, str]:
    """Label → structure, from "totalsegmentator", "verse", or a JSON file {"L1": 31, …} or {"31": "L1", …}.

    An nnU-Net dataset.json ({"labels": {"vertebrae_L1": 7, …}}) is read too. Raises UsageError for a name that is
    neither, InputRefused for a file that is no label map or does not name L1.
    """
    known = LABEL_MAPS.get(str(source))
    if known is not None:
        return {label: name for name, label in known.items()}
    path = Path(source)
    if not path.is_file():
        names = ", ".join(LABEL_MAPS)
        raise UsageError("label_map_unknown", f"There is no label map '{path.name}'.", f"Give {names} or a JSON file.")
    try:
        document = json.loads(path.read_text("utf-8"))
        return label_map_from(document.get("labels", document))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputRefused(
            "label_map_unreadable",
            "The label map can't be read.",
            'Expected JSON like {"L1": 31, "T12": 32} or {"31": "L1"}.',
            path.name,
        ) from error


def label_map_from(entries: Mapping[Any, Any]) -> dict[int, str]:
    """Label → structure from name → label or label → name. Raises ValueError if it is neither, InputRefused without L1.

    nnU-Net's region labels (a list of numbers) have no single number and are left out, like the background.
    """
    found: dict[int, str] = {}
    for key, value in entries.items():
        if isinstance(value, (list, tuple)):
            continue
        name, label = (value, int(key)) if isinstance(value, str) else (key, int(value))
        if label in found:
            raise ValueError(f"label {label} has two names")
        if label > 0:
            found[label] = plain_name(str(name))
    if "L1" not in found.values():
        raise InputRefused(
            "label_map_without_l1", "The label map does not name L1.", 'Add an entry such as {"L1": 31}.'
        )
    return found
