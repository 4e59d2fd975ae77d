"""Settings of a run: the same after JSON, and refused where they mean nothing."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest
from core.train_toys import toy_settings

from medconv.train_options import add_arguments, settings_of
from medconv.training.parts import assembly
from medconv.training.parts.sampling import NO_AUGMENTATION
from medconv.training.runs.run_settings import PRESETS, RunSettings, preset
from medconv.types import UsageError


@pytest.mark.parametrize("settings", [*PRESETS.values(), toy_settings(windows=True)], ids=[*PRESETS, "toy"])
def test_settings_survive_json(settings: RunSettings) -> None:
    assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_the_papers_preset_is_what_the_authors_script_does() -> None:
    paper = preset("paper")
    assert (paper.backbone, paper.width, paper.preprocessing.channels) == ("resnet50", 64, 3)
    assert (paper.optimiser, paper.learning_rate, paper.weight_decay) == ("adamw", 1e-3, 0.01)
    assert (paper.epochs, paper.batch_size, paper.loss, paper.tau1) == (200, 8, "balce", 1.0)
    assert (paper.augmentation, paper.patience) == (NO_AUGMENTATION, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs is 0. Choose 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0. Choose above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"tau1": -1.0}, "tau1 is -1"),
        ({"ema_decay": 1.0}, "from 0 to below 1"),
        ({"accumulate": 3}, "8 can't be computed in 3 equal parts"),
        ({"accumulate": 8}, "1 patient a part"),
        ({"amp": "fp8"}, "amp 'fp8' is not known. Choose one of: auto, off, bf16, fp16"),
    ],
)
def test_a_value_that_means_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        toy_settings(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": "resnet51"}, "no backbone 'resnet51'"),
        ({"loss": "hinge"}, "loss 'hinge' is not known. Choose one of: ce, balce"),
        ({"head": "softmax"}, "head 'softmax' is not known"),
        ({"optimiser": "sgd"}, "optimiser 'sgd' is not known"),
        ({"backbone": "vit_small", "texture": True}, "no texture channel"),
        ({"optimiser": "schedule_free", "ema_decay": 0.9}, "an average of weights already"),
    ],
)
def test_parts_that_do_not_exist_or_go_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        assembly.check_names(toy_settings(**changes))


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(UsageError, match="no setting 'epoch'"):
        RunSettings.from_json({"epoch": 3})


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["cohort", "--out", "run", *words])


def test_options_replace_what_the_preset_says() -> None:
    assert settings_of(options()) == preset("default")
    found = settings_of(options("--preset", "cpu", "--lr", "0.5", "--ema", "0.9", "--size", "8", "9", "7", "--texture"))
    assert found == preset("cpu").with_changes(
        learning_rate=0.5, ema_decay=0.9, texture=True, preprocessing=found.preprocessing
    )
    assert found.preprocessing.size_xyz == (8, 9, 7)
    assert found.preprocessing.spacing_mm == 2.0
    assert settings_of(options("--preset", "paper", "--augmentation", "shift")).augmentation != NO_AUGMENTATION


def test_windows_bring_the_range_of_hu_that_they_need() -> None:
    found = settings_of(options("--preset", "paper", "--windows")).preprocessing
    assert (found.window_hu, found.channels) == ((-500.0, 1300.0), 1)


def test_a_network_of_one_size_or_from_2d_weights_has_width_64() -> None:
    assert settings_of(options("--preset", "cpu")).width == 16
    assert settings_of(options("--preset", "cpu", "--backbone", "vit_small")).width == 64
    assert settings_of(options("--preset", "cpu", "--pretrained", "a.safetensors")).width == 64
    assert settings_of(options("--preset", "cpu", "--pretrained", "a.safetensors", "--width", "8")).width == 8
