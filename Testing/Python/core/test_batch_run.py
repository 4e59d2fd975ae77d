"""`medconv batch` from the command line: tables, resuming, reports, DICOM, interruption, contradictions."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from core import dicom_writer
from core.phantom import grid, phantom, write

from medconv import cli, pipeline
from medconv.batch import settling
from medconv.batch.jobs import COLUMNS, BatchJob
from medconv.batch.lock import LOCK_FILE
from medconv.case_reading import read_around_mask
from medconv.inference import LoadedModel
from medconv.volume_io import open_ct

SPACING_MM = (2.0, 2.0, 2.0)
ENOUGH_S = 120


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Four CTs: a and b differ, copy is b again, mr is no CT; masks beside them."""
    folder = tmp_path_factory.mktemp("cohort")
    for name, hu in (("a", 100), ("b", 170), ("mr", 130)):
        place = folder / "made" / name
        place.mkdir(parents=True)
        case = phantom(grid(SPACING_MM), trabecular_hu=hu)
        if name == "mr":
            case.ct.array_zyx[:] = (case.ct.array_zyx + 1024) // 4
        ct, labels = write(case, place)
        (folder / "in").mkdir(exist_ok=True)
        shutil.copy(ct, folder / "in" / f"{name}.nii.gz")
        shutil.copy(labels, folder / "in" / f"{name}_mask.nii.gz")
    for end in ("", "_mask"):
        shutil.copy(folder / "in" / f"b{end}.nii.gz", folder / "in" / f"copy{end}.nii.gz")
    return folder / "in"


ALIKE = ("--workers", "1", "--device", "cpu", "--runtime", "eager")


@pytest.fixture
def batch(only_untrained, capsys):
    """Runs the command; returns exit code, what was printed and what was complained about."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["batch", *map(str, arguments), *ALIKE])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture(scope="module")
def finished(cohort, untrained_weights, tmp_path_factory) -> tuple[Path, str]:
    """A batch over the cohort, with reports, and what it said; treat as read-only."""
    out = tmp_path_factory.mktemp("finished") / "out"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("MEDCONV_WEIGHTS_DIR", str(untrained_weights))
        patch.setenv("MEDCONV_DATA", str(out.parent / "user"))
        assert cli.main(["batch", str(cohort), "--label", "31", "--out", str(out), "--reports", *ALIKE]) == 0
    return out, said.getvalue()


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "table.csv").open(encoding="utf-8", newline="") as stream:
        return {row["case_id"]: row for row in csv.DictReader(stream)}


def done(out: Path) -> Counter[str]:
    events = [json.loads(line) for line in (out / "ledger.jsonl").read_text("ascii").splitlines()]
    return Counter(event["case_id"] for event in events if event["event"] == "done")


def test_every_case_has_its_row(finished, cohort, only_untrained) -> None:
    out, said = finished
    assert "4 CTs: 3 answered, 1 refused" in said
    assert "1 refused: not_hu" in said
    assert "Research use only" in said
    found = table(out)
    assert {name: (row["status"], row["code"], row["same_pixels_as"]) for name, row in found.items()} == {
        "a": ("ok", "", ""), "b": ("ok", "", ""), "copy": ("ok", "", "b"), "mr": ("refused", "not_hu", ""),
    }  # fmt: skip
    read = read_around_mask(open_ct(cohort / "b.nii.gz"), cohort / "b_mask.nii.gz", 31)
    answer = pipeline.predict(read.ct, read.mask, LoadedModel.load(None, "cpu"), notes=read.notes, level=read.level)
    for name in ("b", "copy"):
        row = found[name]
        assert row["t_score_class"] == answer.t_score_class
        assert row["hu_mean"] == f"{answer.attenuation.mean_hu:.3f}"
        for klass, logit in answer.logits.items():
            assert float(row[f"logit_{klass}"]) == pytest.approx(logit, abs=2e-5)


def test_the_same_command_again_changes_no_byte(finished, cohort, batch, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    before = {name: (out / name).read_bytes() for name in ("table.csv", "table.parquet")}
    code, said, _ = batch(cohort, "--label", 31, "--out", out, "--reports")
    assert code == 0
    assert "4 of them done" in said
    assert {name: (out / name).read_bytes() for name in before} == before
    assert done(out) == Counter(["a", "b", "copy", "mr"])


def test_changed_vanished_and_retried_cases(cohort, batch, tmp_path) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(cohort, data)
    assert batch(data, "--label", 31, "--out", out)[0] == 0
    (data / "copy.nii.gz").unlink()
    for end in ("", "_mask"):
        shutil.copy(data / f"a{end}.nii.gz", data / f"b{end}.nii.gz")
    os.utime(data / "b.nii.gz", (1, 1))
    code, said, _ = batch(data, "--label", 31, "--out", out, "--retry", "refused")
    assert code == 0
    assert "1 CTs have changed since they were answered" in said
    assert "1 CTs of an earlier run are no longer there" in said
    found = table(out)
    assert list(found) == ["a", "b", "copy", "mr"]
    assert found["b"]["same_pixels_as"] == "a"
    assert found["copy"]["same_pixels_as"] == "", "b is another CT now"
    assert done(out) == Counter({"a": 1, "b": 2, "copy": 1, "mr": 2})


def test_reports_are_written_together_and_a_copys_too(finished) -> None:
    out, _ = finished
    found = table(out)
    pictures = {f"l1_{plane}.png" for plane in ("axial", "coronal", "sagittal")}
    for name in ("a", "b", "copy"):
        assert {path.name for path in (out / "cases" / name).iterdir()} == {"result.json", "report.html", *pictures}
    assert {path.name for path in (out / "cases" / "mr").iterdir()} == {"result.json", "report.html"}
    assert found["mr"]["files"] == "cases/mr/report.html cases/mr/result.json"
    for file in pictures | {"result.json"}:
        assert (out / "cases" / "copy" / file).read_bytes() == (out / "cases" / "b" / file).read_bytes()
    document = json.loads((out / "cases" / "a" / "result.json").read_text())
    assert (document["status"], document["timing_s"]) == ("ok", {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--label", "20", "--reports"], "label 31 (asked for: 20)"),
        (["--label", "31"], "reports True (asked for: False)"),
        (["--label", "31", "--reports", "--adjustment", "temperature"], "adjustment.method"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(finished, cohort, batch, changed, message) -> None:
    code, _, complaint = batch(cohort, "--out", finished[0], *changed)
    assert code == 2
    assert message in complaint


def test_another_version_of_the_chosen_runtime_is_refused_and_told(
    finished, cohort, only_untrained, tmp_path, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    document = json.loads((out / "batch.json").read_text())
    document["settings"] |= {"runtime": "openvino"}
    document["settings"]["versions"] |= {"openvino": "2019.1"}
    (out / "batch.json").write_text(json.dumps(document))
    assert cli.main(["batch", str(cohort), "--label", "31", "--reports", "--out", str(out)]) == 2
    complaint = capsys.readouterr().err
    assert f"other packages: openvino 2019.1 (here: {version('openvino')})." in complaint
    assert "Install the packages that it was started with" in complaint


def test_the_runtime_that_was_found_fastest_brings_its_versions() -> None:
    eager = settling.BatchSettings(runtime="eager").with_versions().versions
    assert eager.keys() == {"medconv", "numpy", "simpleitk", "torch"}
    look = object.__new__(settling.Look)
    look._settings = settling.BatchSettings(runtime="auto")
    look._pipe = SimpleNamespace(recv=lambda: {"device": "cpu", "runtime": "onnxruntime"})
    look._process = SimpleNamespace(join=lambda: None)
    own = {name: version(name) for name in ("onnxruntime", "onnx")}
    assert look.result().versions == eager | own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "None of the 1 CTs has a mask"),
        (["--masks", "{}", "--segmenter", "demonstration"], "either from masks or from a segmenter"),
        (["--label", "1", "--label-map", "verse"], "both name L1's label"),
        (["--workers", "0"], "--workers must be 1 or more"),
        (["--time-limit", "nan"], "above 0 minutes"),
        (["--label-map", "nothing.json"], "label map"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_any_work(cohort, batch, tmp_path, arguments, message) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(cohort / "a.nii.gz", tmp_path / "in")
    given = [argument.format(tmp_path) for argument in arguments]
    workers = given if "--workers" in given else []
    code = cli.main(["batch", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *given]) if workers else None
    if code is None:
        code, _, complaint = batch(tmp_path / "in", "--out", tmp_path / "out", *given)
        assert message in complaint
    assert code == 2
    assert not (tmp_path / "out" / "batch.json").exists(), "the folder is free for the corrected command"


def test_an_empty_folder_is_said_with_what_was_left_out(batch, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a_mask.nii.gz").write_bytes(b"")
    code, _, complaint = batch(tmp_path / "in", "--out", tmp_path / "out")
    assert code == 2
    assert "No CT was found. Left out: 1 image files named like masks." in complaint


def test_a_dicom_tree_is_answered_as_its_nifti_twin(batch, tmp_path) -> None:
    case = phantom(grid(SPACING_MM))
    uid = dicom_writer.write_series(tmp_path / "in" / "patient" / "study", case.ct)
    ct, labels = write(case, tmp_path)
    (tmp_path / "masks").mkdir()
    shutil.copy(labels, tmp_path / "masks" / f"{uid}.nii.gz")
    assert batch(tmp_path / "in", "--masks", tmp_path / "masks", "--label", 31, "--out", tmp_path / "out")[0] == 0
    row = table(tmp_path / "out")[uid]
    assert (row["status"], row["kvp"], row["kernel"], row["series_uid"]) == ("ok", "120.000", "B30f", uid)
    assert row["ct"] == str(tmp_path / "in" / "patient" / "study")
    read = read_around_mask(open_ct(ct), labels, 31)
    answer = pipeline.predict(read.ct, read.mask, LoadedModel.load(None, "cpu"))
    assert row["hu_mean"] == f"{answer.attenuation.mean_hu:.3f}"
    text = (tmp_path / "out" / "ledger.jsonl").read_text() + (tmp_path / "out" / "table.csv").read_text()
    assert "Phantom^Test" not in text, "the patient's name stays in the CT"


def test_an_ended_batch_keeps_what_is_done_and_goes_on(cohort, only_untrained, tmp_path) -> None:
    """A case that hangs keeps the batch at work until it is interrupted; then the same command ends it."""
    out, rehearsal = tmp_path / "out", tmp_path / "rehearsal.json"
    rehearsal.write_text(json.dumps({"mr": "hang"}))
    command = [sys.executable, "-m", "medconv.cli", "batch", str(cohort), "--label", "31", "--out", str(out)]
    command += ["--workers", "1", "--device", "cpu", "--runtime", "eager"]
    environment = {**os.environ, "MEDCONV_BATCH_REHEARSAL": str(rehearsal), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + ENOUGH_S
    while not ((out / "ledger.jsonl").exists() and '"case_id": "mr"' in (out / "ledger.jsonl").read_text()):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # workers too, as a service manager does
    _, complaint = process.communicate(timeout=ENOUGH_S)
    assert process.returncode == 130
    assert b"The same command goes on where it stopped." in complaint
    assert done(out) == Counter(["a", "b", "copy"])
    assert '"crashed"' not in (out / "ledger.jsonl").read_text(), "an ended batch is no crash of the case"
    assert not list(tmp_path.glob("medconv-batch-*"))
    rehearsal.write_text("{}")
    again = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=ENOUGH_S)
    assert again.returncode == 0
    assert done(out) == Counter(["a", "b", "copy", "mr"])


def test_named_labels_bring_the_level_check(cohort, batch, tmp_path) -> None:
    data = tmp_path / "in"
    data.mkdir()
    for end in ("", "_mask"):
        shutil.copy(cohort / f"a{end}.nii.gz", data)
    assert batch(data, "--label-map", "totalsegmentator", "--out", tmp_path / "out", "--reports")[0] == 0
    (row,) = table(tmp_path / "out").values()
    assert (row["status"], row["level_in_doubt"], row["measured_vertebra"]) == ("ok", "false", "L1")
    assert (tmp_path / "out" / "cases" / "a" / "labels.json").is_file()


def test_without_pyarrow_the_table_is_csv_and_that_is_said_first(cohort, batch, tmp_path, monkeypatch, caplog) -> None:
    from medconv.batch import table as table_module

    monkeypatch.setattr(table_module, "has_parquet", lambda: False)
    data = tmp_path / "in"
    data.mkdir()
    for end in ("", "_mask"):
        shutil.copy(cohort / f"mr{end}.nii.gz", data)
    assert batch(data, "--label", 31, "--out", tmp_path / "out")[0] == 0
    assert 'pip install "bonedensity-medconv[batch]"' in caplog.text
    assert (tmp_path / "out" / "table.csv").is_file()
    assert not (tmp_path / "out" / "table.parquet").exists()
    assert tuple(next(csv.reader((tmp_path / "out" / "table.csv").open()))) == COLUMNS


def test_a_file_that_may_not_be_read_is_told_so_and_not_called_damaged(cohort, tmp_path, monkeypatch) -> None:
    from medconv import input_paths
    from medconv.batch import one_case
    from medconv.batch.settings import BatchSettings

    monkeypatch.setattr(input_paths.os, "access", lambda path, mode: False)  # root may read everything
    tools = one_case.Tools(BatchSettings(), tmp_path, model=None)
    job = BatchJob("a", str(cohort / "a.nii.gz"), mask=str(cohort / "a_mask.nii.gz"), label=31)
    outcome = one_case.run_job(job, tools)
    assert (outcome.status, outcome.code) == ("refused", "permission_denied")


def test_two_arrays_of_the_same_numbers_but_another_grid_are_two_cases() -> None:
    from medconv.batch.pixels import pixels_digest

    one, other = phantom(grid(SPACING_MM)), phantom(grid(SPACING_MM, center=(0.0, 0.0, 0.5)))
    assert not np.array_equal(one.ct.geometry.origin_lps_mm, other.ct.geometry.origin_lps_mm)
    digests = {pixels_digest(case.ct, None, None, None) for case in (one, other, phantom(grid(SPACING_MM)))}
    assert len(digests) == 2


# --- what an earlier answer leaves


def listed(folder: Path, ct: Path, mask: Path, label: int) -> Path:
    file = folder / "list.csv"
    file.write_text(f"case_id,ct,mask,label\nx,{ct},{mask},{label}\n", "utf-8")
    return file


def test_another_label_in_the_list_is_another_case(cohort, batch, tmp_path) -> None:
    ct, mask = cohort / "a.nii.gz", cohort / "a_mask.nii.gz"
    out = tmp_path / "out"
    assert batch(listed(tmp_path, ct, mask, 99), "--out", out)[0] == 0
    assert table(out)["x"]["code"] == "label_absent"
    said = batch(listed(tmp_path, ct, mask, 31), "--out", out)[1]
    assert "1 CTs have changed since they were answered" in said
    assert table(out)["x"]["status"] == "ok"


def test_an_answer_leaves_no_files_beside_a_later_refusal(cohort, batch, tmp_path) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    data.mkdir()
    for end in ("", "_mask"):
        shutil.copy(cohort / f"a{end}.nii.gz", data)
    assert batch(data, "--label", 31, "--out", out, "--dicom")[0] == 0  # a file has no DICOM, only the folder's rules
    left = out / "cases" / "a"
    left.mkdir(parents=True)
    (left / "l1_report.dcm").write_bytes(b"withdrawn")
    (data / "a_mask.nii.gz").write_bytes(b"no mask any more")
    assert batch(data, "--label", 31, "--out", out, "--dicom")[0] == 0
    assert table(out)["a"]["status"] == "refused"
    assert not left.exists()


def test_an_answer_stays_while_a_listed_ct_is_away(cohort, batch, tmp_path) -> None:
    ct, mask = tmp_path / "a.nii.gz", cohort / "a_mask.nii.gz"
    shutil.copy2(cohort / "a.nii.gz", ct)
    file, out = listed(tmp_path, ct, mask, 31), tmp_path / "out"
    batch(file, "--out", out)
    before = (out / "table.csv").read_bytes()
    ct.rename(tmp_path / "away.nii.gz")
    said = batch(file, "--out", out)[1]
    assert "1 CTs of an earlier run are no longer there: their rows stay." in said
    assert (out / "table.csv").read_bytes() == before


def test_a_twin_that_arrives_later_leaves_the_row_and_its_files(cohort, batch, tmp_path) -> None:
    """Also where the batch was killed between; on a disk without upper and lower case reports would be shared."""
    data, out, undisturbed = tmp_path / "in", tmp_path / "out", tmp_path / "undisturbed"
    for folder, source in (("p", "a"), ("P", "b")):
        (data / folder).mkdir(parents=True)
        for end in ("", "_mask"):
            shutil.copy(cohort / f"{source}{end}.nii.gz", data / folder / f"ct{end}.nii.gz")
        assert batch(data, "--label", 31, "--out", out)[0] == 0
    assert done(out) == Counter(["p--ct", "P--ct"])
    assert batch(data, "--label", 31, "--out", undisturbed)[0] == 0
    assert (out / "table.csv").read_bytes() == (undisturbed / "table.csv").read_bytes()
    one_for_both = tmp_path / "reports"
    one_for_both.mkdir()
    (one_for_both / LOCK_FILE.upper()).touch()  # as on Windows, where it is the same file
    code, _, complaint = batch(data, "--label", 31, "--out", one_for_both, "--reports")
    assert code == 2
    assert "P--ct and p--ct would share a folder" in complaint


def test_a_mask_that_serves_two_cts_is_told(cohort, batch, tmp_path, caplog) -> None:
    data, masks = tmp_path / "in", tmp_path / "masks"
    masks.mkdir()
    shutil.copy(cohort / "a_mask.nii.gz", masks / "001.nii.gz")
    for patient, source in (("A", "a"), ("B", "b")):
        (data / patient).mkdir(parents=True)
        shutil.copy(cohort / f"{source}.nii.gz", data / patient / "001.nii.gz")
    batch(data, "--masks", masks, "--label", 31, "--out", tmp_path / "out")
    assert "1 CTs have the mask of another CT" in caplog.text
