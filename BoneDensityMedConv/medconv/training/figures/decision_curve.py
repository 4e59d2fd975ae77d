"""Is acting on the answer better than acting on everyone, or on no one: net benefit (Vickers and Elkin 2006).

At a threshold probability t a reader sends everyone to DXA (or treats) whose probability of osteoporosis is t or more.
t says what a missed patient weighs against a needless examination: t = 0.1 is nine needless ones for one found.
Net benefit = TP/n − FP/n · t/(1 − t): osteoporosis found for each patient, less what the needless ones cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medconv.training.figures.intervals import with_interval
from medconv.training.figures.metrics import OSTEOPOROSIS, IntArray
from medconv.types import FloatArray

THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 61))
TOLD = (0.05, 0.1, 0.2, 0.3)  # in tables


def net_benefit(
    targets: IntArray, osteoporosis: FloatArray, thresholds: Sequence[float], weights: FloatArray
) -> FloatArray:
    """Net benefit at every threshold for every weighting of the cases, shape (R, thresholds).

    osteoporosis: P(osteoporosis) at the population's own frequencies, (n,). weights: (R, n).
    """
    t = np.asarray(thresholds)
    sent = osteoporosis[:, None] >= t  # (n, thresholds)
    diseased = (targets == OSTEOPOROSIS)[:, None]
    gain = np.where(diseased, 1.0, -t / (1.0 - t)) * sent
    return np.asarray(weights @ gain / weights.sum(axis=1, keepdims=True))


def decision_curve(
    targets: IntArray, readers: Mapping[str, FloatArray], weights: FloatArray, against: str | None = None
) -> dict[str, Any]:
    """The curves of all readers, of sending everyone and no one, and a table at a few thresholds.

    readers: P(osteoporosis) by name, the network first. against: the reader whose benefit is taken from the network's.
    weights: of `intervals.bootstrap_weights`.
    """
    once = np.ones((1, len(targets)))
    curves = {name: net_benefit(targets, p, THRESHOLDS, once)[0].tolist() for name, p in readers.items()}
    curves["everyone"] = net_benefit(targets, np.ones(len(targets)), THRESHOLDS, once)[0].tolist()
    curves["no_one"] = [0.0] * len(THRESHOLDS)
    network = next(iter(readers))
    spread = net_benefit(targets, readers[network], THRESHOLDS, weights)
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    return {
        "thresholds": list(THRESHOLDS),
        "curves": curves,
        "network_band": {"low": low.tolist(), "high": high.tolist()},
        "table": [_row(t, targets, readers, network, against, weights) for t in TOLD],
    }


def _row(
    threshold: float, targets: IntArray, readers: Mapping[str, FloatArray], network: str, against: str | None,
    weights: FloatArray,
) -> dict[str, Any]:  # fmt: skip
    """Net benefit for 1000 patients at one threshold, and how many DXA are spared beside sending everyone."""
    once, at = np.ones((1, len(targets))), (threshold,)
    everyone = net_benefit(targets, np.ones(len(targets)), at, weights)[:, 0]
    own = net_benefit(targets, readers[network], at, weights)[:, 0]
    value = float(net_benefit(targets, readers[network], at, once)[0, 0])
    all_sent = float(net_benefit(targets, np.ones(len(targets)), at, once)[0, 0])
    per_examination = 1000.0 * (1.0 - threshold) / threshold
    row: dict[str, Any] = {
        "threshold": threshold,
        "net_benefit_per_1000": with_interval(1000.0 * value, 1000.0 * own),
        "everyone_per_1000": 1000.0 * all_sent,
        "sent": float(np.mean(readers[network] >= threshold)),
        "examinations_spared_per_1000": with_interval(
            per_examination * (value - all_sent), per_examination * (own - everyone)
        ),
    }
    if against is not None:
        other = net_benefit(targets, readers[against], at, weights)[:, 0]
        other_value = float(net_benefit(targets, readers[against], at, once)[0, 0])
        row["network_minus_hu_per_1000"] = with_interval(1000.0 * (value - other_value), 1000.0 * (own - other))
    return row
