"""Choices made on the validation set, and only there: logit scale, adjustment, conformal and decision thresholds.

`choose_on_validation` takes nothing but predictions of the validation split, and the choice is stored beside the run
(choice.json) before a test set can be read (`test_readings`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medconv import tau_adjustment
from medconv.config import CLASS_ORDER
from medconv.training.cohorts.cases import VALIDATION
from medconv.training.figures.calibration import fit_logit_scale
from medconv.training.figures.conformal import ALPHA, fit_class_thresholds, fit_threshold
from medconv.training.figures.intervals import bootstrap_weights, spreads
from medconv.training.figures.metrics import OSTEOPOROSIS, IntArray, balanced_accuracy
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.test_readings import readings_of
from medconv.types import Adjustment, FloatArray, InputRefused, TScoreClass, UsageError

CHOICE_FILE = "choice.json"
WANTED_RATE = 0.9  # of sensitivity (rule out) and of specificity (rule in), as HU thresholds are usually published
RESAMPLES = 200
CLEARLY = 2.0  # standard errors


@dataclass(frozen=True)
class LogitReading:
    """How a network's logits are read: what its training fixes."""

    class_prior: Mapping[TScoreClass, float]
    minority_classes: tuple[TScoreClass, ...]
    tau1_train: float

    @staticmethod
    def of(predictions: Predictions) -> LogitReading:
        """As the run that made these predictions has it."""
        prior = dict(zip(CLASS_ORDER, predictions.class_prior, strict=True))
        return LogitReading(prior, minority_classes(prior), predictions.tau1_train)

    @property
    def log_prior(self) -> FloatArray:
        """log π in CLASS_ORDER, shape (3,)."""
        return np.log([self.class_prior[c] for c in CLASS_ORDER])

    def probabilities(self, logits: FloatArray, adjustment: Adjustment) -> FloatArray:
        """Adjusted probabilities of every case, shape (n, 3), by the product's own `tau_adjustment`."""
        return tau_adjustment.adjust_rows(
            logits,
            adjustment,
            class_prior=np.array([self.class_prior[c] for c in CLASS_ORDER]),
            is_minority=np.array([c in self.minority_classes for c in CLASS_ORDER]),
            tau1_train=self.tau1_train,
        )

    def natural(self, logits: FloatArray) -> FloatArray:
        """Probabilities at the training population's own class frequencies (`log_prior`, tau2 = 0), shape (n, 3)."""
        return self.probabilities(logits, Adjustment("log_prior", self.tau1_train, 0.0))


@dataclass(frozen=True)
class AdjustmentChoice:
    """The default adjustment with why, and every candidate's balanced accuracy."""

    adjustment: Adjustment
    reason: str
    candidates: dict[str, float]


@dataclass(frozen=True)
class RunChoice:
    """All that was chosen on a run's validation set. Logits are multiplied by `logit_scale` before anything else.

    conformal_threshold, class_thresholds: of `conformal`, on the probabilities with this adjustment.
    decision_thresholds: of P(osteoporosis) at the training population's frequencies. "rule_out": at or above it lay
    90 % of the validation patients with osteoporosis; "rule_in": below it 90 % of those without.
    cases_by_class, case_ids_sha256: which patients chose. test_readings_before: how often the run's test set had been
    read when this choice was stored; above 0 the test set is no longer unseen.
    """

    logit_scale: float
    adjustment: Adjustment
    minority_classes: tuple[TScoreClass, ...]
    alpha: float
    conformal_threshold: float
    class_thresholds: tuple[float, float, float]
    decision_thresholds: Mapping[str, float]
    reason: str
    candidates: Mapping[str, float]
    cases_by_class: Mapping[str, int]
    case_ids_sha256: str
    test_readings_before: int = 0

    @property
    def conformal(self) -> dict[str, float]:
        """As a `ModelCard` carries it."""
        return {"alpha": self.alpha, "threshold": self.conformal_threshold}

    def save(self, run: Path) -> RunChoice:
        """Write RUN/choice.json, whole or not at all; returns what was written, with the count of test readings."""
        stored = replace(self, test_readings_before=len(readings_of(run)))
        partial = run / f"{CHOICE_FILE}.partial"
        partial.write_text(json.dumps(asdict(stored), indent=1, allow_nan=False) + "\n", "utf-8")
        partial.replace(run / CHOICE_FILE)
        return stored

    @staticmethod
    def load(run: Path) -> RunChoice:
        """Read RUN/choice.json. Raises InputRefused if nothing was chosen, or the file is damaged."""
        path = run / CHOICE_FILE
        if not path.is_file():
            raise InputRefused(
                "choice_missing",
                f"{run} has no {CHOICE_FILE}: nothing was chosen on its validation set.",
                "Let 'medconv train' finish first; it makes the choice on the validation split.",
            )
        try:
            fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
            fields["adjustment"] = Adjustment(**fields["adjustment"])
            fields["minority_classes"] = tuple(TScoreClass(name) for name in fields["minority_classes"])
            normal, osteopenia, osteoporosis = (float(t) for t in fields["class_thresholds"])
            return RunChoice(**fields | {"class_thresholds": (normal, osteopenia, osteoporosis)})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputRefused(
                "choice_unreadable",
                f"{path} can't be read ({error or type(error).__name__}).",
                "Remove the file and run 'medconv train' with the same settings again: it makes the choice anew.",
            ) from error


def choose_on_validation(predictions: Predictions, alpha: float = ALPHA) -> RunChoice:
    """Everything that is chosen after training. Raises UsageError unless the predictions are of validation cases."""
    if predictions.split != VALIDATION:
        raise UsageError(
            "choice_needs_validation",
            f"A choice was asked for on the {predictions.split} split.",
            "tau, scale and thresholds are chosen on the validation split only.",
        )
    if len(predictions) == 0:
        raise UsageError("validation_empty", "The validation split has no case.", "Give it a few of each class.")
    reading, classes = LogitReading.of(predictions), predictions.classes
    scale = fit_logit_scale(
        predictions.logits, classes, reading.log_prior, reading.tau1_train, _sample_prior(predictions)
    )
    logits = predictions.logits * scale
    chosen = choose_adjustment(reading, logits, classes)
    natural, shown = reading.natural(logits), reading.probabilities(logits, chosen.adjustment)
    return RunChoice(
        logit_scale=scale,
        adjustment=chosen.adjustment,
        minority_classes=reading.minority_classes,
        alpha=alpha,
        conformal_threshold=fit_threshold(classes, shown, alpha),
        class_thresholds=fit_class_thresholds(classes, shown, alpha),
        decision_thresholds=decision_thresholds(classes, natural[:, OSTEOPOROSIS]),
        reason=chosen.reason,
        candidates=chosen.candidates,
        cases_by_class={str(c): int(np.sum(classes == i)) for i, c in enumerate(CLASS_ORDER)},
        case_ids_sha256=hash_of(predictions.case_ids),
    )


def minority_classes(class_prior: Mapping[TScoreClass, float]) -> tuple[TScoreClass, ...]:
    """The rarest class of the training set: what `temperature` divides by tau2. Of equals the lowest density."""
    return (min(reversed(CLASS_ORDER), key=lambda c: class_prior[c]),)


def candidates(tau1_train: float) -> list[Adjustment]:
    """What is tried: `log_prior` with tau2 from 0 to 1.5, `temperature` with tau1 = 1 and tau2 from 0.3 to 1.5."""
    shifts = [Adjustment("log_prior", tau1_train, round(0.1 * i, 2)) for i in range(16)]
    return shifts + [Adjustment("temperature", 1.0, round(0.1 * i, 2)) for i in range(3, 16)]


def choose_adjustment(reading: LogitReading, logits: FloatArray, classes: IntArray) -> AdjustmentChoice:
    """The candidate with the best balanced accuracy on validation; theory decides among those as good as it.

    For balanced accuracy theory says `log_prior` with tau2 = 1 (class-balanced probabilities). It is taken unless
    another is better by more than two standard errors (bootstrap) of the difference: with some hundred patients the
    best of many candidates is otherwise mostly luck.
    """
    theory = Adjustment("log_prior", reading.tau1_train, 1.0)
    found = {adjustment: reading.probabilities(logits, adjustment) for adjustment in candidates(reading.tau1_train)}
    scores = {adjustment: balanced_accuracy(classes, p) for adjustment, p in found.items()}
    best = max(scores, key=lambda adjustment: scores[adjustment])
    weights = bootstrap_weights(classes, [str(i) for i in range(len(classes))], RESAMPLES, seed=0)
    of_best, of_theory = (
        spreads(classes, found[a], weights, ("balanced_accuracy",))["balanced_accuracy"] for a in (best, theory)
    )
    gain, error = scores[best] - scores[theory], float(np.std(of_best.minus(of_theory).resamples))
    chosen = best if gain > CLEARLY * error else theory
    reason = (
        f"On validation {describe(best)} had the best balanced accuracy ({scores[best]:.3f}); {describe(theory)}, "
        f"which theory prescribes, had {scores[theory]:.3f} (difference {gain:.3f}, standard error {error:.3f}). "
        f"Chosen: {describe(chosen)}."
    )
    return AdjustmentChoice(chosen, reason, {describe(a): score for a, score in scores.items()})


def decision_thresholds(classes: IntArray, osteoporosis: FloatArray) -> dict[str, float]:
    """Thresholds of P(osteoporosis), (n,): see `RunChoice`. Without such patients everyone is ruled in, or no one."""
    with_it, without = np.sort(osteoporosis[classes == OSTEOPOROSIS]), np.sort(osteoporosis[classes != OSTEOPOROSIS])
    missed = len(with_it) - math.ceil(WANTED_RATE * len(with_it) - 1e-9)
    passed = math.ceil(WANTED_RATE * len(without) - 1e-9)
    rule_in = without[passed] if passed < len(without) else 1.0
    return {"rule_out": float(with_it[missed]) if len(with_it) else 0.0, "rule_in": float(rule_in)}


def describe(adjustment: Adjustment) -> str:
    """For people: method and taus."""
    return f"{adjustment.method} (tau1 = {adjustment.tau1:g}, tau2 = {adjustment.tau2:g})"


def hash_of(case_ids: Sequence[str]) -> str:
    """SHA-256 of the sorted case ids: which cases, without naming them."""
    return hashlib.sha256("\n".join(sorted(case_ids)).encode()).hexdigest()


def hash_of_file(run: Path) -> str:
    """SHA-256 of RUN/choice.json: with which choice a test set is read."""
    return hashlib.sha256((run / CHOICE_FILE).read_bytes()).hexdigest()


def _sample_prior(predictions: Predictions) -> FloatArray:
    """The validation set's own class frequencies, each kept above 0 (half a patient added to every class)."""
    counts = np.array([np.sum(predictions.classes == i) for i in range(len(CLASS_ORDER))]) + 0.5
    return np.asarray(counts / counts.sum())
