"""What a run tells of itself: log.csv and times.csv (one row an epoch), TensorBoard, a line of progress.

The rows are part of the checkpoint and the sheets are written anew from them, so that no epoch is there twice after a
kill. Times stand in a sheet of their own: log.csv of a run that was killed equals that of one that was not.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from medconv.training.runs import run_folder
from medconv.training.runs.run_folder import write_whole


@dataclass(frozen=True)
class EpochRow:
    """One epoch. `validation_nll`: mean over the classes of the mean −log p, classes taken as equally frequent."""

    epoch: int
    train_loss: float
    validation_nll: float
    validation_balanced_accuracy: float
    learning_rate: float
    chosen: bool
    seconds: float

    def sentence(self, epochs: int) -> str:
        """For people."""
        mark = "  best so far" if self.chosen else ""
        return (
            f"epoch {self.epoch + 1} of {epochs}: loss {self.train_loss:.4f}, validation "
            f"{self.validation_nll:.4f}, balanced accuracy {self.validation_balanced_accuracy:.3f}, "
            f"{self.seconds:.0f} s{mark}"
        )


class Listener(Protocol):
    """Who hears how a training goes: a command, a test."""

    def step(self, text: str, fraction: float) -> None:
        """A line that replaces the last one, with how much of the run is done (0 to 1)."""

    def told(self, text: str) -> None:
        """A line that stays."""


class Silent:
    """A listener that keeps quiet."""

    def step(self, text: str, fraction: float) -> None:
        pass

    def told(self, text: str) -> None:
        pass


class Printing(Silent):
    """A listener that prints the lines that stay."""

    def told(self, text: str) -> None:
        print(text, flush=True)


def write_sheets(run: Path, rows: Sequence[EpochRow]) -> None:
    """log.csv and times.csv from all rows so far."""
    names = [field.name for field in fields(EpochRow) if field.name not in ("chosen", "seconds")]
    write_whole(run / run_folder.LOG, _sheet(names, rows))
    write_whole(run / run_folder.TIMES, _sheet(["epoch", "seconds"], rows))


def _sheet(names: Sequence[str], rows: Sequence[EpochRow]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = asdict(row)
        writer.writerow([values[name] if name == "epoch" else f"{values[name]:.8g}" for name in names])
    return text.getvalue().encode()


class TensorBoardLog:
    """The rows as curves in RUN/tensorboard; nothing where tensorboardX is not installed."""

    def __init__(self, run: Path, first_epoch: int) -> None:
        """Curves that an interrupted run drew from `first_epoch` on are taken back."""
        self._writer: Any = None
        if importlib.util.find_spec("tensorboardX") is not None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(run / run_folder.TENSORBOARD), purge_step=first_epoch)

    def add(self, row: EpochRow) -> None:
        """One point on every curve."""
        if self._writer is None:
            return
        for name, value in asdict(row).items():
            if name not in ("epoch", "chosen"):
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file of events."""
        if self._writer is not None:
            self._writer.close()


class Pace:
    """How long the rest will take, from the steps done since this process began."""

    def __init__(self, total_steps: int, done_before: int) -> None:
        self.total, self.done, self._before = total_steps, done_before, done_before
        self._started = time.perf_counter()

    def step(self) -> tuple[float, float]:
        """Count a step: share of the run done, and seconds left at the pace so far."""
        self.done += 1
        rate = (self.done - self._before) / max(time.perf_counter() - self._started, 1e-9)
        return self.done / self.total, (self.total - self.done) / rate


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
