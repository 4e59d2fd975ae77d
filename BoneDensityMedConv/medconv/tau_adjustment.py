"""Post-hoc logit adjustment: the network's logits and two taus become class probabilities.

This is the one place where tau's sign lives. With π the class frequencies of the training set and a network trained
on CE(z + tau1_train·log π), z + tau1_train·log π are the logits of the training population's posterior, and at
tau1_train = 1 the raw z are class-balanced logits (Menon et al. 2021, "Long-tail learning via logit adjustment").

| method              | probabilities                                      | taus that act                     |
|---------------------|----------------------------------------------------|-----------------------------------|
| `log_prior`         | softmax(z + (tau1_train − tau2)·log π)             | tau2; tau1 belongs to the weights |
| `temperature`       | softmax(z̃_c / tau_c), z̃ = z − mean(z)              | tau1 majority, tau2 minority      |
| `legacy_validation` | softmax(z − tau2·log π)                            | tau2                              |
| `legacy_test`       | softmax(z + tau2·log π)                            | tau2                              |

`log_prior`: tau2 = 0 gives the training population's posterior, tau2 = 1 the class-balanced one.
`temperature` is Eq. III-C of the MedConv paper (arXiv 2502.00631) carried to three classes; the mean is removed
because the form would otherwise depend on a constant added to all logits. It sharpens the evidence of a class and
does not shift its prior. The two legacy methods are the two signs found in the authors' training and test scripts;
they are kept only to reproduce published tables.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from medconv.types import Adjustment, BoolArray, FloatArray, QualityNote, Severity, TScoreClass, UsageError

STARTING_TAU1 = 1.0
PUBLISHED_TAU2 = 0.5  # with tau1 = 1, the values that the paper publishes


@dataclass(frozen=True)
class Method:
    """One way to adjust logits, as a panel or the command line offers it. A tau with equal limits is fixed."""

    id: str
    label: str
    help: str
    tau1_acts: bool
    tau2_limits: tuple[float, float]
    tau1_limits: tuple[float, float] = (0.0, 2.0)
    starting_tau2: float = PUBLISHED_TAU2


METHODS: tuple[Method, ...] = (
    Method(
        "log_prior",
        "Prior shift (log prior)",
        "How strongly the class frequencies of the training patients are taken out again: tau2 = 0 keeps them, "
        "tau2 = 1 treats the three classes as equally frequent.",
        tau1_acts=False,
        tau2_limits=(0.0, 2.0),
        starting_tau2=1.0,  # the class-balanced posterior
    ),
    Method(
        "temperature",
        "Temperature (paper, Eq. III-C)",
        "Divides the logits of the majority classes by tau1 and those of the minority class by tau2. A smaller tau "
        "sharpens a class's evidence; it does not shift its prior.",
        tau1_acts=True,
        tau1_limits=(0.05, 2.0),
        tau2_limits=(0.05, 2.0),
    ),
    Method(
        "legacy_validation",
        "Authors' validation sign (z − tau·log π)",
        "The sign in the authors' training script, kept to reproduce their tables. Not for reading a patient.",
        tau1_acts=False,
        tau2_limits=(0.0, 2.0),
    ),
    Method(
        "legacy_test",
        "Authors' test sign (z + tau·log π)",
        "The sign in the authors' test script, kept to reproduce their tables. Not for reading a patient.",
        tau1_acts=False,
        tau2_limits=(0.0, 2.0),
    ),
)


def method(method_id: str) -> Method:
    """The method of that id. Raises UsageError naming the known ones."""
    for known in METHODS:
        if known.id == method_id:
            return known
    raise UsageError(
        "unknown_adjustment",
        f"There is no adjustment method '{method_id}'.",
        f"Choose one of: {', '.join(known.id for known in METHODS)}.",
    )


def adjust(
    logits: Mapping[TScoreClass, float],
    adjustment: Adjustment,
    *,
    class_prior: Mapping[TScoreClass, float],
    minority_classes: Collection[TScoreClass],
    tau1_train: float,
) -> dict[TScoreClass, float]:
    """Probabilities of the three classes, summing to 1.

    logits: the network's own, one per class.
    class_prior: class frequencies of the training set, each > 0.
    minority_classes: the classes that `temperature` divides by tau2.
    tau1_train: the tau of the loss that trained the weights.

    Raises UsageError for an unknown method or a tau outside its meaning.
    """
    classes = list(logits)
    probabilities = adjust_rows(
        np.array([logits[c] for c in classes], float),
        adjustment,
        class_prior=np.array([class_prior[c] for c in classes]),
        is_minority=np.array([c in minority_classes for c in classes]),
        tau1_train=tau1_train,
    )
    return dict(zip(classes, probabilities.tolist(), strict=True))


def adjust_rows(
    z: FloatArray, adjustment: Adjustment, *, class_prior: FloatArray, is_minority: BoolArray, tau1_train: float
) -> FloatArray:
    """Probabilities of many cases at once: z (..., classes), class_prior and is_minority (classes,); as `adjust`."""
    check_adjustment(adjustment, tau1_train)
    if not (np.isfinite(z).all() and np.isfinite(class_prior).all() and (class_prior > 0).all()):
        raise ValueError(f"logits must be finite and the class prior above 0, got {z} and {class_prior}")
    log_prior = np.log(class_prior)
    if adjustment.method == "log_prior":
        adjusted = z + (tau1_train - adjustment.tau2) * log_prior
    elif adjustment.method == "temperature":
        adjusted = (z - z.mean(axis=-1, keepdims=True)) / np.where(is_minority, adjustment.tau2, adjustment.tau1)
    elif adjustment.method == "legacy_validation":
        adjusted = z - adjustment.tau2 * log_prior
    else:
        adjusted = z + adjustment.tau2 * log_prior
    return softmax(adjusted)


def check_adjustment(adjustment: Adjustment, tau1_train: float) -> None:
    """Raise UsageError unless the method is known and both taus mean something in it."""
    chosen = method(adjustment.method)
    _check_range("tau2", adjustment.tau2, chosen.tau2_limits, chosen)
    if chosen.tau1_acts:
        _check_range("tau1", adjustment.tau1, chosen.tau1_limits, chosen)
    elif not math.isclose(adjustment.tau1, tau1_train, abs_tol=1e-9):
        raise UsageError(
            "tau1_is_fixed",
            f"tau1 = {adjustment.tau1:g} can't be chosen with '{chosen.id}': it belongs to the weights, which were "
            f"trained with tau1 = {tau1_train:g}.",
            f"Leave tau1 out (or give {tau1_train:g}), or use the method 'temperature'.",
        )


def _check_range(name: str, tau: float, limits: tuple[float, float], chosen: Method) -> None:
    low, high = limits
    if not (math.isfinite(tau) and low <= tau <= high):
        raise UsageError(
            "tau_out_of_range",
            f"{name} = {tau:g} is out of range for '{chosen.id}'.",
            f"Choose {name} from {low:g} to {high:g}.",
        )


def starting_adjustment(method_id: str, default: Adjustment, tau1_train: float) -> Adjustment:
    """The taus that a method starts with: the weights' own for their method, else the method's usual ones.

    Raises UsageError for an unknown method.
    """
    if method_id == default.method:
        return default
    chosen = method(method_id)
    return Adjustment(method_id, STARTING_TAU1 if chosen.tau1_acts else tau1_train, chosen.starting_tau2)


def choice_notes(adjustment: Adjustment, default: Adjustment) -> list[QualityNote]:
    """A note if the reader moved away from what the weights were validated with."""
    if adjustment == default:
        return []
    return [
        QualityNote(
            "adjustment_not_default",
            Severity.INFO,
            f"Adjustment changed by the reader; these weights were validated with {default.method}, "
            f"tau1 {default.tau1:g}, tau2 {default.tau2:g}.",
        )
    ]


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, shape (..., classes), safe for large logits."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
