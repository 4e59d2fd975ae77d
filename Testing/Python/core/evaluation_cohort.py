"""Predictions of a make-believe network on a simulated cohort, without any image: quick, and the truth is known."""

from __future__ import annotations

import numpy as np

from medconv.config import CLASS_ORDER
from medconv.mineral import HU_PER_MG_HA
from medconv.simulate.cohort import CohortModel
from medconv.training.figures.predictions import Predictions
from medconv.tscore import classify

OVERCONFIDENCE = 1.5
VOLTAGES = (80.0, 100.0, 120.0, 140.0)


def predictions(split: str, n: int, seed: int, blur: float = 0.5, tau1: float = 1.0) -> Predictions:
    """A network that sees the whole signal z with an error of SD `blur`, and is too sure of what it sees.

    HU shows the density alone, as the scan's tube voltage scales it, and misses in a few cases.
    """
    model, rng = CohortModel(), np.random.default_rng([seed, {"train": 0, "validation": 1, "test": 2}[split]])
    drawn = [model.draw(rng) for _ in range(n)]
    signal, t = np.array([p.signal for p in drawn]), np.array([p.t_score for p in drawn])
    density = np.array([p.features["density"] for p in drawn])
    kvp = rng.choice(VOLTAGES, n)
    slope = np.array([HU_PER_MG_HA[v] for v in kvp]) / HU_PER_MG_HA[120.0]
    hu = (150.0 + 40.0 * density) * slope + rng.normal(0, 8, n)
    hu[rng.random(n) < 0.01] = np.nan
    seen = (signal + blur * rng.standard_normal(n)) / (1 + blur**2)  # E(z | what was seen)
    r = model.signal_correlation / np.sqrt(1 + blur**2)
    blurred = CohortModel(signal_correlation=float(r))
    posterior = blurred.class_given_signal(seen * np.sqrt(1 + blur**2))
    prior = tuple(model.class_prior()[c] for c in CLASS_ORDER)
    logits = OVERCONFIDENCE * (np.log(np.maximum(posterior, 1e-9)) - tau1 * np.log(prior))
    return Predictions(
        split=split,
        case_ids=tuple(f"{split}_{i:05d}" for i in range(n)),
        classes=np.array([CLASS_ORDER.index(classify(v)) for v in t.tolist()], np.int64),
        t_scores=t,
        logits=logits,
        median_hu=hu,
        kvp=kvp,
        signals=signal,
        predicted_t_scores=np.full(n, np.nan),
        class_prior=prior,
        tau1_train=tau1,
    )
