"""The level check in words: what a panel shows of it, and the names that stand beside the vertebrae."""

from __future__ import annotations

from typing import Any

from BoneDensityMedConvLib.level_choice import STAND_INS, Levels
from BoneDensityMedConvLib.terminology import plain_name

QUESTION = "Is the outlined vertebra L1? Look at the sagittal view: the last ribs belong to T12, the sacrum follows L5."
ABSENT = "No vertebra is named L1. Say which one is L1, or measure T12 or L2 instead."
NAMED_SO = "L1, as the segment says; the check has doubts."
WHICH_IS_L1 = "The level is in doubt, so nothing is measured yet."


def view(levels: Levels | None, busy: bool = False) -> dict[str, Any] | None:
    """The `levels` of the view model; see docs/decisions/0004."""
    if levels is None:
        return None
    shown, target = levels.shown_as(), levels.target
    up, down = ("", "") if busy else (levels.neighbour(1), levels.neighbour(-1))
    return {
        "line": line(levels),
        "levels": [
            {
                "name": level.name,
                "shown_as": shown[level.name],
                "is_target": level.name == target,
                "volume_ml": level.volume_ml,
                "center_ras_mm": list(level.center_ras_mm),
            }
            for level in levels.found
        ],
        "doubtful": bool(levels.doubts),
        "confirmed": levels.decided,
        "doubts": [{"severity": str(doubt.severity), "message": doubt.message} for doubt in levels.doubts],
        "question": question(levels),
        "statement": statement(levels),
        "can_confirm": levels.in_question and target in levels.serving and not busy,
        "can_shift_up": bool(up),
        "can_shift_down": bool(down),
        "shift_up_label": _shift_label(levels, up, "above"),
        "shift_down_label": _shift_label(levels, down, "below"),
        "alternatives": [] if busy else alternatives(levels),
    }


def line(levels: Levels) -> str:
    """What was found, in one line."""
    names = ", ".join(levels.names) or "no vertebra"
    others = [plain_name(name).lower() for name in levels.landmarks]
    return f"Found by {levels.segmenter}: {names}" + (f"; {', '.join(others)}" if others else "")


def question(levels: Levels) -> str:
    """What the person is asked, "" if nothing."""
    if not levels.target:
        return ABSENT
    return QUESTION if levels.in_question else ""


def statement(levels: Levels) -> str:
    """What is measured, and who says that it is that vertebra."""
    target = levels.target
    if not target:
        return "L1 was not found."
    if levels.in_question:
        return WHICH_IS_L1
    parts = []
    if levels.instead:
        parts.append(f"{levels.instead} is measured instead of L1; the classes are those of L1.")
    if levels.is_relabelled:
        parts.append(f"Corrected by the reader: what the segmenter calls {levels.l1_is} is L1.")
    elif levels.decided and not levels.instead:
        parts.append("L1 confirmed by the reader.")
    if parts:
        return " ".join(parts)
    return NAMED_SO if levels.doubts and not levels.must_ask else levels.statement


def label(levels: Levels, found: str) -> str:
    """What stands beside a vertebra in the slice views."""
    name = levels.shown_as()[found]
    if levels.in_question and (found == levels.target or found in levels.doubtful):
        return f"{name} ?"
    if found != levels.target:
        return name
    if levels.instead:
        return f"{name} (for L1)"  # short: it must fit beside the vertebra in a small view
    return f"{name} (was {found})" if found != name else name


def alternatives(levels: Levels) -> list[dict[str, str]]:
    """Which vertebrae may be measured in L1's place; the one that is now, chosen once more, leads back to L1."""
    shown = {name: found for found, name in levels.shown_as().items()}
    offered = []
    for name in STAND_INS:
        if name == levels.instead and "L1" in shown:
            offered.append({"id": name, "label": "Measure L1 after all"})
        elif name != levels.instead and shown.get(name) in levels.serving:
            offered.append({"id": name, "label": f"Measure {name} instead"})
    return offered


def _shift_label(levels: Levels, found: str, where: str) -> str:
    name = f" ({levels.shown_as()[found]})" if found else ""
    return f"L1 is the vertebra {where}{name}"
