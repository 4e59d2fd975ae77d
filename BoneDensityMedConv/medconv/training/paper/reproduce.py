"""The paper's experiment on a cohort: every row's trainings, one folder each, and one reading of the test set a run.

    OUT/runs/<name>/       a training run as `medconv train` writes it, and what it said of the test set
    OUT/crops, OUT/masks_b caches
    OUT/<table>.*          the report

Every choice is made by `train_run` on validation. Killed at any point, the same call goes on: a run that has answered
the test set is not repeated, and rows (or tables) with the same training share it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from medconv.config import Preprocessing
from medconv.training.cohorts.cases import TEST, TRAIN, VALIDATION, Cohort
from medconv.training.cohorts.crop_cache import cohort_crops
from medconv.training.cohorts.crops import CropSet
from medconv.training.figures.choice import CHOICE_FILE, hash_of
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.test_readings import record_reading
from medconv.training.paper.paper_runs import Budget, PlannedRow, PlannedRun, with_epochs
from medconv.training.parts import assembly
from medconv.training.runs import precision, run_folder
from medconv.training.runs.readout import as_predictions, read_out
from medconv.training.runs.run import TrainedRun, network_of, train_run
from medconv.training.runs.run_settings import RunSettings
from medconv.training.runs.training_data import training_data
from medconv.types import InputRefused, UsageError

PLAN, EXTRA = "plan.json", "extra"
Say = Callable[[str, float | None], None]


@dataclass
class Data:
    """Crops by segmenter, split and preprocessing, cut when they are first asked for.

    cohorts: by segmenter; extra: a further test cohort for each, or none.
    """

    cohorts: Mapping[str, Cohort]
    extra: Mapping[str, Cohort]
    cache: Path
    say: Say
    workers: int | None = None
    _made: dict[tuple[str, str, Preprocessing], CropSet] = field(default_factory=dict)

    def crops(self, segmenter: str, split: str, preprocessing: Preprocessing) -> CropSet:
        """Crops of a split (or EXTRA) in grey: networks with more channels repeat them."""
        grey = replace(preprocessing, channels=1)
        key = (segmenter, split, grey)
        if key not in self._made:
            cohort = self.extra[segmenter] if split == EXTRA else self.cohorts[segmenter]
            part = extra_split(cohort) if split == EXTRA else split
            folder = self.cache / f"{segmenter}_{EXTRA if split == EXTRA else 'cohort'}"
            self._made[key] = cohort_crops(cohort, part, grey, folder, workers=self.workers, progress=self.say)
        return self._made[key]


def extra_split(cohort: Cohort) -> str | None:
    """The test part of a further cohort; all its cases if it is not split."""
    return TEST if cohort.part(TEST) else None


class Clock:
    """Remaining time over all runs: what each was estimated at, corrected by how long the finished ones took."""

    def __init__(self, estimates: Mapping[str, float], say: Say) -> None:
        self._todo = dict(estimates)
        self._total = sum(estimates.values())
        self._estimated = self._taken = 0.0
        self._started = time.perf_counter()
        self._now, self._place, self._say = "", "", say

    def start(self, name: str, place: str) -> None:
        """A run begins; place: "3 of 12"."""
        self._now, self._place, self._started = name, place, time.perf_counter()

    def finished(self) -> float:
        """The run is done; returns its seconds."""
        seconds = time.perf_counter() - self._started
        self._estimated += self._todo.pop(self._now, 0.0)
        self._taken += seconds
        return seconds

    def skip(self, name: str) -> None:
        """The run had been finished before."""
        self._todo.pop(name, None)

    def left(self, fraction: float = 0.0) -> float:
        """Seconds, with `fraction` of the present run done."""
        elapsed = time.perf_counter() - self._started if self._now in self._todo else 0.0
        own = self._todo.get(self._now, 0.0)
        doubt = 0.05 * self._total  # the estimate counts as so much experience: the first steps are slow
        pace = (self._taken + elapsed + doubt) / max(self._estimated + own * fraction + doubt, 1e-9)
        return pace * (sum(self._todo.values()) - own * fraction)

    def step(self, text: str, fraction: float) -> None:
        """Of `run_log.Listener`."""
        done = 1.0 - (sum(self._todo.values()) - self._todo.get(self._now, 0.0) * fraction) / max(self._total, 1e-9)
        inner = text.split(", step")[0]
        self._say(f"Run {self._place} ({self._now}): {inner}; all runs: {spell(self.left(fraction))} left", done)

    def told(self, text: str) -> None:
        """Of `run_log.Listener`: epochs are in the run's log.csv."""


def spell(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def distinct(rows: Sequence[PlannedRow]) -> list[PlannedRun]:
    """Every training once, in the order of the rows; all rows' first seeds first, so that a table fills evenly."""
    found: dict[str, PlannedRun] = {}
    for seed in range(max(len(row.runs) for row in rows)):
        for row in rows:
            run = row.runs[seed]
            if found.setdefault(run.name, run) != run:
                raise ValueError(f"{run.name} would be two different trainings")
    return list(found.values())


def seconds_a_step(settings: RunSettings, device: str, counts: tuple[int, int, int] = (1, 1, 1)) -> float:
    """Seconds of one step of training on random numbers: the quicker of two, as the first one also warms up."""
    x, y, z = settings.preprocessing.size_xyz
    torch.manual_seed(0)
    parts = assembly.build_parts(settings, counts)
    network = parts.network.to(device, memory_format=torch.channels_last_3d).train()
    channels = 3 if settings.windows else settings.preprocessing.channels
    crops = torch.rand(settings.batch_size, channels, z, y, x, device=device)
    crops = crops.contiguous(memory_format=torch.channels_last_3d)
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        network(crops).square().sum().backward()
        taken.append(time.perf_counter() - started)
    return min(taken) * (2.0 if settings.optimiser == "sam" else 1.0)


def estimate(runs: Sequence[PlannedRun], cases: int, device: str, say: Say) -> dict[str, float]:
    """Seconds that each run's epoch will take, by name; networks of one kind are timed once."""
    chosen = precision.choose(runs[0].settings, device) if runs else "cpu"
    timed: dict[str, float] = {}
    found: dict[str, float] = {}
    for run in runs:
        s = run.settings
        key = f"{s.backbone} {s.width} {s.windows} {s.optimiser} {s.preprocessing}"
        if key not in timed:
            say(f"Timing a step of {s.backbone}", len(found) / len(runs))
            timed[key] = seconds_a_step(s, chosen)
        found[run.name] = timed[key] * max(cases // s.batch_size, 1)
    return found


def settle_budget(out: Path, budget: Budget, table: str, seconds_an_epoch: Callable[[], float]) -> Budget:
    """The budget that this folder's table was begun with; a new one is kept in OUT/plan.json.

    seconds_an_epoch: of one epoch of all runs, asked for only where minutes must become epochs.
    Raises UsageError if the table was begun with another budget.
    """
    path = out / PLAN
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if table in known:
        if known[table]["budget"] != budget.name:
            raise UsageError(
                "other_budget",
                f"{out} holds {table} with --budget {known[table]['budget']}, asked for {budget.name}.",
                "Give that budget to go on, or choose another --out.",
            )
        return replace(budget, epochs=int(known[table]["epochs"]))
    settled = with_epochs(budget, seconds_an_epoch() if budget.minutes is not None else 0.0)
    known[table] = {"budget": settled.name, "epochs": settled.epochs}
    out.mkdir(parents=True, exist_ok=True)
    run_folder.write_whole(path, (json.dumps(known, indent=1) + "\n").encode())
    return settled


def answer_file(split: str, crops: CropSet) -> str:
    """Name of a run's answers for these cases; another further test set has another name."""
    return (
        f"predictions_{TEST}.npz" if split == TEST else f"predictions_{EXTRA}_{run_folder.fingerprint(crops)[:12]}.npz"
    )


def complete(planned: PlannedRun, data: Data, out: Path, device: str, clock: Clock, place: str) -> float | None:
    """Train a run or go on with it, then let it answer the test sets once; None if it was done, else its seconds."""
    settings, run = planned.settings, out / "runs" / planned.name
    sets = {split: data.crops(planned.segmenter, split, settings.preprocessing) for split in (TRAIN, VALIDATION)}
    tests = {TEST: data.crops(planned.segmenter, TEST, settings.preprocessing)}
    if data.extra:
        tests[EXTRA] = data.crops(planned.segmenter, EXTRA, settings.preprocessing)
    unread = {split: crops for split, crops in tests.items() if not (run / answer_file(split, crops)).exists()}
    identity = training_data(settings, sets[TRAIN], sets[VALIDATION], None).identity(settings)
    if (run / run_folder.SETTINGS).exists():
        run_folder.claim(run, identity)  # refuses another run's folder
    if not unread:
        return None
    _refuse_seen(sets[TRAIN], sets[VALIDATION], tests)
    clock.start(planned.name, place)
    trained = train_run(settings, sets[TRAIN], sets[VALIDATION], run, device=device, progress=clock)
    for split, crops in unread.items():
        _answer(trained, sets[TRAIN], crops, device).save(run / answer_file(split, crops))
    return clock.finished()


def load_answers(planned: PlannedRun, data: Data, out: Path, split: str) -> Predictions:
    """What a finished run said of TEST or EXTRA."""
    crops = data.crops(planned.segmenter, split, planned.settings.preprocessing)
    return Predictions.load(out / "runs" / planned.name / answer_file(split, crops))


def plan_document(rows: Sequence[PlannedRow]) -> list[dict[str, object]]:
    """The rows' recipes and runs as plain JSON types."""
    return [
        {
            "label": row.row.label,
            "recipe": asdict(row.row.recipe),
            "runs": [run.name for run in row.runs],
            "not_pretrained": row.not_pretrained,
        }
        for row in rows
    ]


def _answer(trained: TrainedRun, training: CropSet, crops: CropSet, device: str) -> Predictions:
    """Note the reading in the run's test_readings.json, then read."""
    choice = hashlib.sha256((trained.run / CHOICE_FILE).read_bytes()).hexdigest()
    record_reading(trained.run, len(crops), hash_of(crops.case_ids), choice)
    counts = tuple(np.bincount(training.classes, minlength=3).tolist())
    chosen = precision.choose(trained.settings, device)
    parts = network_of(trained.settings, counts, trained.state, trained.epoch)
    parts.network.to(chosen, memory_format=torch.channels_last_3d)
    parts.head.to(chosen)
    logits, t_scores = read_out(parts.head, parts.network, crops, trained.settings, chosen)
    return as_predictions(TEST, crops, logits, t_scores, trained.class_prior, trained.tau1_train)


def _refuse_seen(training: CropSet, validation: CropSet, tests: Mapping[str, CropSet]) -> None:
    """Raise InputRefused if a crop of a test set also trains or validates."""
    seen = {crop.tobytes() for cases in (training, validation) for crop in np.asarray(cases.crops)}
    for split, cases in tests.items():
        known = sum(crop.tobytes() in seen for crop in np.asarray(cases.crops))
        if known:
            raise InputRefused(
                "test_case_seen",
                f"{known} of the {len(cases)} cases of the {split} test set also train or validate.",
                "A test set must hold other patients; simulate one with another --seed.",
            )
