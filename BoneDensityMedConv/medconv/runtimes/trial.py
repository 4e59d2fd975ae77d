"""Trial crops, and whether a runtime's answers on them are the reference's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medconv.runtimes.runtime import Shape4

# Of 1 + |logit|.
TOLERANCE, HALF_TOLERANCE = 1e-4, 0.02
SEED = 20260101


def trial_crops(input_shape: Shape4, count: int = 2) -> NDArray[np.float32]:
    """Crops that look to the network as masked vertebrae do, shape (count, channels, z, y, x), always the same.

    Trabecular grey with noise inside a rim of cortex, exactly 0 outside; grey levels 0 to 1, all channels equal.
    """
    random = np.random.default_rng(SEED)
    channels, *space = input_shape
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in space), indexing="ij")
    crops = []
    for level in np.linspace(0.45, 0.25, count):  # dense to porous bone, as a window of -200 to 800 HU shows it
        body = (z / 0.55) ** 2 + ((y + 0.25) / 0.5) ** 2 + (x / 0.6) ** 2
        arch = (z / 0.4) ** 2 + ((y - 0.45) / 0.35) ** 2 + (x / 0.75) ** 2
        distance = np.minimum(body, arch) + 0.05 * random.standard_normal(body.shape)
        grey = level + 0.04 * random.standard_normal(body.shape) + 0.35 * (distance > 0.8)
        crops.append(np.where(distance < 1, np.clip(grey, 0, 1), 0))
    return np.repeat(np.stack(crops)[:, np.newaxis], channels, axis=1).astype(np.float32)


def largest_error(answers: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Largest difference from the reference as a share of 1 + |logit|; infinite for what is no number or no answer."""
    if answers.shape != reference.shape or not np.isfinite(answers).all():
        return float("inf")
    return float((np.abs(answers - reference) / (1 + np.abs(reference))).max())


def is_correct(answers: NDArray[np.float64], reference: NDArray[np.float64], is_half: bool) -> bool:
    """True if every logit lies within the tolerance of its precision."""
    return largest_error(answers, reference) <= (HALF_TOLERANCE if is_half else TOLERANCE)
