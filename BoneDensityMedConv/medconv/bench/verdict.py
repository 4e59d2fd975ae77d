"""What was aimed at and what came out: every row of a run that has an aim, on a line of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medconv.bench.figures import Row, number
from medconv.bench.settings import FULL_SLICES

HEAD = ("", "What", "Aim", "Measured", "Note")
BUSY = 0.5  # load average: half a core that works for others
MET, MISSED, OPEN = "met", "MISSED", "no figure"
SMALL = f"A small run: aims for full sizes are not judged (96³, {FULL_SLICES} slices, two workers of a batch)."


def judged(sections: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The verdict of bench.json from its sections: plain JSON types, one object for each row with an aim.

    of: what the limit is for, the row's "median" (in `unit`) or its "ratio" to `baseline`. met: null without a figure.
    """
    found = []
    for name, section in sections.items():
        for row in map(Row.from_json, section["rows"]):
            if row.aim is None:
                continue
            found.append({
                "section": name, "name": row.name, "of": row.aim_of, "limit": row.aim, "unit": row.unit,
                "baseline": row.baseline, "measured": row.ratio if row.aim_of == "ratio" else row.median,
                "met": row.reached, "note": row.reason or row.note,
            })  # fmt: skip
    return found


def lines(document: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """What stands under HEAD."""
    return [(_said(a["met"]), a["name"], wanted(a), measured(a), a["note"]) for a in document["verdict"]]


def summary(document: Mapping[str, Any]) -> list[str]:
    """How many aims are met, what was not judged, and which sections did not end as they should."""
    verdicts: Sequence[bool | None] = [aim["met"] for aim in document["verdict"]]
    told = []
    if verdicts:
        told.append(
            f"{verdicts.count(True)} of {len(verdicts)} aims are met in this run, {verdicts.count(False)} missed."
        )
    else:
        told.append("No aim was judged in this run.")
    if document["settings"]["quick"] or document["settings"]["slices"] < FULL_SLICES:
        told.append(SMALL)
    load, cores = document["computer"]["load_before"], document["computer"]["cores"]
    if load is not None and load > BUSY:
        told.append(
            f"Other programs were at work when it began (load {load:.1f} on {cores} cores): trust no milliseconds."
        )
    unfinished = [s for s in document["sections"].values() if s["status"] != "done"]
    return told + [f"{s['title']}: {s['status']} ({s['reason']})." for s in unfinished]


def wanted(aim: Mapping[str, Any]) -> str:
    """At least 3.5 x faster than …; at most 1.2 x …; at most 1 s."""
    limit = aim["limit"]
    if aim["of"] == "median":
        return f"at most {limit:.3g} {aim['unit']}"
    if limit < 1:
        return f"at least {1 / limit:.3g} x faster than {aim['baseline'] or 'the baseline'}"
    return f"at most {limit:.3g} x {aim['baseline'] or 'the baseline'}"


def measured(aim: Mapping[str, Any]) -> str:
    """The figure as the aim has it."""
    value = aim["measured"]
    if value is None:
        return "–"
    if aim["of"] == "median":
        return f"{number(value)} {aim['unit']}"
    return f"{1 / value:.3g} x faster" if aim["limit"] < 1 and value > 0 else f"{value:.3g} x"


def _said(met: bool | None) -> str:
    return OPEN if met is None else MET if met else MISSED
