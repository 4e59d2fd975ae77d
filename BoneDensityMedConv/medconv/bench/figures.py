"""The arithmetic of the bench: how something is timed, and what is told of it.

Two things are compared by doing them in turns, A B A B: what else the computer does then falls on both. Their ratio is
the median of the rounds' own ratios, which moves much less than a ratio of medians on a busy computer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

Action = Callable[[], object]
Clock = Callable[[], float]
Progress = Callable[[str, float], None]

SPREAD = "half the interquartile range"
NO_VALUE = "–"
LEAST_ROUNDS = 3  # these are done whatever they take; only then does a budget count


@dataclass(frozen=True)
class Row:
    """One line of the table.

    median, spread, unit: of `repeats` measurements; spread is half the interquartile range, None where it has none.
    ratio: to the row or thing named `baseline`, both in `unit`: under 1 is less. share: of the measured peak `of_peak`.
    peak_mb: largest resident memory of the process that did it, in 10^6 bytes.
    aim: not above this, of `aim_of` ("ratio" or "median"). reason: why there is no figure.
    point: where it stands in a plot ("plot", "group", "series", "x", as the plot needs it).
    """

    name: str
    median: float | None = None
    unit: str = "s"
    spread: float | None = None
    repeats: int = 0
    peak_mb: float | None = None
    ratio: float | None = None
    baseline: str = ""
    share: float | None = None
    of_peak: str = ""
    aim: float | None = None
    aim_of: str = ""
    note: str = ""
    reason: str = ""
    point: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; what is no number (memory that the system doesn't tell) is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Row:
        return Row(**fields)

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None where there is none, or no figure for it."""
        value = self.ratio if self.aim_of == "ratio" else self.median
        return None if self.aim is None or value is None else value <= self.aim


@dataclass(frozen=True)
class Trial:
    """What taking turns gave: seconds by name, one for each round; and why others could not be timed."""

    seconds: Mapping[str, tuple[float, ...]]
    failed: Mapping[str, str]

    def row(
        self, action: str, baseline: str = "", per: float = 1.0, unit: str = "s", *, name: str = "", **fields: Any
    ) -> Row:
        """The row of one action. per: what the seconds are divided by, to come to `unit`. name: "" is the action's."""
        name = name or action
        if action not in self.seconds:
            return Row(name, unit=unit, reason=self.failed.get(action, "not measured"))
        times = [s / per for s in self.seconds[action]]
        compared = baseline if baseline in self.seconds and baseline != action else ""
        ratio = self.ratio(action, baseline) if compared else None
        return Row(
            name, statistics.median(times), unit, spread(times), len(times), ratio=ratio, baseline=compared, **fields
        )

    def ratio(self, name: str, baseline: str) -> float:
        """The median of the rounds' own ratios of time."""
        return paired_ratio(self.seconds[name], self.seconds[baseline])

    def share(self, name: str, work: float, peak: str, peak_work: float) -> float | None:
        """Work a second, as a share of what `peak` did of its own in the same rounds; None if either is not there."""
        if name not in self.seconds or peak not in self.seconds:
            return None
        return work / peak_work / self.ratio(name, peak)


def take_turns(
    actions: Mapping[str, Action], rounds: int, *, settle: bool = True, budget_s: float = float("inf"),
    clock: Clock = perf_counter, progress: Progress = lambda stage, fraction: None,
) -> Trial:  # fmt: skip
    """Do all actions in turns and time each.

    settle: do each once untimed right before it is timed, so that threads and caches are its own. One that raises in
    the first, untimed round is left out with its reason. After `budget_s` no further round is begun.
    """
    failed: dict[str, str] = {}
    for name, action in actions.items():
        progress(name, 0.0)
        try:
            action()
        except Exception as error:  # noqa: BLE001 whatever it is, it is a row of the table
            failed[name] = because(error)
    seconds: dict[str, list[float]] = {name: [] for name in actions if name not in failed}
    began = clock()
    for number in range(max(1, rounds)):
        if number >= LEAST_ROUNDS and clock() - began > budget_s:
            break
        for place, name in enumerate(seconds):
            progress(name, (number + place / len(seconds)) / rounds)
            if settle:
                actions[name]()
            started = clock()
            actions[name]()
            seconds[name].append(clock() - started)
    return Trial({name: tuple(times) for name, times in seconds.items()}, failed)


def spread(values: Sequence[float]) -> float | None:
    """Half the interquartile range; None for fewer than two values."""
    if len(values) < 2:
        return None
    low, high = np.percentile(values, [25, 75])
    return float(high - low) / 2


def of_values(name: str, values: Sequence[float], unit: str = "s", **fields: Any) -> Row:
    """The row of values that were measured elsewhere."""
    return Row(name, statistics.median(values), unit, spread(values), len(values), **fields)


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The median of the ratios of measurements that were taken in turns."""
    return statistics.median(own / other for own, other in zip(values, baseline, strict=True))


def because(error: BaseException) -> str:
    """One line that says why there is no figure."""
    return " ".join(str(error).split())[:240] or type(error).__name__


def attempt(name: str, measure: Callable[[], Row]) -> Row:
    """The row, or one with the reason why there is none."""
    try:
        return measure()
    except Exception as error:  # noqa: BLE001 whatever it is, it is a row of the table
        return Row(name, reason=because(error))


def number(value: float) -> str:
    """Three digits, no exponent where it can be helped."""
    if not math.isfinite(value):
        return NO_VALUE
    if value == 0 or 1e-5 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"
