"""Does the map of what moved an answer lie where the signal lies? A check on simulated patients, by one command:

    python -m medconv.training.explanation_check --out RUN

Two networks are trained on the same images. For one the T-score follows the trabecular density alone, for the other
the thickness of the cortex alone, so that only the labels can make their maps differ. Then `explanation.explain` is
asked about fresh patients, and the share of each map that lies in each part of the vertebra is set against that part's
share of the volume, and against where the feature shows at all: density shows in all trabecular bone, not in the core
alone. Killed at any point, the same command goes on where it was, network by network.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medconv.config import CLASS_ORDER, Architecture, ModelCard, Preprocessing
from medconv.crop import crop_geometry, crop_hu
from medconv.explanation import Explanation, explain
from medconv.inference import LoadedModel
from medconv.network import build_network
from medconv.simulate.cohort import FEATURES, CohortModel
from medconv.simulate.l1_case import simulate_l1_case
from medconv.training.cohorts.crops import LEVELS, SHARD_SIZE, SPLITS, CropRequest, cached_crops
from medconv.types import Adjustment, FloatArray, L1Case
from medconv.vertebra_parts import PARTS, vertebra_parts

SIGNALS = ("density", "cortex")
SIGNAL_CORRELATION = 0.95  # nearly all of the T-score is in the image: a few hundred patients then suffice
PREPROCESSING = Preprocessing(size_xyz=(40, 48, 36), spacing_mm=2.0, reference_kvp=120.0)
PAIRS = 12
FIRST_EXPLAINED = 1000  # of the validation stream; those before may tell how well the network has learnt


@dataclass(frozen=True)
class CheckSettings:
    """All that decides the figures, with the code."""

    cases: int = 2000
    validation_cases: int = 300
    explained: int = 40
    epochs: int = 6
    width: int = 8
    batch_size: int = 16
    learning_rate: float = 2e-3
    seed: int = 20261
    preprocessing: Preprocessing = PREPROCESSING


@dataclass(frozen=True)
class Located:
    """Where the maps of one network lie; every tuple has one value for each of PARTS.

    mass_share: of the sum of |map| over all cases; volume_share: mean; effect_share: of the sum of |effect|.
    effect_with_signal: correlation of each part's effect with the feature that carries the signal. whole_with_pieces:
    correlation of what replacing the vertebra at once moves with the sum of what its pieces move.
    """

    mass_share: tuple[float, ...]
    volume_share: tuple[float, ...]
    effect_share: tuple[float, ...]
    effect_with_signal: tuple[float, ...]
    whole_with_pieces: float


def only(signal: str) -> CohortModel:
    """The cohort in which one feature carries the whole signal."""
    shares = {name: float(name == signal) for name in FEATURES}
    return CohortModel(signal_correlation=SIGNAL_CORRELATION, shares=shares)


def locate(explanations: Sequence[Explanation], signal: FloatArray) -> Located:
    """Where these maps lie. signal: the feature that carries the signal, one value a case."""
    masses = np.array([[part.mass_share for part in e.parts] for e in explanations])  # (cases, parts)
    masses *= np.array([[np.abs(e.values_zyx).sum(dtype=np.float64)] for e in explanations])
    volumes = np.array([[part.volume_share for part in e.parts] for e in explanations])
    effects = np.array([[part.effect for part in e.parts] for e in explanations])
    whole = [e.score - e.reference_score for e in explanations]
    return Located(
        mass_share=_shares(masses),
        volume_share=tuple(volumes.mean(axis=0).tolist()),
        effect_share=_shares(np.abs(effects)),
        effect_with_signal=tuple(_correlation(effects[:, part], signal) for part in range(len(PARTS))),
        whole_with_pieces=_correlation(whole, [e.sum_of_pieces for e in explanations]),
    )


def signal_share(signal: str, settings: CheckSettings) -> tuple[float, ...]:
    """Where a feature shows: the share of |HU difference| in each of PARTS between patients who are alike but for it.

    The same random numbers with two T-scores give the same body, scan, noise and mask; only the feature differs.
    """
    cohort, shown = only(signal), []
    for index in range(FIRST_EXPLAINED, FIRST_EXPLAINED + PAIRS):
        stream = [settings.seed, SPLITS["validation"], index]
        low, high = (
            simulate_l1_case(np.random.default_rng(stream), cohort=cohort, t_score=t_score)[0]
            for t_score in (cohort.t_score_mean - cohort.t_score_sd, cohort.t_score_mean + cohort.t_score_sd)
        )
        difference = np.abs(crop_hu(high, settings.preprocessing) - crop_hu(low, settings.preprocessing))
        geometry = crop_geometry(low, settings.preprocessing)
        parts = vertebra_parts(low.mask_zyx, low.ct.geometry, geometry)
        shown.append([float(difference[parts[part]].sum()) for part in PARTS])
    return _shares(np.array(shown))


def run_check(settings: CheckSettings, out: Path, crops: Path, workers: int | None = None) -> dict[str, Any]:
    """Simulate, train both networks, explain, measure; the report as a document."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {"settings": asdict(settings), "parts": list(PARTS.values()), "networks": {}}
    for signal in SIGNALS:
        network, correlation = _network(settings, signal, out, crops, workers)
        model = LoadedModel(_card(settings, signal), network)
        explanations, features = [], []
        for case, truth in _fresh_cases(settings):
            explanations.append(explain(model, case))
            features.append(float(truth[f"feature_{signal}"]))
            print(f"{signal}: {len(features)} of {settings.explained} explained", flush=True)
        located = locate(explanations, np.array(features))
        shown = signal_share(signal, settings)
        report["networks"][signal] = {"learnt": correlation, "signal_share": shown, **asdict(located)}
    return report


def as_text(report: dict[str, Any]) -> str:
    """The figures as lines for people."""
    lines = []
    for signal, figures in report["networks"].items():
        lines.append(
            f"Only {signal} carries signal (network's answer and {signal}: r = {figures['learnt']:.2f}; pieces and "
            f"whole: r = {figures['whole_with_pieces']:.2f})"
        )
        for place, name in enumerate(report["parts"]):
            mass, volume = figures["mass_share"][place], figures["volume_share"][place]
            lines.append(
                f"  {name:<30} map {mass:4.0%}, volume {volume:4.0%} (x {mass / volume:.2f}), {signal} shows "
                f"{figures['signal_share'][place]:4.0%}, replaced at once {figures['effect_share'][place]:4.0%} "
                f"(with {signal} r = {figures['effect_with_signal'][place]:+.2f})"
            )
    return "\n".join(lines)


def _network(
    settings: CheckSettings, signal: str, out: Path, folder: Path, workers: int | None
) -> tuple[nn.Module, float]:
    """The network of one signal, trained or read again, and its answer's correlation with the signal on validation."""
    file = out / f"{signal}.pt"
    key = json.dumps(asdict(settings) | {"explained": 0}, sort_keys=True)
    validation, truth = _crops(settings, "validation", settings.validation_cases, signal, folder, workers)
    torch.manual_seed(settings.seed)
    network = build_network(Architecture(width=settings.width)).to(memory_format=torch.channels_last_3d)
    kept = torch.load(file, weights_only=True) if file.exists() else {"settings": ""}
    if kept["settings"] == key:
        network.load_state_dict(kept["network"])
    else:
        training, signals = _crops(settings, "train", settings.cases, signal, folder, workers)
        _train(network, training, only(signal).class_given_signal(signals), settings, signal)
        partial = file.with_suffix(".partial")
        torch.save({"settings": key, "network": network.state_dict()}, partial)
        partial.replace(file)
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(_to_input(part)) for part in np.array_split(validation, len(validation) // 25)])
    return network, -_correlation((logits[:, 2] - logits[:, 0]).numpy(), truth)


def _train(
    network: nn.Module, crops: NDArray[np.uint8], posterior: FloatArray, settings: CheckSettings, signal: str
) -> None:
    """Cross-entropy with each patient's true class probabilities, which tell more than one drawn class."""
    targets, log_prior = torch.tensor(posterior, dtype=torch.float32), torch.tensor(posterior.mean(axis=0)).log()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    steps = len(crops) // settings.batch_size
    for epoch in range(settings.epochs):
        network.train()
        rng = np.random.default_rng([settings.seed, epoch])
        order = rng.permutation(len(crops))[: steps * settings.batch_size].reshape(steps, -1)
        total = 0.0
        for step, chosen in enumerate(order):
            done = (epoch * steps + step + 1) / (settings.epochs * steps)
            rate = min(20 * done, 0.5 * (1 + math.cos(math.pi * done)))  # a short warm-up, then half a cosine
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            batch = np.stack([_moved(crops[i], rng) for i in chosen])
            loss = F.cross_entropy(network(_to_input(batch)) + log_prior.float(), targets[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"{signal}: epoch {epoch + 1} of {settings.epochs}, loss {total / steps:.4f}", flush=True)


def _moved(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirrored half of the time, and shifted by up to two voxels: the vertebra does not reach the crop's border."""
    mirrored = crop[..., ::-1] if rng.random() < 0.5 else crop
    x, y, z = rng.integers(-2, 3, 3).tolist()
    return np.roll(mirrored, (z, y, x), axis=(1, 2, 3))


def _crops(
    settings: CheckSettings, split: str, count: int, signal: str, folder: Path, workers: int | None
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Crops of the usual cohort, whose features are independent, and the one feature that is the signal here."""
    request = CropRequest(split, settings.seed, settings.preprocessing, CohortModel())
    crops = cached_crops(folder, request, count, workers).crops
    rows: list[dict[str, str]] = []
    for shard in range(-(-count // SHARD_SIZE)):
        with (folder / f"{split}_{shard:04d}.csv").open(newline="", encoding="utf-8") as stream:
            rows += csv.DictReader(stream)
    return crops, np.array([float(row[f"feature_{signal}"]) for row in rows[:count]])


def _fresh_cases(settings: CheckSettings) -> Iterator[tuple[L1Case, dict[str, float | str]]]:
    for index in range(FIRST_EXPLAINED, FIRST_EXPLAINED + settings.explained):
        yield simulate_l1_case(np.random.default_rng([settings.seed, SPLITS["validation"], index]))


def _card(settings: CheckSettings, signal: str) -> ModelCard:
    return ModelCard(
        name=f"check-{signal}",
        file="",
        sha256="",
        architecture=Architecture(width=settings.width),
        preprocessing=settings.preprocessing,
        class_prior=only(signal).class_prior(),
        minority_classes=CLASS_ORDER[2:],
        tau1_train=1.0,
        default_adjustment=Adjustment("log_prior", 1.0, 1.0),
        trained_on=f"simulated CTs in which only {signal} carries signal",
        intended_use="check of explanations",
        licence="Apache-2.0",
    )


def _to_input(crops: NDArray[np.uint8]) -> Tensor:
    batch = torch.from_numpy(np.ascontiguousarray(crops)).float().div_(LEVELS)  # (N, C, z, y, x)
    return batch.contiguous(memory_format=torch.channels_last_3d)


def _shares(amounts: FloatArray) -> tuple[float, ...]:
    total = amounts.sum(axis=0)
    return tuple((total / total.sum()).tolist())


def _correlation(one: Any, other: Any) -> float:
    """NaN where one of the two does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(np.asarray(one), np.asarray(other))[0, 1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m medconv.training.explanation_check", description=__doc__)
    default = CheckSettings()
    parser.add_argument("--out", type=Path, required=True, help="folder for networks and report")
    parser.add_argument("--crops", type=Path, help="folder of the cached crops (default: OUT/crops)")
    for name in ("cases", "validation_cases", "explained", "epochs", "width", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    parser.add_argument("--workers", type=int, help="processes that simulate (default: all cores)")
    options = vars(parser.parse_args(arguments))
    out, crops, workers = options.pop("out"), options.pop("crops"), options.pop("workers")
    out.mkdir(parents=True, exist_ok=True)
    report = run_check(CheckSettings(**options), out, crops or out / "crops", workers)
    partial = out / "explanation_check.partial"
    partial.write_text(json.dumps(report, indent=1), "utf-8")
    partial.replace(out / "explanation_check.json")
    print(as_text(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
