"""The reader to beat: WHO class from L1's median HU alone, by a cumulative logit (proportional odds) model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.types import FloatArray

# Published conversions to 120 kVp; 80 kVp extrapolated from NIST attenuation.
TO_120_KVP = {80.0: 0.81, 100.0: 0.927, 120.0: 1.0, 140.0: 1.053}


@dataclass(frozen=True)
class CumulativeLogit:
    """P(class ≥ k) = 1 / (1 + exp(−(cut_k − slope·x))), x the standardised HU; classes from dense to porous."""

    mean_hu: float
    sd_hu: float
    slope: float
    cuts: tuple[float, float]

    def probabilities(self, hu: FloatArray) -> FloatArray:
        """P(normal), P(osteopenia), P(osteoporosis) at the training population's frequencies, shape (n, 3).

        HU that could not be measured (NaN) count as the mean.
        """
        x = (np.where(np.isnan(hu), self.mean_hu, hu) - self.mean_hu) / self.sd_hu
        low, very_low = (1.0 / (1.0 + np.exp(-(cut - self.slope * x))) for cut in self.cuts)
        return np.stack([1.0 - low, low - very_low, very_low], axis=1)


def fit_cumulative_logit(hu: FloatArray, classes: NDArray[np.int64]) -> CumulativeLogit:
    """Maximum likelihood fit. classes: 0 normal, 1 osteopenia, 2 osteoporosis. Source: McCullagh 1980."""
    from scipy.optimize import minimize

    mean, sd = float(np.nanmean(hu)), float(np.nanstd(hu))

    def model(parameters: FloatArray) -> CumulativeLogit:
        slope, first, gap = (float(p) for p in parameters)
        return CumulativeLogit(mean, sd, slope, (first, first - float(np.exp(gap))))  # cuts stay in order

    def loss(parameters: FloatArray) -> float:
        p = model(parameters).probabilities(hu)[np.arange(len(classes)), classes]
        return -float(np.mean(np.log(np.maximum(p, 1e-12))))

    return model(minimize(loss, np.array([1.0, 0.0, 0.5]), method="Nelder-Mead", options={"maxiter": 2000}).x)


def to_120_kvp(hu: FloatArray, kvp: FloatArray) -> FloatArray:
    """HU as they would be at 120 kVp, by the published factors, linear between them."""
    return hu * np.interp(kvp, list(TO_120_KVP), list(TO_120_KVP.values()))


def class_balanced(probabilities: FloatArray, class_prior: FloatArray) -> FloatArray:
    """Probabilities as if the classes were equally frequent, shape (n, 3)."""
    balanced = probabilities / class_prior
    return np.asarray(balanced / balanced.sum(axis=1, keepdims=True))
