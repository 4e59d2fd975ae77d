"""Who is in a simulated cohort: which patients, of which class, in which part of the work. Nothing is rendered here.

The paper's cohort has 46 patients with osteoporosis, 136 with osteopenia and 207 normal, of whom 13 of each class are
validation and 13 test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from medconv.simulate.cohort import WHO_LIMITS
from medconv.simulate.person import Person, PersonSettings, draw_person
from medconv.types import TScoreClass, UsageError

PAPER_CLASSES: Mapping[TScoreClass, int] = {
    TScoreClass.OSTEOPOROSIS: 46, TScoreClass.OSTEOPENIA: 136, TScoreClass.NORMAL: 207,
}  # fmt: skip
PAPER_PATIENTS = sum(PAPER_CLASSES.values())
PAPER_PER_CLASS = 13
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
PLAN_KEY = 5  # apart from the persons' own streams


@dataclass(frozen=True)
class CohortPlan:
    """How many patients of what class, and how they are split.

    classes: exactly so many of each; None takes `patients` as frequent as they are in the population.
    validation_per_class, test_per_class: how many of each class leave training. only_split: everybody goes there.
    """

    persons: PersonSettings
    patients: int = PAPER_PATIENTS
    classes: Mapping[TScoreClass, int] | None = None
    validation_per_class: int = PAPER_PER_CLASS
    test_per_class: int = PAPER_PER_CLASS
    only_split: str | None = None


@dataclass(frozen=True)
class Member:
    """One patient of the cohort: its id, its class and its split."""

    subject_id: str
    person: Person
    t_class: TScoreClass
    split: str


def members(plan: CohortPlan) -> list[Member]:
    """Everybody, in the order of their ids; ids tell nothing of the class.

    Raises UsageError if a class has fewer patients than validation and test ask for.
    """
    rng = np.random.default_rng(np.random.SeedSequence(plan.persons.seed, spawn_key=(PLAN_KEY,)))
    persons = list(_persons(plan, rng))
    classes = [class_of(person.patient.t_score) for person in persons]
    splits = _splits(plan, classes, rng)
    seed = plan.persons.seed
    return [
        Member(f"sim{seed}-{person.index + 1:05d}", person, t_class, split)
        for person, t_class, split in zip(persons, classes, splits, strict=True)
    ]


def class_of(t_score: float) -> TScoreClass:
    """The WHO class of a T-score: −1.0 is normal, −2.5 is osteoporosis."""
    osteoporosis, normal = WHO_LIMITS
    if t_score <= osteoporosis:
        return TScoreClass.OSTEOPOROSIS
    return TScoreClass.NORMAL if t_score >= normal else TScoreClass.OSTEOPENIA


def _persons(plan: CohortPlan, rng: np.random.Generator) -> Iterator[Person]:
    if plan.classes is None:
        yield from (draw_person(plan.persons, index) for index in range(plan.patients))
        return
    names = [name for name, count in plan.classes.items() for _ in range(count)]
    for index, place in enumerate(rng.permutation(len(names)).tolist()):
        yield draw_person(plan.persons, index, names[place])


def _splits(plan: CohortPlan, classes: list[TScoreClass], rng: np.random.Generator) -> list[str]:
    if plan.only_split is not None:
        return [plan.only_split] * len(classes)
    splits = [TRAIN] * len(classes)
    held_out = [VALIDATION] * plan.validation_per_class + [TEST] * plan.test_per_class
    for name in TScoreClass:
        own = [i for i, t_class in enumerate(classes) if t_class is name]
        if len(own) < len(held_out):
            raise UsageError(
                "class_too_small",
                f"{len(own)} patients have {name.value}; validation and test ask for {len(held_out)} of each class.",
                "Simulate more patients, or lower --val-per-class and --test-per-class.",
            )
        for place, split in zip(rng.permutation(len(own))[: len(held_out)].tolist(), held_out, strict=True):
            splits[own[place]] = split
    return splits
