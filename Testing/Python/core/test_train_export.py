"""A run packed for Slicer: what the file says and gives, and what can't be packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.train_toys import TINY, toy_set, toy_settings

from medconv import weights
from medconv.config import CLASS_ORDER
from medconv.training.figures.choice import RunChoice
from medconv.training.runs import export
from medconv.training.runs.export import FinishedRun, export_run
from medconv.training.runs.run import train_run
from medconv.types import InputRefused, UsageError


def trained(run: Path, **changes: Any) -> Path:
    torch.set_num_threads(1)
    train_run(toy_settings(epochs=1, **changes), toy_set(16, 0), toy_set(12, 1), run, device="cpu")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = trained(tmp_path_factory.mktemp("run"), width=4)
    (folder / "data.json").write_text('{"cohort": "ward 7", "reference": "DXA", "simulated": false}')
    return folder


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Crops in place of the simulated vertebrae, which take seconds."""
    crops = torch.from_numpy(toy_set(4, 5).crops).float() / 255
    monkeypatch.setattr(export, "probe", lambda preprocessing: crops.expand(-1, preprocessing.channels, -1, -1, -1))
    return crops


def test_the_card_tells_what_the_run_knows(run: Path, tmp_path: Path, inputs: torch.Tensor) -> None:
    done = export_run(run, tmp_path / "ward.npz", name="ward", licence="CC-BY-4.0")
    card, choice = weights.read_card(tmp_path / "ward.npz"), RunChoice.load(run)
    assert card == done.card
    assert (card.name, card.file, card.licence, card.simulated_only) == ("ward", "ward.npz", "CC-BY-4.0", False)
    assert (card.preprocessing, card.architecture.name, card.architecture.width) == (TINY, "resnet18", 4)
    counts = np.bincount(toy_set(16, 0).classes, minlength=3)
    assert [card.class_prior[c] for c in CLASS_ORDER] == pytest.approx(counts / 16)
    assert (card.tau1_train, card.default_adjustment) == (1.0, choice.adjustment)
    assert card.minority_classes == choice.minority_classes
    assert card.conformal == choice.conformal
    assert card.population is None, "a run of before, whose folder does not tell"
    assert "16 CTs" in card.trained_on
    assert "'ward 7', reference standard DXA" in card.trained_on
    assert card.validation["validation"]["cases"] == 12
    assert (tmp_path / "ward.npz").stat().st_size < (run / "best.npz").stat().st_size * 0.6
    assert [path.name for path in tmp_path.iterdir()] == ["ward.npz"]


def test_the_packed_network_gives_the_runs_logits_times_the_scale(
    run: Path, tmp_path: Path, inputs: torch.Tensor
) -> None:
    done = export_run(run, tmp_path / "a.npz", precision="full")
    parts = FinishedRun.open(run).parts()
    with torch.inference_mode():
        own = parts.network(inputs) * RunChoice.load(run).logit_scale
        packed = weights.load_network(done.card, tmp_path / "a.npz")(inputs)
    np.testing.assert_allclose(packed.numpy(), own.numpy(), atol=1e-4)
    assert done.largest_difference <= 1e-4


@pytest.mark.parametrize(
    "changes", [{"head": "corn"}, {"head": "heteroscedastic"}, {"head": "joint"}, {"loss": "balce_paper"},
                {"loss": "class_balanced"}, {"texture": True, "backbone": "resnet34"}],
    ids=str,
)  # fmt: skip
def test_every_packable_network_reads_as_its_run(changes: dict[str, Any], tmp_path: Path, inputs: torch.Tensor) -> None:
    run = trained(tmp_path / "run", **changes)
    done = export_run(run, tmp_path / "a.npz")
    finished = FinishedRun.open(run)
    parts = finished.parts()
    with torch.inference_mode():
        own, _ = parts.head.to_logits(parts.network(inputs))
        packed = weights.load_network(done.card, tmp_path / "a.npz")(inputs)
    scale = finished.choice.logit_scale
    np.testing.assert_allclose(packed.numpy(), scale * own.numpy(), atol=0.05)
    assert done.card.tau1_train == parts.head.tau1_train


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"loss": "focal"}, "the loss 'focal' needs a reading of its own.*balce"),
        ({"backbone": "resnet10t"}, "Slicer has no 'resnet10t'.*resnet50"),
        ({"windows": True}, "three HU windows"),
    ],
)
def test_what_slicer_cannot_run_is_refused_with_the_reason(
    changes: dict[str, Any], why: str, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = FinishedRun.open(run)
    other = FinishedRun(**(vars(finished) | {"settings": finished.settings.with_changes(**changes)}))
    monkeypatch.setattr(FinishedRun, "open", lambda run: other)
    if changes != {"loss": "focal"}:
        parts = finished.parts()
        monkeypatch.setattr(FinishedRun, "parts", lambda self: parts)
    with pytest.raises(UsageError, match=why):
        export_run(run, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_a_file_that_answers_otherwise_is_never_written(
    run: Path, tmp_path: Path, inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {name: (tensor * 2).numpy() for name, tensor in state.items()}

    monkeypatch.setattr(export, "half_precision", spoiled)
    with pytest.raises(InputRefused, match="differ from the run's by"):
        export_run(run, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_weights_too_large_for_half_precision_are_refused() -> None:
    with pytest.raises(ValueError, match="half precision"):
        export.half_precision({"fc.weight": torch.tensor([1e6])})


def test_an_unfinished_run_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "settings.json").write_text((run / "settings.json").read_text())
    with pytest.raises(InputRefused, match="not trained to its end"):
        export_run(tmp_path, tmp_path / "a.npz")
    with pytest.raises(InputRefused, match="no folder of a training run"):
        export_run(tmp_path / "nowhere", tmp_path / "a.npz")


def test_the_probe_is_the_same_every_time_and_no_ones_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PROBE_CASES", 1)
    first, again = export.probe(TINY), export.probe(TINY)
    assert first.shape == (1, 1, 16, 16, 16)
    assert torch.equal(first, again)
    assert float(first.amax(dim=(1, 2, 3, 4)).min()) > 0.3
