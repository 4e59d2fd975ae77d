"""Which runtime runs: measured on this machine with these weights, correct ones only, and remembered.

The measurement is short: one pass to warm up, then a few passes of candidate and reference in turn, so that whatever
else the machine does slows both. It stops after BUDGET_S; it is left out where a pass is so short that nothing is to be
won, and torch.compile, which may need a minute, runs only for who asks. It holds for as long as its key does
(`choice_file`); whoever doubts it, because the computer was busy then, measures again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from medconv import runtimes
from medconv.runtimes import choice_file, memory, trial
from medconv.runtimes.engine import failure_note
from medconv.runtimes.runtime import CannotRun, Runtime, Subject
from medconv.runtimes.threads import SLIM_WIDTH
from medconv.types import MedConvError, QualityNote, Severity

BUDGET_S = 6.0
# A pass shorter than this stays with the reference; a GPU's passes are short, and trying others there is as well.
WORTH_IT_S, WORTH_IT_ON_A_GPU_S = 0.05, 0.005
# The fastest must save this share of the reference's time.
WORTH_SAVING = 0.1
ROUNDS = 3
# Never measured by itself: it compiles for up to a minute.
ONLY_IF_ASKED = frozenset({"compiled"})
# With the first there, the second is the same library with more in between.
INSTEAD_OF = {"onednn": "jit"}
MEASURING = "Measuring how MedConv runs fastest here: once, some seconds"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """What was chosen (`runtime` None: the reference) and what every answer must say about it.

    `seconds` holds the median pass of each runtime that was measured, and `errors` its largest error (`trial`); both
    are empty where nothing was measured. `is_final`: worth remembering; False where time ran out before any candidate
    was found good, or memory, which another program may have had.
    """

    runtime: Runtime | None = None
    notes: tuple[QualityNote, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    is_final: bool = True


def choose(subject: Subject, weights_sha256: str, wanted: str = runtimes.AUTO, say: Say = lambda what: None) -> Choice:
    """The runtime for a network, opened.

    wanted: a name insists, and is checked against the reference all the same; "auto" remembers or measures, "measure"
    measures in any case. say: told before a measurement, which can be interrupted and then leaves nothing behind.
    Raises UsageError and MissingRequirement as `open_runtime` does, for a name only.
    """
    if wanted == runtimes.REFERENCE:
        return Choice()
    if wanted not in (runtimes.AUTO, runtimes.MEASURE):
        return _insisted(subject, wanted)
    if subject.device == "cpu" and subject.architecture.width <= SLIM_WIDTH:
        return Choice()
    candidates = _candidates(subject.device)
    if not candidates:
        return Choice()
    key = choice_file.key_of(subject, weights_sha256)
    remembered = choice_file.read(key) if wanted == runtimes.AUTO else None
    if remembered is not None and (again := _opened_again(subject, remembered)) is not None:
        return again
    say(MEASURING)
    chosen = measure(subject, candidates)
    if not chosen.is_final:
        return chosen
    name = chosen.runtime.name if chosen.runtime else runtimes.REFERENCE
    notes = tuple((note.code, note.message) for note in chosen.notes)
    choice_file.write(key, choice_file.Remembered(name, notes, chosen.seconds))
    return chosen


def measure(subject: Subject, candidates: list[str]) -> Choice:
    """Time the candidates against the reference, one opened at a time, within BUDGET_S.

    The first candidate is tried whatever the time: a busy computer, where all takes long, gains most by it. The
    reference, which takes longest there, then runs no more than twice.
    """
    started = perf_counter()
    crops = trial.trial_crops(subject.input_shape)
    single = crops[:1]
    reference = _open(runtimes.REFERENCE, subject)
    try:
        warm_up = reference(single)
        before = perf_counter()
        expected = np.concatenate([warm_up, reference(crops[1:])])
        usual = perf_counter() - before
    except Exception as error:
        if not memory.is_full(error):
            raise
        return Choice(is_final=False)  # the engine does with less, or on the CPU
    seconds, errors = {runtimes.REFERENCE: usual}, {runtimes.REFERENCE: 0.0}
    best: Runtime | None = None
    best_share, notes = 1.0 - WORTH_SAVING, []
    is_final = True
    worth_it = WORTH_IT_S if subject.device == "cpu" else WORTH_IT_ON_A_GPU_S
    for place, name in enumerate(candidates if usual >= worth_it else ()):
        if place and perf_counter() - started > BUDGET_S:
            is_final = is_final and best is not None
            break
        try:
            runtime, errors[name] = _checked(name, subject, crops, expected)
            share, seconds[name] = _share_of(reference, runtime, single, started + BUDGET_S, usual)
        except Exception as error:  # noqa: BLE001 - a third party's code: it is not chosen
            is_final = is_final and not memory.is_full(error)
            notes.append(_not_used(name, error))
            continue
        # Half precision moves the answers a little: it has to save another tenth.
        if share <= best_share * (1.0 - WORTH_SAVING if runtime.is_half else 1.0):
            best, best_share = runtime, share
        del runtime  # its copy of the weights is free before the next one's is made
    return Choice(best, tuple(notes), seconds, errors, is_final)


def _candidates(device: str) -> list[str]:
    there = runtimes.available(device)
    superseded = {worse for better, worse in INSTEAD_OF.items() if better in there}
    return [name for name in there if name != runtimes.REFERENCE and name not in ONLY_IF_ASKED | superseded]


def _insisted(subject: Subject, name: str) -> Choice:
    try:
        crops = trial.trial_crops(subject.input_shape)
        expected = _logits(_open(runtimes.REFERENCE, subject), subject, crops)
        runtime, error = _checked(name, subject, crops, expected)
        return Choice(runtime, errors={name: error})
    except MedConvError:  # no such runtime, or not here
        raise
    except Exception as error:  # noqa: BLE001 - of a third party's code, or a full memory: the reference answers
        return Choice(notes=(_not_used(name, error),))


def _opened_again(subject: Subject, remembered: choice_file.Remembered) -> Choice | None:
    """The runtime that was chosen before; None if it can't be opened any more."""
    notes = tuple(QualityNote(code, Severity.INFO, message) for code, message in remembered.notes)
    if remembered.name == runtimes.REFERENCE:
        return Choice(None, notes, remembered.seconds)
    try:
        return Choice(_open(remembered.name, subject), notes, remembered.seconds)
    except Exception:  # noqa: BLE001 - measured anew
        return None


def _checked(
    name: str, subject: Subject, crops: NDArray[np.float32], expected: NDArray[np.float64]
) -> tuple[Runtime, float]:
    """The runtime and its largest error on the trial crops. Raises CannotRun if it is beyond the tolerance."""
    runtime = _open(name, subject)
    error = trial.largest_error(answers := _logits(runtime, subject, crops), expected)
    if not trial.is_correct(answers, expected, runtime.is_half):
        raise CannotRun(f"its answers differ from the reference's by {error:.1g} of 1 + |logit|")
    return runtime, error


def _logits(runtime: Runtime, subject: Subject, crops: NDArray[np.float32]) -> NDArray[np.float64]:
    """All crops' logits, as many at once as memory allows an analysis."""
    step = memory.crops_at_once(subject.architecture, subject.input_shape)
    return np.concatenate([runtime(crops[first : first + step]) for first in range(0, len(crops), step)])


def _share_of(
    reference: Runtime, runtime: Runtime, crop: NDArray[np.float32], until: float, usual: float
) -> tuple[float, float]:
    """The runtime's time as a share of the reference's, passes in turn, and its own median in seconds.

    until: on the clock; after it no further turn begins. usual: the reference's time, if there is no turn at all.
    """
    _timed(runtime, crop)
    if perf_counter() >= until:
        own = _timed(runtime, crop)
        return own / max(usual, 1e-9), own
    pairs = [(_timed(runtime, crop), _timed(reference, crop))]
    while len(pairs) < ROUNDS and perf_counter() < until:
        pairs.append((_timed(runtime, crop), _timed(reference, crop)))
    own, others = (statistics.median(times) for times in zip(*pairs, strict=True))
    return own / max(others, 1e-9), own


def _timed(runtime: Runtime, crop: NDArray[np.float32]) -> float:
    started = perf_counter()
    runtime(crop)
    return perf_counter() - started


def _open(name: str, subject: Subject) -> Runtime:
    return runtimes.open_runtime(name, subject.architecture, subject.network, subject.device, subject.input_shape)


def _not_used(name: str, error: Exception) -> QualityNote:
    if not isinstance(error, CannotRun):
        return failure_note(name, type(error).__name__)
    return QualityNote("runtime_refused", Severity.INFO, f"The runtime '{name}' was not used: {error}.")
