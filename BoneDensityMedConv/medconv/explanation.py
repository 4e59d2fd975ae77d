"""Which part of the vertebra moved the answer: occlusion by an average vertebra, piece by piece (docs/decisions/0006).

Each piece of the vertebra in turn gets the level of an average vertebra (`reference_vertebra`); what the answer loses
by it is what that piece had moved. The passes are captum's `FeatureAblation`.

The map tells what the network used. It does not tell where disease is, nor that the network was right to use it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medconv import crop, explanation_cells
from medconv.config import CLASS_ORDER, ModelCard
from medconv.inference import LoadedModel
from medconv.packages import how_to_install
from medconv.reference_vertebra import reference_crop
from medconv.types import (
    Cancelled,
    FloatArray,
    ImageGeometry,
    L1Case,
    MissingRequirement,
    ModelIdentity,
    QualityNote,
    Severity,
    UsageError,
)
from medconv.vertebra_parts import PARTS, vertebra_parts

if TYPE_CHECKING:
    import torch

PIECE_MM = 10.0  # a millilitre: 450 to 800 passes; half of it would be 4,000, and single pieces mostly noise
BATCH = 16  # passes at once: more gain little and need more memory
CAPTUM = "captum>=0.9,<1"  # earlier ones ask for numpy below 2

Progress = Callable[[str, float], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True)
class Target:
    """What is explained: a number that rises with osteoporosis, from class-balanced logits, shape (n, 3)."""

    label: str
    score: Callable[[FloatArray], FloatArray]


# A shift of the prior (`log_prior`, any tau2) adds a constant to the first, so its map stays right when a slider moves.
TARGETS: Mapping[str, Target] = {
    "osteoporosis_against_normal": Target("log-odds of osteoporosis against normal", lambda z: z[:, 2] - z[:, 0]),
    "osteoporosis": Target(
        "log-odds of osteoporosis against the rest", lambda z: z[:, 2] - np.logaddexp(z[:, 0], z[:, 1])
    ),
}
DEFAULT_TARGET = "osteoporosis_against_normal"


@dataclass(frozen=True)
class PartShare:
    """One part of the vertebra. mass_share: of the sum of |map|; volume_share: of the volume; both sum to 1.

    effect: what the target loses when the whole part is replaced at once, in log-odds; above 0 it had moved the
    answer towards osteoporosis.
    """

    name: str
    volume_ml: float
    volume_share: float
    mass_share: float
    effect: float


@dataclass(frozen=True)
class Explanation:
    """values_zyx: log-odds per ml on `geometry` (the network's own grid), above 0 where the bone, as it is, moved the
    answer towards osteoporosis, below 0 towards normal, compared with an average vertebra; 0 outside the vertebra.

    Every voxel has the mean over four cuts of (what the target loses when its piece is replaced) / (the piece's
    volume). The sum over the vertebra of value times volume is therefore the sum of what single pieces moved; it is
    not scaled to anything. `score` is the target as it is, `reference_score` with the average vertebra in its place:
    where pieces act together, the sum differs from the difference of the two.
    """

    values_zyx: NDArray[np.float32]
    geometry: ImageGeometry
    target: str
    score: float
    reference_score: float
    parts: tuple[PartShare, ...]
    vertebra: str
    model: ModelIdentity
    passes: int
    notes: tuple[QualityNote, ...] = ()

    @property
    def sum_of_pieces(self) -> float:
        """The map's integral over the vertebra, in log-odds."""
        return float(self.values_zyx.sum(dtype=np.float64)) * self.geometry.voxel_volume_ml


def explain(
    model: LoadedModel,
    case: L1Case,
    target: str = DEFAULT_TARGET,
    *,
    progress: Progress = lambda stage, fraction: None,
    is_cancelled: IsCancelled = lambda: False,
) -> Explanation:
    """Which part of the vertebra moved the model's answer for this case. The same case gives the same map.

    target: a key of TARGETS. progress: called with the stage in words and the fraction done, 0 to 1.
    Raises UsageError (target), MissingRequirement (captum is not installed), Cancelled.
    """
    check_target(target)
    require_captum()
    progress("Finding the parts of the vertebra", 0.0)
    preprocessing = model.card.preprocessing
    geometry = crop.crop_geometry(case, preprocessing)
    hu = crop.crop_hu(case, preprocessing)
    parts = vertebra_parts(case.mask_zyx, case.ct.geometry, geometry)
    average = reference_crop(hu, parts, preprocessing)
    edge = max(2, round(PIECE_MM / preprocessing.spacing_mm))
    cuts = list(explanation_cells.cuts(parts.labels_zyx, edge))
    passes = sum(int(cut.max()) + 2 for cut in cuts) + len(PARTS) + 2
    run = _Run(model, TARGETS[target], passes, progress, is_cancelled)

    own, reference = (crop.as_input(grid, preprocessing) for grid in (hu, average))
    if model.card.architecture.texture:
        own, reference = _with_own_texture(own, reference)
    swapped = [np.where(parts[part], reference, own) for part in PARTS]
    score, reference_score, *without = run.scores(np.stack([own, reference, *swapped]))
    values = np.mean([run.change_per_ml(own, reference, cut, geometry.voxel_volume_ml) for cut in cuts], axis=0)
    mass = np.abs(values)
    shares = tuple(
        PartShare(
            name,
            float(parts[part].sum()) * geometry.voxel_volume_ml,
            _share(parts[part], parts.inside),
            _share(mass * parts[part], mass),
            float(score - without[place]),
        )
        for place, (part, name) in enumerate(PARTS.items())
    )
    return Explanation(
        values_zyx=values.astype(np.float32),
        geometry=geometry,
        target=target,
        score=float(score),
        reference_score=float(reference_score),
        parts=shares,
        vertebra=case.vertebra,
        model=ModelIdentity(model.card.name, model.card.sha256, model.card.trained_on),
        passes=passes,
        notes=tuple(_notes(model.card)),
    )


def check_target(target: str) -> None:
    """Raise UsageError if there is no such target."""
    if target not in TARGETS:
        raise UsageError("target_unknown", f"There is no target '{target}'.", f"Choose one of {', '.join(TARGETS)}.")


def require_captum() -> None:
    """Raise MissingRequirement if captum is not installed."""
    if importlib.util.find_spec("captum") is None:
        raise MissingRequirement(
            "captum_missing",
            "captum, which makes the map of what moved the answer, is not installed.",
            how_to_install(packages=f'"{CAPTUM}"'),
        )


class _Run:
    """The network's passes, with their count for the progress. Any pass may raise Cancelled."""

    def __init__(
        self, model: LoadedModel, target: Target, passes: int, progress: Progress, is_cancelled: IsCancelled
    ) -> None:
        self._model, self._target = model, target
        self._passes, self._done = passes, 0
        self._progress, self._is_cancelled = progress, is_cancelled
        self._order = [model.card.class_order.index(c) for c in CLASS_ORDER]

    def scores(self, crops: NDArray[np.float32]) -> FloatArray:
        """The target for crops of shape (n, channels, z, y, x)."""
        if self._is_cancelled():
            raise Cancelled
        logits, _ = self._model.run_batch(crops)
        self._done += len(crops)
        done = min(self._done, self._passes)
        self._progress(f"Asking the network piece by piece: {done} of {self._passes}", done / self._passes)
        return self._target.score(logits[:, self._order])

    def change_per_ml(
        self, own: NDArray[np.float32], reference: NDArray[np.float32], cut: NDArray[np.int64], voxel_ml: float
    ) -> FloatArray:
        """What the target loses when each piece of a cut is replaced, over the piece's volume; shape of the cut."""
        import torch
        from captum.attr import FeatureAblation

        def forward(batch: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(self.scores(batch.numpy()))

        change = FeatureAblation(forward).attribute(
            torch.from_numpy(own)[None],
            baselines=torch.from_numpy(reference)[None],
            feature_mask=torch.from_numpy(cut)[None, None],  # one mask for all channels
            perturbations_per_eval=BATCH,
        )
        volume_ml = np.bincount(cut.ravel())[cut] * voxel_ml
        return np.where(cut > 0, change[0, 0].numpy() / volume_ml, 0.0)


def _with_own_texture(
    own: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both with the unevenness of the vertebra as it is, which the network would otherwise derive from each piece.

    A replaced piece ends in a step of its level. The network would see that step as unevenness, a sign of bone loss,
    so that each piece of porous bone would seem to speak for a normal class. Shapes (C, z, y, x) to (2·C, z, y, x).
    """
    import torch

    from medconv.network import local_spread

    spread = local_spread(torch.from_numpy(own)[None])[0].numpy()
    return np.concatenate([own, spread]), np.concatenate([reference, spread])


def _share(part: NDArray[Any], whole: NDArray[Any]) -> float:
    total = float(whole.sum(dtype=np.float64))
    return float(part.sum(dtype=np.float64)) / total if total else 0.0


def _notes(card: ModelCard) -> list[QualityNote]:
    if card.preprocessing.masked:
        return []
    text = "The network also sees what lies around the vertebra; the map does not cover that."
    return [QualityNote("surroundings_not_explained", Severity.WARNING, text)]
