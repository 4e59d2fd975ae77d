"""What is evaluated: cases with truth, patients and sub-groups, and what a network or another tool says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medconv.config import CLASS_ORDER, ModelCard
from medconv.simulate.cohort import CohortModel
from medconv.training.figures.choice import LogitReading, RunChoice
from medconv.training.figures.metrics import IntArray
from medconv.training.figures.predictions import Predictions
from medconv.types import FloatArray

OTHER_MIX_P = 0.01  # chi-square: below it the cases' class mix is not that of the training patients


@dataclass(frozen=True)
class Sample:
    """The cases of an evaluation, one row a case. patients: whose CT each is. reference: what the truth comes from.

    groups: sub-groups by heading, each with its value for every case ("" where unknown). model: of simulated cohorts.
    """

    predictions: Predictions
    patients: tuple[str, ...]
    reference: str
    cohort: str = ""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: CohortModel | None = None

    @property
    def one_ct_each(self) -> bool:
        """True if no patient has two CTs: then tests for independent cases hold."""
        return len(set(self.patients)) == len(self.patients)


@dataclass(frozen=True)
class Answers:
    """What a network or another tool says of every case, (n, 3) each.

    shown: with the chosen adjustment, whose most probable class is the answer. natural: at the training population's
    class frequencies. unscaled: natural before temperature scaling, None where there was none.
    class_prior: π of the training population, None where it is not known.
    """

    shown: FloatArray
    natural: FloatArray
    unscaled: FloatArray | None = None
    class_prior: FloatArray | None = None


def answers_of_run(predictions: Predictions, choice: RunChoice) -> Answers:
    """A run's answers, by the choice that was made on its validation set."""
    reading = LogitReading.of(predictions)
    logits = predictions.logits * choice.logit_scale
    prior = np.asarray(predictions.class_prior)
    shown = reading.probabilities(logits, choice.adjustment)
    return Answers(shown, reading.natural(logits), reading.natural(predictions.logits), prior)


def answers_of_weights(predictions: Predictions, card: ModelCard) -> Answers:
    """An exported network's answers: scale and adjustment came with its weights."""
    reading = LogitReading(card.class_prior, card.minority_classes, card.tau1_train)
    prior = np.array([card.class_prior[c] for c in CLASS_ORDER])
    shown = reading.probabilities(predictions.logits, card.default_adjustment)
    return Answers(shown, reading.natural(predictions.logits), None, prior)


def at_own_mix(natural: FloatArray, targets: IntArray, class_prior: FloatArray | None) -> tuple[FloatArray, bool]:
    """The probabilities for patients mixed as these: moved by Bayes' rule where the mix is clearly not the training's.

    A test set with as many of each class can't be calibrated by probabilities that expect half of all to be normal.
    """
    from scipy.stats import chisquare

    counts = np.bincount(targets, minlength=len(CLASS_ORDER))
    if class_prior is None or chisquare(counts, class_prior * counts.sum()).pvalue >= OTHER_MIX_P:
        return natural, False
    moved = natural * (counts / counts.sum()) / class_prior
    return np.asarray(moved / moved.sum(axis=1, keepdims=True)), True
