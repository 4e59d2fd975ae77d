"""The readers to beat: WHO class from L1's median HU alone, by a cumulative logit (proportional odds) model.

Three of them, as scanned and with the tube voltage taken out in two ways, so that a network is compared with the
strongest reader of the density that any radiologist can measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.mineral import to_voltage
from medconv.training.figures.metrics import CLASSES, IntArray
from medconv.types import FloatArray

# Published conversions to 120 kVp; 80 kVp extrapolated from NIST attenuation.
TO_120_KVP = {80.0: 0.81, 100.0: 0.927, 120.0: 1.0, 140.0: 1.053}
REFERENCE_KVP = 120.0
FOLDS = 10
MINIMUM_PER_CLASS = 5
# Measured HU and kVp of the cases, (n,), to the HU that is read.
Correction = Callable[[FloatArray, FloatArray], FloatArray]


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


@dataclass(frozen=True)
class HuCases:
    """What a HU reader is fitted on: measured HU, kVp (NaN where unknown) and classes, each (n,)."""

    hu: FloatArray
    kvp: FloatArray
    classes: IntArray

    def chosen(self, which: NDArray[np.bool_]) -> HuCases:
        """The cases that a mask names."""
        return HuCases(self.hu[which], self.kvp[which], self.classes[which])


@dataclass(frozen=True)
class HuReader:
    """One HU reader's answers. likelihood: mean log p on the patients it was fitted on, by which the strongest is told.

    natural: probabilities at the training population's frequencies, (n, 3); balanced: with all classes as frequent.
    """

    name: str
    label: str
    likelihood: float
    natural: FloatArray
    balanced: FloatArray


def to_120_kvp(hu: FloatArray, kvp: FloatArray) -> FloatArray:
    """HU as they would be at 120 kVp, by the published factors, linear between them; unknown kVp is taken as 120."""
    known = np.where(np.isnan(kvp), REFERENCE_KVP, kvp)
    return np.asarray(hu * np.interp(known, list(TO_120_KVP), list(TO_120_KVP.values())))


def mineral_to_120_kvp(hu: FloatArray, kvp: FloatArray) -> FloatArray:
    """HU as they would be at 120 kVp, by how bone mineral attenuates (NIST; `mineral.to_voltage`)."""
    factors = [to_voltage(None if np.isnan(v) else v, REFERENCE_KVP) for v in kvp.tolist()]
    return np.asarray(hu * np.array(factors))


READERS: Mapping[str, tuple[str, Correction]] = {
    "hu_only": ("L1's HU as scanned", lambda hu, kvp: hu),
    "hu_only_kvp_corrected": ("L1's HU brought to 120 kVp by published factors", to_120_kvp),
    "hu_only_mineral_corrected": ("L1's HU brought to 120 kVp by mineral's attenuation (NIST)", mineral_to_120_kvp),
}


def fit_cumulative_logit(hu: FloatArray, classes: IntArray) -> CumulativeLogit:
    """Maximum likelihood fit. classes: 0 normal, 1 osteopenia, 2 osteoporosis. Source: McCullagh 1980."""
    from scipy.optimize import minimize

    mean, sd = float(np.nanmean(hu)), max(float(np.nanstd(hu)), 1e-6)

    def model(parameters: FloatArray) -> CumulativeLogit:
        slope, first, gap = (float(p) for p in parameters)
        return CumulativeLogit(mean, sd, slope, (first, first - float(np.exp(gap))))  # cuts stay in order

    def loss(parameters: FloatArray) -> float:
        p = model(parameters).probabilities(hu)[np.arange(len(classes)), classes]
        return -float(np.mean(np.log(np.maximum(p, 1e-12))))

    return model(minimize(loss, np.array([1.0, 0.0, 0.5]), method="Nelder-Mead", options={"maxiter": 2000}).x)


def class_balanced(probabilities: FloatArray, class_prior: FloatArray) -> FloatArray:
    """Probabilities as if the classes were equally frequent, shape (n, 3)."""
    balanced = probabilities / class_prior
    return np.asarray(balanced / balanced.sum(axis=1, keepdims=True))


def usable(cases: HuCases) -> HuCases:
    """The cases whose HU could be measured."""
    return cases.chosen(np.isfinite(cases.hu))


def can_be_fitted(cases: HuCases) -> bool:
    """True if every class has a few cases with a measured HU."""
    counts = np.bincount(usable(cases).classes, minlength=len(CLASSES))
    return bool(counts.min() >= MINIMUM_PER_CLASS)


def hu_readers(training: HuCases, hu: FloatArray, kvp: FloatArray) -> dict[str, HuReader]:
    """Every reader of READERS fitted on the training patients, with its answers for others' HU and kVp."""
    known = usable(training)
    prior = _frequencies(known.classes)
    found = {}
    for name, (label, corrected) in READERS.items():
        fitted_on = corrected(known.hu, known.kvp)
        model = fit_cumulative_logit(fitted_on, known.classes)
        natural = model.probabilities(corrected(hu, kvp))
        likelihood = _mean_log_p(model.probabilities(fitted_on), known.classes)
        found[name] = HuReader(name, label, likelihood, natural, class_balanced(natural, prior))
    return found


def cross_fitted_hu_readers(cases: HuCases, patients: tuple[str, ...]) -> dict[str, HuReader]:
    """Every reader with answers for the very cases it is given, each from a fit on the other patients (10 folds)."""
    _, number = np.unique(np.asarray(patients), return_inverse=True)
    fold = np.random.default_rng(0).permutation(number.max() + 1)[number.ravel()] % FOLDS
    natural = {name: np.zeros((len(fold), len(CLASSES))) for name in READERS}
    balanced = {name: np.zeros((len(fold), len(CLASSES))) for name in READERS}
    for k in range(FOLDS):
        held_out = fold == k
        if not held_out.any():
            continue
        for name, reader in hu_readers(cases.chosen(~held_out), cases.hu[held_out], cases.kvp[held_out]).items():
            natural[name][held_out], balanced[name][held_out] = reader.natural, reader.balanced
    known = np.isfinite(cases.hu)
    return {
        name: HuReader(
            name, label, _mean_log_p(natural[name][known], cases.classes[known]), natural[name], balanced[name]
        )
        for name, (label, _) in READERS.items()
    }


def strongest(readers: Mapping[str, HuReader]) -> str:
    """The reader that explains the patients it was fitted on best: chosen without a look at the test set."""
    return max(readers, key=lambda name: readers[name].likelihood)


def _frequencies(classes: IntArray) -> FloatArray:
    return np.bincount(classes, minlength=len(CLASSES)) / len(classes)


def _mean_log_p(probabilities: FloatArray, classes: IntArray) -> float:
    return float(np.mean(np.log(np.maximum(probabilities[np.arange(len(classes)), classes], 1e-12))))
