"""Which vertebra or landmark a segment says it is, by its terminology tag or its name; and how to tag one.

SNOMED CT codes of vertebrae, sacrum and ribs: as in TotalSegmentator's own mapping
(resources/totalsegmentator_snomed_mapping.csv) and DICOM PS3.16. L1 is 66794005; 14293000 is L2. T13 and L6 have no
code of their own: they are tagged "Vertebra" (51282000), and their name says which.
Structures have the names of `medconv.vertebrae`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from medconv import vertebrae

L1_CODE = "66794005"
VERTEBRA_CODES = {
    "14806007": "C1", "39976000": "C2", "113205007": "C3", "5329002": "C4", "36978003": "C5", "36054005": "C6",
    "87391001": "C7", "64864005": "T1", "53733008": "T2", "1626008": "T3", "73071006": "T4", "56401006": "T5",
    "45296009": "T6", "62487009": "T7", "11068009": "T8", "82687006": "T9", "7610001": "T10", "12989004": "T11",
    "23215003": "T12", L1_CODE: "L1", "14293000": "L2", "36470004": "L3", "11994002": "L4", "49668003": "L5",
    "65985001": "S1",
}  # fmt: skip

ANY_VERTEBRA_CODE = "51282000"
LANDMARK_CODES = {
    vertebrae.SACRUM: ("54735007", "Sacrum"), "liver": ("10200004", "Liver"), "aorta": ("15825003", "Aorta"),
}  # fmt: skip
RIB_CODES = {
    1: ("48535007", "First rib"), 2: ("78247007", "Second rib"), 3: ("25888004", "Third rib"),
    4: ("25523003", "Fourth rib"), 5: ("15339008", "Fifth rib"), 6: ("59558009", "Sixth rib"),
    7: ("24915002", "Seventh rib"), 8: ("5953002", "Eighth rib"), 9: ("22565002", "Ninth rib"),
    10: ("77644006", "Tenth rib"), 11: ("58830002", "Eleventh rib"), 12: ("43993008", "Twelfth rib"),
}  # fmt: skip
SIDE_CODES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}

# Slicer's form: context~category~type~type modifier~region context~region~region modifier; a code is scheme^value^name.
# The lists that come with Slicer hold no single vertebra, so no list is named.
_FORM = "~SCT^123037004^Anatomical Structure~{kind}~{side}~~^^~^^"
_NO_CODE = "^^"
L1_TERMINOLOGY = _FORM.format(kind=f"SCT^{L1_CODE}^L1 vertebra", side=_NO_CODE)

_LEVEL_IN_NAME = re.compile(r"(?<![A-Za-z0-9])(C[1-7]|T(?:1[0-3]|[1-9])|L[1-6]|S1)(?![A-Za-z0-9])", re.IGNORECASE)
_LUMBAR_IN_NAME = re.compile(r"lumbar(?:\s+vertebra)?\s*([1-6])(?![0-9])", re.IGNORECASE)
_RIB = re.compile(r"rib_(left|right)_([0-9]+)")
_RIB_IN_NAME = re.compile(r"(?<![a-z])rib(?![a-z])")
_NUMBER = re.compile(r"(?<![0-9])(1[0-2]|[1-9])(?![0-9])")


@dataclass(frozen=True)
class Level:
    """A vertebral level, and what says so: "tag", "name" or "" when nothing does (then `name` is empty too)."""

    name: str = ""
    stated_by: str = ""

    @property
    def is_l1(self) -> bool:
        return self.name == "L1"

    @property
    def is_other(self) -> bool:
        return bool(self.name) and not self.is_l1


def level_in_tag(serialised: str) -> str:
    """The level in a serialised terminology entry, or ""."""
    return VERTEBRA_CODES.get(_codes(serialised)[0], "")


def structure_in_tag(serialised: str) -> str:
    """The vertebra or landmark in a serialised terminology entry, or ""."""
    kind, side = _codes(serialised)
    if kind in VERTEBRA_CODES:
        return VERTEBRA_CODES[kind]
    for name, (code, _) in LANDMARK_CODES.items():
        if code == kind:
            return name
    number = next((n for n, (code, _) in RIB_CODES.items() if code == kind), None)
    on_side = next((s for s, (code, _) in SIDE_CODES.items() if code == side), None)
    return f"rib_{on_side}_{number}" if number and on_side else ""


def structure_in_name(name: str) -> str:
    """The vertebra or landmark in a segment's name ("vertebrae_L1", "Rib 12 left", "rib_left_12", "Sacrum"), or ""."""
    words = re.sub(r"[_\W]+", " ", name).lower().split()
    for landmark in LANDMARK_CODES:
        if words == [landmark]:
            return landmark
    sides, numbers = [s for s in SIDE_CODES if s in words], _NUMBER.findall(" ".join(words))
    if _RIB_IN_NAME.search(" ".join(words)) and len(sides) == 1 and len(numbers) == 1:
        return f"rib_{sides[0]}_{numbers[0]}"
    return level_in_name(name)


def level_in_name(name: str) -> str:
    """The level in a segment's name ("vertebrae_L1", "L2 vertebra", "Lumbar 1"), or "" if none or more than one."""
    words = re.sub(r"[_\W]+", " ", name)
    levels = {match.upper() for match in _LEVEL_IN_NAME.findall(words)}
    levels |= {f"L{digit}" for digit in _LUMBAR_IN_NAME.findall(words)}
    return levels.pop() if len(levels) == 1 else ""


def level_of(segment: Any) -> Level:
    """The level that a `vtkSegment` states. A tag outweighs the name, for a person chose it from a list."""
    tagged = level_in_tag(segment.GetTerminology())
    if tagged:
        return Level(tagged, "tag")
    named = level_in_name(segment.GetName() or "")
    return Level(named, "name") if named else Level()


def structure_of(segment: Any) -> str:
    """The vertebra or landmark that a `vtkSegment` states, by its tag or else its name; "" if nothing does."""
    return structure_in_tag(segment.GetTerminology()) or structure_in_name(segment.GetName() or "")


def tag_as_l1(segment: Any) -> None:
    """Tag a `vtkSegment` as vertebra L1 (SCT 66794005), so that a DICOM SEG made from it says so."""
    segment.SetTerminology(L1_TERMINOLOGY)


def tag(segment: Any, structure: str) -> None:
    """Tag a `vtkSegment` as a vertebra or landmark; one that has no code stays as it is."""
    code, side = _code_of(structure), _NO_CODE
    if rib := _RIB.fullmatch(structure):
        side = "^".join(("SCT", *SIDE_CODES[rib[1]]))
    if code:
        segment.SetTerminology(_FORM.format(kind="^".join(("SCT", *code)), side=side))


def plain_name(structure: str) -> str:
    """A structure's name as a person reads it: "L1", "Sacrum", "Rib 12 left"."""
    if rib := _RIB.fullmatch(structure):
        return f"Rib {rib[2]} {rib[1]}"
    return structure if vertebrae.is_vertebra(structure) else structure.replace("_", " ").capitalize()


def _code_of(structure: str) -> tuple[str, str] | None:
    """Code and meaning of a structure, None if it has none here."""
    if vertebrae.is_vertebra(structure):
        code = next((c for c, level in VERTEBRA_CODES.items() if level == structure), None)
        return (code, f"{structure} vertebra") if code else (ANY_VERTEBRA_CODE, "Vertebra")
    if rib := _RIB.fullmatch(structure):
        return RIB_CODES.get(int(rib[2]))
    return LANDMARK_CODES.get(structure)


def _codes(serialised: str) -> tuple[str, str]:
    """The SNOMED CT codes of type and type modifier in a serialised terminology entry; "" where there is none."""
    parts = serialised.split("~")
    if len(parts) != 7:
        return "", ""
    found = [part.split("^") for part in parts[2:4]]
    kind, side = (code[1] if len(code) == 3 and code[0] == "SCT" else "" for code in found)
    return kind, side
