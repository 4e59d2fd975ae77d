"""`medconv train` and `medconv weights export` as a user runs them, on a cohort folder of simulated L1 cases."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from core.cohort_writer import l1_case, write_case, write_csv

from medconv import attenuation, cli, evaluate_command, weights
from medconv.training.cohorts import case_reading
from medconv.training.cohorts.cases import TEST, TRAIN
from medconv.training.cohorts.cohort_folder import read_cohort
from medconv.training.figures.predictions import Predictions
from medconv.training.runs import loop

NUMBERS = [n for n in range(18) if n not in (4, 8, 15)]  # five of each class; 4 and 8 hold clipped HU
QUICK = ["--backbone", "resnet18", "--width", "2", "--size", "16", "16", "16", "--spacing", "5", "--batch-size", "4",
         "--workers", "1", "--threads", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CTs with masks and labels in one folder, without splits."""
    folder = tmp_path_factory.mktemp("ward")
    for number in NUMBERS:
        write_case(folder, f"s{number:02}", number)
    rows = [(f"s{number:02}", l1_case(number)[1]) for number in NUMBERS]
    write_csv(folder / "labels.csv", [("SubjectID", "T-score"), *rows])
    return folder


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of that cohort, one CT a class for validation and test."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert train(cohort, folder) == 0
    return folder


def train(cohort: Path, run: Path, *words: str, epochs: int = 1) -> int:
    amounts = ["--validation", "1", "--test", "1", "--epochs", str(epochs)]
    return cli.main(["train", str(cohort), "--out", str(run), *QUICK, *amounts, *words])


def test_a_folder_without_splits_is_split_once_and_trained(cohort: Path, run: Path) -> None:
    with (run / "splits.csv").open() as stream:
        splits = [row["Split"] for row in csv.DictReader(stream)]
    assert {name: splits.count(name) for name in set(splits)} == {"train": 9, "validation": 3, "test": 3}
    told = json.loads((run / "data.json").read_text())
    assert told["cases"] == {"train": 9, "validation": 3}
    assert told["reference"] == "DXA"
    assert not told["simulated"]
    assert (run / "choice.json").is_file()
    assert (cohort / "crop_cache").is_dir()


def test_exported_weights_tell_whom_they_were_trained_on(cohort: Path, run: Path, tmp_path: Path) -> None:
    """Against the training CTs, read and measured one by one."""
    assert cli.main(["weights", "export", str(run), "--out", str(tmp_path / "first.npz")]) == 0
    known = weights.read_card(tmp_path / "first.npz").population
    with (run / "splits.csv").open() as stream:
        trained = {row["SubjectID"] for row in csv.DictReader(stream) if row["Split"] == TRAIN}
    cases = [case_reading.read_case(case) for case in read_cohort(cohort).cases if case.case_id in trained]
    cores = [attenuation.measure(case)[0] for case in cases]
    assert known is not None
    assert known.patients == len(cases) == 9
    for name, values in {
        "hu_mean": [core.mean_hu for core in cores],
        "hu_sd": [core.sd_hu for core in cores],
        "l1_volume_ml": [case.volume_ml for case in cases],
    }.items():
        assert known.quantities[name].cases == 9
        assert known.quantities[name].at((0.0, 0.5, 1.0)) == pytest.approx(np.quantile(values, (0, 0.5, 1)), rel=1e-3)
    assert sum(known.acquisition["kvp"].values()) == 9
    answered = Predictions.load(run / "predictions_validation.npz")
    assert sum(known.predicted.values()) == len(answered) == 3


def test_the_same_command_again_tells_the_result(cohort: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "best.npz").read_bytes()
    assert train(cohort, run) == 0
    said = capsys.readouterr().out
    assert "15 CTs, reference standard DXA" in said
    assert "epoch 1 is kept: balanced accuracy on validation" in said
    assert f"medconv evaluate {run} {cohort} --split test" in said
    assert f"medconv weights export {run} --out first.npz" in said
    assert "Research use only" in said
    assert (run / "best.npz").read_bytes() == before


def test_evaluation_takes_the_splits_that_the_run_was_trained_with(cohort: Path, run: Path) -> None:
    options = cli._parser().parse_args(["evaluate", str(run), str(cohort), "--split", "test", "--workers", "1"])
    grid = loop.RunSettings.from_json(json.loads((run / "settings.json").read_text())["settings"]).preprocessing
    found, cases, *_ = evaluate_command._crops(options, cohort, grid, run / "splits.csv")
    with (run / "splits.csv").open() as stream:
        tested = {row["SubjectID"] for row in csv.DictReader(stream) if row["Split"] == TEST}
    assert set(cases.case_ids) == tested
    assert len(found.part(TEST)) == 3


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_pass = loop.Training._pass

    def stopped(self: loop.Training, epoch: int, pace: object) -> tuple[float, float]:
        if epoch == 1:
            raise KeyboardInterrupt
        return one_pass(self, epoch, pace)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Training, "_pass", stopped)
    assert train(cohort, tmp_path / "run", epochs=2) == 130
    assert f"kept in {tmp_path / 'run'}: the same command goes on." in capsys.readouterr().out
    monkeypatch.setattr(loop.Training, "_pass", one_pass)
    assert train(cohort, tmp_path / "run", epochs=2) == 0
    assert "epoch 1 of 2" not in capsys.readouterr().out
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 3


def test_folds_give_a_run_each_and_every_ct_is_tested_once(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(cohort, tmp_path, "--folds", "3") == 0
    tested = []
    for number in (1, 2, 3):
        with (tmp_path / f"repeat_1_fold_{number}" / "splits.csv").open() as stream:
            tested += [row["SubjectID"] for row in csv.DictReader(stream) if row["Split"] == TEST]
    assert sorted(tested) == [f"s{number:02}" for number in NUMBERS]
    with (tmp_path / "folds.csv").open() as stream:
        figures = [float(row["validation_balanced_accuracy"]) for row in csv.DictReader(stream)]
    assert len(figures) == 3
    assert f"balanced accuracy on validation: {sum(figures) / 3:.3f} ± " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--backbone", "resnet51"], 2, "no backbone 'resnet51'"),
        (["--preset", "best"], 2, "preset 'best' is not known"),
        (["--targets", "truth-posterior"], 2, "known for simulated cohorts only"),
        (["--batch-size", "64"], 2, "9 patients, fewer than a batch of 64"),
        (["--pretrained", "nowhere.safetensors", "--width", "64"], 3, "nowhere.safetensors"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert train(cohort, tmp_path / "run", *words) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_run_of_other_settings_is_left_alone(cohort: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(cohort, run, "--lr", "0.5") == 2
    assert "settings.learning_rate is 0.001, asked for 0.5" in capsys.readouterr().err


def test_without_a_cohort_the_command_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train"]) == 2
    assert "medconv train COHORT --out RUN" in capsys.readouterr().err


def test_a_run_becomes_weights_that_answer_a_ct(
    cohort: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDCONV_DATA", str(tmp_path / "user"))
    file = tmp_path / "ward.npz"
    assert cli.main(["weights", "export", str(run), "--out", str(file), "--name", "ward"]) == 0
    said = capsys.readouterr().out
    assert "no test set was read" in said
    assert f"medconv weights import {file}" in said
    assert cli.main(["weights", "import", str(file)]) == 0
    ct, mask, out = cohort / "s00.nii.gz", cohort / "masks" / "s00.nii.gz", tmp_path / "answer"
    command = ["predict", str(ct), "--mask", str(mask), "--weights", "ward", "--out", str(out), "--device", "cpu"]
    assert cli.main([*command, "--confirm-level"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["model"]["name"] == "ward"
    assert sum(result["probabilities"].values()) == pytest.approx(1.0)
    assert not (run / "test_readings.json").exists()
