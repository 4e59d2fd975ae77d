"""The level check in words: what a panel shows of it, and the names that stand beside the vertebrae."""

from __future__ import annotations

from typing import Any

from BoneDensityMedConvLib.level_choice import STAND_INS, Levels
from BoneDensityMedConvLib.terminology import plain_name
from medconv.level_doubts import OF_THE_TARGET
from medconv.types import QualityNote

QUESTION = "Is the outlined vertebra L1? Look at the sagittal view: the last ribs belong to T12, the sacrum follows L5."
WHICH_INSTEAD = "If another vertebra is L1, say which; else choose what is measured in its place."
ANOTHER_CT = "No other vertebra that was found can serve. Use a CT that shows all of L1, or mend the segmentation."
NAMED_SO = "L1, as the segment says; the check has doubts."
NOT_L1, CHANGE = "Not L1?", "Change the level"
WHICH_IS_L1 = "The level is in doubt, so nothing is measured yet."


def view(levels: Levels | None, busy: bool = False) -> dict[str, Any] | None:
    """The `levels` of the view model; see docs/decisions/0004."""
    if levels is None:
        return None
    shown, target = levels.shown_as(), levels.target
    up, down = _shift(levels, 1), _shift(levels, -1)
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
        "doubts": [{"severity": str(d.severity), "message": d.message} for d in doubts_about_level(levels)],
        "question": question(levels),
        "statement": statement(levels),
        # Answers stand open only where one is asked for; else they wait behind a button, out of the mouse's way.
        "undecided": bool(question(levels)) or (bool(levels.doubts) and not levels.decided),
        "change_label": CHANGE if levels.instead or levels.is_relabelled else NOT_L1,
        "can_confirm": levels.in_question and levels.can_be_measured and not busy,
        "can_shift_up": up[0] and not busy,
        "can_shift_down": down[0] and not busy,
        "shift_up_label": up[1],
        "shift_down_label": down[1],
        "shift_up_note": up[2],
        "shift_down_note": down[2],
        "alternatives": [] if busy else alternatives(levels),
    }


def line(levels: Levels) -> str:
    """What was found, in one line."""
    names = ", ".join(levels.names) or "no vertebra"
    others = [plain_name(name).lower() for name in levels.landmarks]
    return f"Found by {levels.segmenter}: {names}" + (f"; {', '.join(others)}" if others else "")


def question(levels: Levels) -> str:
    """What the person is asked, "" if nothing."""
    if levels.can_be_measured:
        return QUESTION if levels.in_question else ""
    anything_else = any(levels.shifted(steps) != levels for steps in (1, -1)) or alternatives(levels)
    return WHICH_INSTEAD if anything_else else ANOTHER_CT


def doubts_about_level(levels: Levels) -> list[QualityNote]:
    """What speaks against the names. What keeps the chosen vertebra from being measured is in the statement."""
    return [doubt for doubt in levels.doubts if doubt.code not in OF_THE_TARGET]


def statement(levels: Levels) -> str:
    """What is measured, and who says that it is that vertebra; or why nothing is."""
    target = levels.target
    if not target:
        return f"{levels.used_as} was not found."
    if target in levels.flaws:
        return _cannot_be_measured(levels, target)
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
        if name == levels.instead:
            whole = "L1" in shown and shown["L1"] not in levels.flaws
            offered.append({"id": name, "label": "Measure L1 after all" if whole else f"Take {name} back"})
        elif name != levels.instead and shown.get(name) in levels.serving:
            offered.append({"id": name, "label": f"Measure {name} instead"})
    return offered


def _shift(levels: Levels, steps: int) -> tuple[bool, str, str]:
    """For the button that makes a neighbour L1: whether it can be pressed, its label, and what else there is to say."""
    where = "above" if steps > 0 else "below"
    found = levels.neighbour(steps)
    if not found:
        return False, f"L1 is the vertebra {where}", f"No vertebra was found {where}."
    label, after = f"L1 is the vertebra {where} ({levels.shown_as()[found]})", levels.shifted(steps)
    if after == levels:
        return False, label, _cannot_be_measured(levels, found)
    if after.instead:
        label = f"What is called L1 is {after.instead}: measure it as {after.instead}"
        return True, label, f"L1 is the vertebra {where}, then. {_cannot_be_measured(levels, found)}"
    return True, label, f"The vertebra {where} the present L1 is measured as L1."


def _cannot_be_measured(levels: Levels, found: str) -> str:
    """The reason, by the name in use."""
    return f"{levels.shown_as()[found]} can't be measured: it {levels.flaws[found]}"
