"""Which vertebra a segment says it is, by its terminology tag or its name.

SNOMED CT codes of the vertebrae: as in TotalSegmentator's own mapping (resources/totalsegmentator_snomed_mapping.csv)
and DICOM PS3.16. L1 is 66794005; 14293000 is L2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

L1_CODE = "66794005"
VERTEBRA_CODES = {
    "14806007": "C1", "39976000": "C2", "113205007": "C3", "5329002": "C4", "36978003": "C5", "36054005": "C6",
    "87391001": "C7", "64864005": "T1", "53733008": "T2", "1626008": "T3", "73071006": "T4", "56401006": "T5",
    "45296009": "T6", "62487009": "T7", "11068009": "T8", "82687006": "T9", "7610001": "T10", "12989004": "T11",
    "23215003": "T12", L1_CODE: "L1", "14293000": "L2", "36470004": "L3", "11994002": "L4", "49668003": "L5",
    "65985001": "S1",
}  # fmt: skip

# Slicer's form: context~category~type~type modifier~region context~region~region modifier; a code is scheme^value^name.
# The lists that come with Slicer hold no single vertebra, so no list is named.
L1_TERMINOLOGY = f"~SCT^123037004^Anatomical Structure~SCT^{L1_CODE}^L1 vertebra~^^~~^^~^^"

_LEVEL_IN_NAME = re.compile(r"(?<![A-Za-z0-9])(C[1-7]|T(?:1[0-3]|[1-9])|L[1-6]|S1)(?![A-Za-z0-9])", re.IGNORECASE)
_LUMBAR_IN_NAME = re.compile(r"lumbar(?:\s+vertebra)?\s*([1-6])(?![0-9])", re.IGNORECASE)


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
    parts = serialised.split("~")
    if len(parts) != 7:
        return ""
    scheme, _, rest = parts[2].partition("^")
    code = rest.partition("^")[0]
    return VERTEBRA_CODES.get(code, "") if scheme == "SCT" else ""


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


def tag_as_l1(segment: Any) -> None:
    """Tag a `vtkSegment` as vertebra L1 (SCT 66794005), so that a DICOM SEG made from it says so."""
    segment.SetTerminology(L1_TERMINOLOGY)
