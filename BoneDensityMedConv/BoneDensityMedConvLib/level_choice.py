"""Which of the vertebrae that were found is L1, and which is measured: what was found, what is in doubt, what a person
decided. Kept as JSON in the parameter node; a decision holds only for the findings that it was made on.

`l1_is` is the segmenter's name of the vertebra that is taken for L1; a relabel moves it, and with it the names of all
others. `instead` is "T12" or "L2" where a person chose to measure that one, in the names after the relabel. Whoever
takes both back has decided nothing: only a Yes makes the segmenter's own L1 a person's word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medconv import level_report, vertebrae
from medconv.level_doubts import OF_THE_TARGET
from medconv.types import LevelChoice, QualityNote, Severity, Vector3

STAND_INS = ("T12", "L2")
NOTHING: Mapping[str, Any] = {"levelJson": "", "levelCt": None, "levelSegmentation": None}


@dataclass(frozen=True)
class FoundLevel:
    """One vertebra, by the name that it was found as."""

    name: str
    volume_ml: float
    center_ras_mm: Vector3


@dataclass(frozen=True)
class Levels:
    """The vertebrae that a segmentation holds, cranial to caudal, and what is made of them.

    must_ask: a doubt stops the analysis until a person has answered (an automatic segmentation); else it is a warning.
    landmarks: the other structures that help to tell the level. flaws: found name → what keeps that vertebra from being
    measured, as a sentence to follow its name. serving: found names of what could stand in for L1. doubtful: found
    names that a doubt concerns. statement: the check's own line. said_yes: a person confirmed that `l1_is` is L1.
    """

    segmenter: str
    found: tuple[FoundLevel, ...]
    doubts: tuple[QualityNote, ...] = ()
    must_ask: bool = True
    landmarks: tuple[str, ...] = ()
    flaws: Mapping[str, str] = field(default_factory=dict)
    serving: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    statement: str = ""
    l1_is: str = "L1"
    instead: str = ""
    said_yes: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Found names, cranial to caudal."""
        return tuple(level.name for level in self.found)

    @property
    def used_as(self) -> str:
        """What is measured: "L1", or what a person chose instead."""
        return self.instead or "L1"

    @property
    def target(self) -> str:
        """The found name of the vertebra that is measured, "" if it was not found."""
        return next((name for name, shown in self.shown_as().items() if shown == self.used_as), "")

    @property
    def measured(self) -> FoundLevel | None:
        """The vertebra that is measured, None if it was not found."""
        return next((level for level in self.found if level.name == self.target), None)

    @property
    def can_be_measured(self) -> bool:
        """True if the vertebra that is to be measured was found, and found whole."""
        return bool(self.target) and self.target not in self.flaws

    @property
    def is_relabelled(self) -> bool:
        return self.l1_is != "L1"

    @property
    def decided(self) -> bool:
        """True if what is measured is a person's word."""
        return self.said_yes or self.is_relabelled or bool(self.instead)

    @property
    def in_question(self) -> bool:
        """True while the analysis waits for a person's answer: is that one L1?"""
        about_level = any(doubt.code not in OF_THE_TARGET for doubt in self.doubts)
        return self.must_ask and about_level and not self.decided and bool(self.target)

    def shown_as(self) -> dict[str, str]:
        """Found name → name in use: after a relabel every vertebra moves by as many levels as L1 does."""
        return level_report.shown_names(self.names, LevelChoice(self.l1_is, "L1", "person", self.segmenter))

    def neighbour(self, steps: int) -> str:
        """The found name of the vertebra `steps` above the present L1 (negative: below), "" if it was not found."""
        order = [n for n in vertebrae.ORDER if n in self.names or n not in ("T13", "L6")]
        place = order.index(self.l1_is) - steps
        name = order[place] if 0 <= place < len(order) else ""
        return name if name in self.names and name != "S1" else ""

    def shifted(self, steps: int) -> Levels:
        """After a person said that the vertebra `steps` above (negative: below) is L1; the same if there is none.

        If that one can't be measured and the present L1 can, this one stands in for it, under its new name; if neither
        can, nothing changes. It is no Yes, also where it leads back to the segmenter's own L1: the question is open
        again then.
        """
        name, instead = self.neighbour(steps), ""
        if name in self.flaws:
            instead = {1: "L2", -1: "T12"}.get(steps, "") if self.l1_is in self.serving else ""
            name = name if instead else ""
        return replace(self, l1_is=name, instead=instead, said_yes=False) if name else self

    def confirmed(self) -> Levels:
        """After a person said that it is as shown."""
        return replace(self, said_yes=True)

    def with_instead(self, level: str) -> Levels:
        """After a person chose T12 or L2 to be measured; the same once more goes back to L1."""
        return replace(self, instead="" if level == self.instead else level)

    def after(self, earlier: Levels | None) -> Levels:
        """These findings with the decision of earlier ones, if that was made on the same vertebrae and doubts."""
        if earlier is None or (earlier.names, earlier.doubts) != (self.names, self.doubts):
            return self
        return replace(self, l1_is=earlier.l1_is, instead=earlier.instead, said_yes=earlier.said_yes)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Levels:
        """Raises ValueError, KeyError, TypeError, AttributeError if it is not what `to_json` wrote."""
        facts = json.loads(text)
        found = tuple(
            FoundLevel(str(f["name"]), float(f["volume_ml"]), _vector(f["center_ras_mm"])) for f in facts["found"]
        )
        doubts = tuple(QualityNote(d["code"], Severity(d["severity"]), d["message"]) for d in facts["doubts"])
        lists = {name: tuple(facts[name]) for name in ("landmarks", "serving", "doubtful")}
        flaws = {str(name): str(flaw) for name, flaw in facts["flaws"].items()}
        read = Levels(**facts | {"found": found, "doubts": doubts, "flaws": flaws} | lists)
        if not all(name in vertebrae.ORDER for name in (*read.names, read.l1_is)):
            raise ValueError("not the name of a vertebra")
        return read


def kept(chosen: Any) -> Levels | None:
    """The levels in the parameter node; None if there are none, or they can't be read (a scene edited by hand)."""
    try:
        return Levels.from_json(chosen.levelJson) if chosen.levelJson else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def fields(chosen: Any, levels: Levels) -> dict[str, Any]:
    """The parameter fields that keep the levels of the chosen CT and segmentation."""
    return {"levelJson": levels.to_json(), "levelCt": chosen.ct, "levelSegmentation": chosen.segmentation}


def is_stale(chosen: Any) -> bool:
    """True if levels are kept that are not of the chosen CT and segmentation."""
    if not chosen.levelJson:
        return False
    same = chosen.levelCt is chosen.ct and chosen.levelSegmentation is chosen.segmentation
    return not same or chosen.segmentation is None


def _vector(values: Any) -> Vector3:
    x, y, z = (float(v) for v in values)
    return x, y, z
