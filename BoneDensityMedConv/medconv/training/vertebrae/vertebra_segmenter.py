"""The demonstration segmenter by one command: simulate trunks, train a small U-Net, write an nnU-Net v2 folder.

    python -m medconv.training.vertebrae.vertebra_segmenter --out FOLDER --cases 72 --steps 2000 --coarse-steps 1600

It exists so that the whole chain runs on a fresh machine without a download. It has seen simulated CT only, and its
figures say nothing about real CT. Killed at any point, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medconv.training.parts.optimisers import learning_rate_factor
from medconv.training.vertebrae.vertebra_segmenter_data import (
    Disturbance,
    Normalization,
    TrainingVolume,
    draw_patch,
    load_volumes,
)
from medconv.training.vertebrae.vertebra_segmenter_folder import (
    PATCH_ZYX,
    build_network,
    dataset_document,
    plans_document,
    write_folder,
)
from medconv.training.vertebrae.vertebra_segmenter_loss import patch_dice, supervised_loss
from medconv.training.vertebrae.vertebra_segmenter_network import (
    full_network,
    grown,
    narrow_network,
    outputs_below_full_size,
)

TRAINING_SEED, VALIDATION_SEED = 100_000, 900_000
CHECKPOINT_EVERY = 50


@dataclass(frozen=True)
class Settings:
    """All that decides a training run."""

    cases: int = 72
    validation_cases: int = 4
    steps: int = 2000
    coarse_steps: int = 1600
    learning_rate: float = 2.5e-3
    weight_decay: float = 0.01
    warm_up_steps: int = 50
    seed: int = 0


def train(settings: Settings, run: Path, cache: Path, processes: int = 2) -> nn.Module:
    """Train, or go on where `run` was left. Raises ValueError if it belongs to a run of other settings."""
    run.mkdir(parents=True, exist_ok=True)
    _claim(run, settings)
    volumes = load_volumes(cache, TRAINING_SEED, settings.cases, processes)
    held_out = load_volumes(cache, VALIDATION_SEED, settings.validation_cases, processes)
    norm, named = Normalization.of(volumes)
    (run / "foreground.json").write_text(json.dumps(named), "utf-8")
    torch.manual_seed(settings.seed)
    network, optimizer, first = _resume(run, settings)
    started, losses = time.perf_counter(), []
    for step in range(first, settings.steps):
        if step == settings.coarse_steps:
            network = grown(network, [_middle(volume, norm) for volume in volumes[:4]])
            optimizer = _optimizer(network, settings)
        losses.append(_one_step(network, optimizer, volumes, norm, settings, step))
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 in (settings.steps, settings.coarse_steps):
            dice = patch_dice(network, held_out, norm, coarse=step < settings.coarse_steps)
            _save(run / "last.pt", network, optimizer, step)
            seconds = (time.perf_counter() - started) / len(losses)
            row = [f"step {step + 1}", f"loss {np.mean(losses[-CHECKPOINT_EVERY:]):.3f}", f"{seconds:.2f} s/step"]
            row += [f"{name.removeprefix('vertebrae_')} {value:.2f}" for name, value in dice.items()]
            with (run / "log.txt").open("a", encoding="utf-8") as stream:
                stream.write("  ".join(row) + "\n")
            print("  ".join(row), flush=True)
    return network


def _one_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, volumes: Sequence[TrainingVolume], norm: Normalization,
    settings: Settings, step: int,
) -> float:  # fmt: skip
    """One patch, which depends on the seed and the step only."""
    rng = np.random.default_rng([settings.seed, step])
    how = disturbance_at(step / settings.coarse_steps)
    image, labels = draw_patch(volumes[int(rng.integers(len(volumes)))], norm, PATCH_ZYX, rng, how)
    batch = image[None].contiguous(memory_format=torch.channels_last_3d)
    coarse = step < settings.coarse_steps
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    network.train()
    outputs = outputs_below_full_size(network, batch) if coarse else network(batch)
    loss = supervised_loss(outputs, labels[None], rng, first_level=1 if coarse else 0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return loss.item()


def _middle(volume: TrainingVolume, norm: Normalization) -> Tensor:
    """The undisturbed patch round a volume's middle, (1, 1, z, y, x)."""
    cut = tuple(slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(volume.hu_zyx.shape, PATCH_ZYX, strict=True))
    return norm.apply(volume.hu_zyx[cut])[None, None].contiguous(memory_format=torch.channels_last_3d)


def learning_rate(settings: Settings, step: int) -> float:
    """A cosine for each of the two parts of the training."""
    if step < settings.coarse_steps:
        factor = learning_rate_factor(step, settings.coarse_steps, settings.warm_up_steps)
        return settings.learning_rate * max(factor, 0.1)
    rest = settings.steps - settings.coarse_steps
    return 0.4 * settings.learning_rate * learning_rate_factor(step - settings.coarse_steps, rest, 20)


def disturbance_at(progress: float) -> Disturbance:
    """First whole trunks, so that levels can be counted; then more and more parts of them."""
    full = Disturbance()
    eased = min(max((progress - 0.15) / 0.5, 0.0), 1.0)
    return replace(
        full,
        cut_share=full.cut_share * eased,
        reach_beyond=full.reach_beyond * eased,
        rotation_deg=full.rotation_deg * (0.5 + 0.5 * eased),
        soft_tissue=full.soft_tissue * (0.3 + 0.7 * eased),
    )


def _resume(run: Path, settings: Settings) -> tuple[nn.Module, torch.optim.Optimizer, int]:
    """Network, optimizer and the step to go on with: from the last checkpoint if there is one."""
    state = torch.load(run / "last.pt", weights_only=True) if (run / "last.pt").exists() else None
    done = -1 if state is None else int(state["step"])
    network = narrow_network() if done < settings.coarse_steps else full_network()
    optimizer = _optimizer(network, settings)
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    return network, optimizer, done + 1


def _optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    partial = path.with_suffix(".partial")
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(path)


def _claim(run: Path, settings: Settings) -> None:
    text = json.dumps(asdict(settings), sort_keys=True)
    file = run / "settings.json"
    if file.exists() and file.read_text("utf-8") != text:
        raise ValueError(f"{run} holds a run of other settings; choose another folder")
    file.write_text(text, "utf-8")


def export(run: Path, out: Path, settings: Settings) -> None:
    """Write the nnU-Net folder of a run's last checkpoint."""
    network = build_network()
    state = torch.load(run / "last.pt", weights_only=True)
    network.load_state_dict(state["network"])
    foreground = json.loads((run / "foreground.json").read_text("utf-8"))
    plans = plans_document(foreground, (172, 88, 117))
    write_folder(out, network, plans, dataset_document(settings.cases), int(state["step"]) + 1)
    training = {"cases_trained": settings.cases, "steps": settings.steps, "coarse_steps": settings.coarse_steps}
    (out / "training.json").write_text(json.dumps(training | {"seed": settings.seed}) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="the nnU-Net v2 model folder to write")
    parser.add_argument("--run", type=Path, help="folder for checkpoints and the log (default: OUT.run)")
    parser.add_argument("--cache", type=Path, help="folder for simulated volumes (default: RUN/cache)")
    parser.add_argument("--cases", type=int, default=defaults.cases)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--coarse-steps", type=int, default=defaults.coarse_steps, help="of these, at half resolution")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="for the simulation")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    run = chosen.run or chosen.out.with_name(chosen.out.name + ".run")
    settings = Settings(
        cases=chosen.cases, steps=chosen.steps, coarse_steps=min(chosen.coarse_steps, chosen.steps), seed=chosen.seed
    )
    train(settings, run, chosen.cache or run / "cache", chosen.processes)
    export(run, chosen.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
