"""The reader's choice of method and taus, as the parameter node keeps it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from medconv import tau_adjustment
from medconv.config import ModelCard
from medconv.types import Adjustment, MedConvError


def current(chosen: Any, card: ModelCard) -> Adjustment:
    """What is in use: the reader's choice, or the weights' own setting while nothing else was chosen."""
    if chosen.adjustmentIsDefault:
        return card.default_adjustment
    try:
        tau1 = chosen.tau1 if tau_adjustment.method(chosen.method).tau1_acts else card.tau1_train
        adjustment = Adjustment(chosen.method, float(tau1), float(chosen.tau2))
        tau_adjustment.check_adjustment(adjustment, card.tau1_train)
    except MedConvError:  # a scene edited by hand, or from a version with other methods
        return card.default_adjustment
    return adjustment


def fields(adjustment: Adjustment, card: ModelCard) -> dict[str, Any]:
    """The parameter fields of an adjustment. Raises UsageError if it means nothing with these weights."""
    tau_adjustment.check_adjustment(adjustment, card.tau1_train)
    return {"adjustmentIsDefault": adjustment == card.default_adjustment, **asdict(adjustment)}


def with_method(chosen: Any, card: ModelCard, method: str) -> Adjustment:
    """The adjustment after a method was chosen: its starting values, unless it is in use already."""
    now = current(chosen, card)
    return (
        now
        if now.method == method
        else tau_adjustment.starting_adjustment(method, card.default_adjustment, card.tau1_train)
    )


def with_tau1(chosen: Any, card: ModelCard, tau1: float) -> Adjustment:
    """The adjustment after tau1 was moved."""
    return replace(current(chosen, card), tau1=float(tau1))


def with_tau2(chosen: Any, card: ModelCard, tau2: float) -> Adjustment:
    """The adjustment after tau2 was moved."""
    return replace(current(chosen, card), tau2=float(tau2))
