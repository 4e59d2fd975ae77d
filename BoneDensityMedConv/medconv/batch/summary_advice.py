"""What a person should look at first after a batch: the few things that would change what is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medconv.batch.drift import Verdict
from medconv.batch.jobs import Status

MANY_REFUSED = 0.1
# Refusals of whole kinds of series, which an archive has beside its CTs of the trunk.
OF_A_KIND_OF_SERIES = frozenset({
    "slices_too_thick", "single_slice", "image_2d", "image_4d", "image_in_colour", "not_ct", "not_original",
    "multi_frame", "dicom_not_ct_slices", "slices_uneven", "gantry_tilt", "l1_absent",
})  # fmt: skip
LEAVE_OUT = "If that is one kind of series (localisers, thick slices, another part of the body), leave it out."
DISAGREE = "network_and_attenuation_disagree"
SET_ASIDE_DO = "Look at these files one by one: such a file can be damaged, or need more memory than there is."
FAILED_DO = "Mend the cause (see below), then have them tried again."


def look_at_first(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """What, and what to do, the most pressing first; empty if nothing stands out. document: of summary.json so far."""
    cases, answered = document["cases"], document["by_status"][Status.OK]
    found = [
        *_ended(document, Status.SET_ASIDE, "set aside: every attempt ended its process", SET_ASIDE_DO),
        *_ended(document, Status.FAILED, "not finished for the computer's or the program's reasons", FAILED_DO),
    ]
    for finding in document["drift"]["findings"]:
        if finding["verdict"] in (Verdict.CLEAR, Verdict.STRONG):
            found.append({"what": finding["message"], "do": finding["remedy"]})
    refused = document["by_status"][Status.REFUSED]
    if refused > MANY_REFUSED * cases:
        first = max((e for e in document["unanswered"] if e["status"] == Status.REFUSED), key=lambda e: e["cases"])
        what = f"{refused} of {cases} CTs ({refused / cases:.0%}) were refused, most often: {spoken(first['code'])}."
        own = first["next_step"] or "The table says of each what to do."
        found.append({"what": what, "do": LEAVE_OUT if first["code"] in OF_A_KIND_OF_SERIES else own})
    if answered == 0 and cases:
        found.append({"what": "No CT was answered.", "do": "Begin with the most frequent reason below."})
    found += _of_answered(document, answered)
    if copies := document["copies"]["cases"]:
        what = f"{copies} {'CT is' if copies == 1 else 'CTs are'} a copy of another one, voxel for voxel."
        found.append({"what": what, "do": "Count each patient once in a study: the table names the first of them."})
    return found


def _ended(document: Mapping[str, Any], status: Status, what: str, do: str) -> list[dict[str, str]]:
    number = document["by_status"][status]
    entries = [entry for entry in document["unanswered"] if entry["status"] == status]
    reasons = ", ".join(f"{spoken(entry['code'])} {entry['cases']}" for entry in entries)
    subject = "1 case was" if number == 1 else f"{number} cases were"
    return [{"what": f"{subject} {what} ({reasons}).", "do": do}] if number else []


def _of_answered(document: Mapping[str, Any], answered: int) -> list[dict[str, str]]:
    found = []
    if disagree := document["notes"]["warnings"].get(DISAGREE, 0):
        what = f"In {disagree} of {answered} answered cases class and HU point to opposite ends of the scale."
        found.append({"what": what, "do": "Take these for indeterminate and consider DXA; the table's warnings name "
                      "them."})  # fmt: skip
    if doubts := document["levels_in_doubt"]:
        what = f"In {doubts} of {answered} answered cases it is in doubt which vertebra is L1."
        found.append({"what": what, "do": "Look at the level pictures of these cases, then confirm or correct."})
    if undecided := document["undecided"]:
        what = f"In {undecided} of {answered} answered cases every class remains possible."
        found.append({"what": what, "do": "Read the attenuation of these, not the class."})
    return found


def spoken(code: str) -> str:
    """A code as words."""
    return code.replace("_", " ")
