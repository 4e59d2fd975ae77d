"""What a person asked the bench for, and where a section finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FULL_SLICES = 700  # of the CT that the aims are for
LEAST_SLICES = 90  # of 512 x 512, so that a whole L1 is in it

Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Settings:
    """quick: small sizes. full: also what takes minutes (compiling, segmentation). repeats: rounds of each comparison.

    slices: of the 512 x 512 CT. loader: a cohort's folder for `training`, "" makes a simulated one. weights_folder,
    widen: for `segmentation`. folder: for temporary files. peaks: what `machine` measured, by name. load_before: the
    computer's load average before the bench began, None where the system has none.
    """

    quick: bool = False
    full: bool = False
    repeats: int = 5
    slices: int = FULL_SLICES
    loader: str = ""
    weights_folder: str = ""
    widen: int = 1
    folder: str = ""
    load_before: float | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def rounds(self) -> int:
        """Of a comparison: `repeats`, and no more than the median needs where it has to be quick."""
        return min(self.repeats, 3) if self.quick else self.repeats

    @property
    def place(self) -> Path:
        """The folder for temporary files."""
        return Path(self.folder)


def part(say: Say, start: float, length: float) -> Say:
    """Progress of a part of the work, that begins at `start` and is `length` of the whole."""
    return lambda stage, done: say(stage, start + length * done)


def silent(stage: str, fraction: float) -> None:
    """Progress that nobody sees."""
