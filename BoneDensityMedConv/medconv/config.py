"""Settings that come with a set of weights: what the network sees, what it is, how its logits are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medconv.population import Population
from medconv.types import Adjustment, TScoreClass

CLASS_ORDER = (TScoreClass.NORMAL, TScoreClass.OSTEOPENIA, TScoreClass.OSTEOPOROSIS)


@dataclass(frozen=True)
class Preprocessing:
    """The standardised crop around L1, the same for training and inference.

    size_xyz: voxels of the network's input; axes point to the patient's left, posterior and superior.
    spacing_mm: edge of its cubic voxels.
    window_hu: HU that map to 0 and 1; values outside are clipped.
    masked: True sets everything outside L1 to the lower end of the window (the paper's "segment L1 as input").
    channels: 1 for grey input, 3 for the authors' replicated input.
    reference_kvp: HU are multiplied by what mineral attenuates at this voltage over what it does at the CT's
        (`mineral.to_voltage`); None leaves them as scanned.
    """

    size_xyz: tuple[int, int, int] = (64, 64, 48)
    spacing_mm: float = 1.5
    window_hu: tuple[float, float] = (-200.0, 800.0)
    masked: bool = True
    channels: int = 1
    reference_kvp: float | None = None


@dataclass(frozen=True)
class Architecture:
    """A 3D ResNet after timm's, by default `resnet50.a1_in1k`; `width` 64 is the original, smaller is slimmer.

    head: how class logits are read from the last layer's outputs (`network.READINGS`).
    texture: the network derives a second input from the first, the local unevenness of bone (`network.local_spread`).
    logit_scale: what the read logits are multiplied by, where it could not be folded into the last layer.
    """

    name: str = "resnet50"
    width: int = 64
    in_channels: int = 1
    num_classes: int = 3
    head: str = "classes"
    texture: bool = False
    logit_scale: float = 1.0


@dataclass(frozen=True)
class ModelCard:
    """One entry of model_weights/manifest.json.

    conformal: {"alpha", "threshold"} of `prediction_set`, from validation; empty for weights without one.
    population: whom they were trained on, as numbers; None for weights that do not tell.
    """

    name: str
    file: str
    sha256: str
    architecture: Architecture
    preprocessing: Preprocessing
    class_prior: Mapping[TScoreClass, float]
    minority_classes: tuple[TScoreClass, ...]
    tau1_train: float
    default_adjustment: Adjustment
    trained_on: str
    intended_use: str
    licence: str
    class_order: tuple[TScoreClass, ...] = CLASS_ORDER
    simulated_only: bool = True
    validation: Mapping[str, Any] = field(default_factory=dict)
    conformal: Mapping[str, float] = field(default_factory=dict)
    population: Population | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, in the manifest's own field names."""
        return asdict(self)

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> ModelCard:
        """Read one manifest entry. Raises KeyError, TypeError or ValueError where the entry is not complete."""
        fields = dict(entry)
        preprocessing = dict(fields["preprocessing"])
        preprocessing["size_xyz"] = tuple(preprocessing["size_xyz"])
        preprocessing["window_hu"] = tuple(preprocessing["window_hu"])
        fields["preprocessing"] = Preprocessing(**preprocessing)
        fields["architecture"] = Architecture(**fields["architecture"])
        fields["class_order"] = tuple(TScoreClass(name) for name in fields["class_order"])
        fields["minority_classes"] = tuple(TScoreClass(name) for name in fields["minority_classes"])
        fields["class_prior"] = {TScoreClass(name): float(p) for name, p in fields["class_prior"].items()}
        fields["default_adjustment"] = Adjustment(**fields["default_adjustment"])
        fields["conformal"] = {name: float(v) for name, v in (fields.get("conformal") or {}).items()}
        fields["population"] = Population.from_json(fields["population"]) if fields.get("population") else None
        card = ModelCard(**fields)
        if set(card.class_prior) != set(CLASS_ORDER) or abs(sum(card.class_prior.values()) - 1) > 1e-3:
            raise ValueError(f"class_prior of {card.name} must name {[str(c) for c in CLASS_ORDER]} and sum to 1")
        if card.conformal and not (0 < card.conformal["alpha"] < 1 and 0 <= card.conformal["threshold"] <= 1):
            raise ValueError(f"conformal of {card.name} needs alpha and threshold within 0..1, got {card.conformal}")
        return card
