"""Trainings that are killed, and trainings in two processes: the same run comes out. `train_driver.py` forks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")


def drive(repository: Path, what: str, folder: Path) -> dict[str, Any]:
    places = [str(repository / "BoneDensityMedConv"), str(repository / "Testing" / "Python")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    driver = repository / "Testing" / "Python" / "core" / "train_driver.py"
    done = subprocess.run(
        [sys.executable, str(driver), what, str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stdout}


@pytest.mark.timeout(900)
def test_a_run_killed_at_any_point_goes_on_to_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    found = drive(repository, "killed", tmp_path)
    assert found["deaths"] >= 6
    assert len(found["others"]) == 7
    assert {name: hashes for name, hashes in found["others"].items() if hashes != found["alone"]} == {}
    rows = (tmp_path / "moments" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.fixture(scope="module")
def two_processes(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return drive(repository, "processes", tmp_path_factory.mktemp("processes"))


@pytest.mark.timeout(900)
def test_two_processes_have_the_loss_curve_of_one(two_processes: dict[str, Any]) -> None:
    codes, rows = two_processes["codes"], two_processes["rows"]
    assert (codes["one"], codes["two"]) == ([0], [0, 0])
    assert rows["two_0"] == rows["two_1"]
    for together, alone in zip(rows["two_0"], rows["one_0"], strict=True):
        assert together == pytest.approx(alone, abs=1e-7)
    # Without batch norm over both processes' patients the curve is another one: the comparison can fail.
    assert abs(rows["own_0"][0][0] - rows["one_0"][0][0]) > 1e-3


def test_only_the_first_process_writes(two_processes: dict[str, Any]) -> None:
    assert two_processes["files"] == [
        ".lock", "best.npz", "choice.json", "last.pt", "log.csv", "predictions_validation.npz", "settings.json",
        "tensorboard", "times.csv",
    ]  # fmt: skip


def test_a_process_that_dies_ends_the_other_and_the_run_goes_on(two_processes: dict[str, Any]) -> None:
    codes, rows = two_processes["codes"], two_processes["rows"]
    assert codes["dies"] == [7, -9]  # the first ends with an error of its own
    assert "process_lost" in two_processes["said"]
    assert codes["goes_on"] == [0, 0]
    assert rows["dies_0"] == rows["two_0"]
