"""`medconv segment`, and `medconv predict` without a mask: what was found, what is in doubt, who decides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk
from core import fake_client
from core.phantom import write
from core.spine_phantom import NAMES, segmentation_of, spine_phantom

import medconv
from medconv.cli import main
from medconv.report import schema
from medconv.types import InputRefused, MissingRequirement, QualityNote, Severity
from medconv.vertebrae import TOTALSEGMENTATOR

ONE_TOO_LOW = ("T10", "T11", "T12", "L1", "L2", "L3", "L4")  # the bone called L1 is L2
LEVEL_FILES = {"labels.nii.gz", "labels.json", "levels.svg", "levels.png", "report.html"}


@pytest.fixture(scope="module")
def spine():
    """Treat as read-only."""
    return spine_phantom()


@pytest.fixture(scope="module")
def misnamed():
    """The same bones, named one level too low; treat as read-only."""
    return spine_phantom(ONE_TOO_LOW)


@pytest.fixture(scope="module")
def ct_file(spine, tmp_path_factory) -> Path:
    return write(spine, tmp_path_factory.mktemp("spine"))[0]


@pytest.fixture
def run(only_untrained, capsys, tmp_path, ct_file):
    """Run `medconv COMMAND CT …`; returns exit code, files, standard output and error."""

    def command(name, *arguments):
        out = tmp_path / "out"
        code = main([name, str(ct_file), *map(str, arguments), "--out", str(out), "--device", "cpu"])
        captured = capsys.readouterr()
        files = {path.name for path in out.iterdir()} if out.is_dir() else set()
        return code, files, captured.out, captured.err

    return command


def written(tmp_path, name="result.json"):
    document = json.loads((tmp_path / "out" / name).read_text())
    if name == "result.json":
        jsonschema.validate(document, schema())
    return document


def test_segment_writes_labels_with_names_the_l1_mask_and_the_levels(run, spine, monkeypatch, tmp_path):
    client = fake_client.install(monkeypatch, segmentation_of(spine))
    code, files, out, err = run("segment", "--quality", "fast", "--time-limit", "2")
    assert (code, err) == (0, "")
    assert files == LEVEL_FILES | {"l1_mask.nii.gz", "levels.json"}
    assert (client.requests[0].kind, client.requests[0].quality, client.limits) == ("totalsegmentator", "fast", [120.0])
    assert client.open_clients == 0
    labels, mask = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / name)))
        for name in ("labels.nii.gz", "l1_mask.nii.gz")
    )
    assert np.array_equal(labels, spine.labels_zyx)
    assert np.array_equal(mask, spine.labels_zyx == 31)
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]["T12"] == 32
    document = written(tmp_path, "levels.json")
    assert document["undecided"] is None
    assert document["level"]["decided_by"] == "segmenter"
    assert [row["name"] for row in document["level"]["levels"]] == [*NAMES, "sacrum"]
    assert document["timing_s"]["total"] >= document["timing_s"]["segment"] >= 0
    assert "Found: T11, T12, L1, L2, L3, L4, L5, sacrum" in out


def test_labels_are_written_in_totalsegmentators_numbers_whatever_the_network_counts(run, spine, monkeypatch, tmp_path):
    other = {number: label for label, number in enumerate(sorted(set(TOTALSEGMENTATOR.values())), start=1)}
    lookup = np.zeros(256, np.uint8)
    lookup[list(other)] = list(other.values())
    names = {other[number]: name for name, number in TOTALSEGMENTATOR.items()}
    found = segmentation_of(spine, labels_zyx=lookup[spine.labels_zyx], names=names, segmenter="nnunet")
    client = fake_client.install(monkeypatch, found)
    assert run("segment", "--segmenter", f"nnunet:{tmp_path}", "--label-map", "verse")[0] == 0
    assert (client.requests[0].kind, client.requests[0].folder) == ("nnunet", str(tmp_path))
    assert client.requests[0].label_map == "verse"
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "labels.nii.gz")))
    assert np.array_equal(labels, spine.labels_zyx)


def test_a_level_in_doubt_is_shown_and_no_l1_mask_is_written(run, misnamed, monkeypatch, tmp_path):
    fake_client.install(monkeypatch, segmentation_of(misnamed))
    code, files, out, _ = run("segment")
    assert code == 0
    assert files == LEVEL_FILES | {"levels.json"}
    document = written(tmp_path, "levels.json")
    assert document["undecided"]["code"] == "level_in_doubt"
    assert document["level"]["used_as"] is None
    assert {note["code"] for note in document["level"]["doubts"]} == {"lumbar_count", "rib_at_wrong_level"}
    assert {row["name"] for row in document["level"]["levels"] if row["is_doubtful"]} == {"T11", "L1", "L4"}
    for doubt in document["level"]["doubts"]:
        assert doubt["message"] in out
    assert "No mask was written." in out
    assert "medconv predict with --confirm-level, --l1-is NAME or --instead T12|L2; --mask" in out
    svg = (tmp_path / "out" / "levels.svg").read_text()
    assert svg.count(">L1 ?<") == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "Open</p>" in page
    for doubt in document["level"]["doubts"]:
        assert page.count(doubt["message"]) == 1, "told once"


def test_segment_writes_the_mask_that_a_person_decided_on(run, misnamed, monkeypatch, tmp_path):
    fake_client.install(monkeypatch, segmentation_of(misnamed))
    assert run("segment", "--l1-is", "t12")[0] == 0
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "l1_mask.nii.gz")))
    assert np.array_equal(mask, misnamed.labels_zyx == TOTALSEGMENTATOR["T12"])
    level = written(tmp_path, "levels.json")["level"]
    assert (level["found_as"], level["used_as"], level["decided_by"]) == ("T12", "L1", "person")


def test_predict_without_a_mask_segments_and_goes_on(run, spine, monkeypatch, tmp_path):
    note = QualityNote("ran_on_cpu", Severity.INFO, "The network ran on the CPU.")
    client = fake_client.install(monkeypatch, segmentation_of(spine, notes=(note,)))
    code, files, out, err = run("predict")
    assert (code, err) == (0, "")
    assert client.requests[0].kind == "totalsegmentator"
    planes = {f"l1_{plane}.png" for plane in ("sagittal", "axial", "coronal")}
    assert files == LEVEL_FILES | planes | {"l1_mask.nii.gz", "result.json"}
    document = written(tmp_path)
    assert document["attenuation"]["mean_hu"] == 150.0
    assert document["level"]["decided_by"] == "segmenter"
    assert document["level"]["identity"] == "test weights"
    assert "segment" in document["timing_s"]
    assert document["timing_s"]["total"] >= document["timing_s"]["segment"] + document["timing_s"]["network"]
    assert "ran_on_cpu" in {n["code"] for n in document["quality"]}
    assert "L1: found by TotalSegmentator" in out
    assert "found by TotalSegmentator" in (tmp_path / "out" / "report.html").read_text()


def test_predict_refuses_a_level_in_doubt_and_shows_what_was_found(run, misnamed, monkeypatch, tmp_path):
    fake_client.install(monkeypatch, segmentation_of(misnamed))
    code, files, _, err = run("predict")
    assert code == 3
    assert files == LEVEL_FILES | {"result.json"}
    assert err.count("\n") == 1
    assert "--confirm-level" in err
    document = written(tmp_path)
    assert document["refusal"]["code"] == "level_in_doubt"
    assert "--confirm-level" not in document["refusal"]["remedy"]  # the report is for readers, not for typing
    assert str(tmp_path) not in (tmp_path / "out" / "report.html").read_text()
    assert len(document["level"]["doubts"]) == 2
    assert "L4 lies directly on the sacrum" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "found_as", "used_as", "decided_by"),
    [
        (("--confirm-level",), "L1", "L1", "person"),
        (("--l1-is", "T12"), "T12", "L1", "person"),
        (("--l1-is", "T12", "--instead", "L2"), "L1", "L2", "person"),
        (("--l1-is", "T12", "--instead", "T12"), "T11", "T12", "person"),
        (("--instead", "T12", "--confirm-level"), "T12", "T12", "person"),
    ],
)
def test_a_person_decides_and_the_doubts_stay_as_warnings(
    run, misnamed, monkeypatch, tmp_path, arguments, found_as, used_as, decided_by
):
    fake_client.install(monkeypatch, segmentation_of(misnamed))
    code, files, out, _ = run("predict", *arguments)
    assert code == 0
    document = written(tmp_path)
    level = document["level"]
    assert (level["found_as"], level["used_as"], level["decided_by"]) == (found_as, used_as, decided_by)
    assert f"{used_as.lower()}_mask.nii.gz" in files
    assert f"{used_as} trabecular attenuation" in out
    assert ("instead of L1" in out) == (used_as != "L1")
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{used_as.lower()}_mask.nii.gz")))
    assert np.array_equal(mask, misnamed.labels_zyx == TOTALSEGMENTATOR[found_as])
    warnings = {n["code"] for n in document["quality"] if n["severity"] == "warning"}
    assert {"lumbar_count", "rib_at_wrong_level"} <= warnings


@pytest.mark.parametrize(
    ("lost", "tried", "hint"),
    [
        (("L1", "T12"), ("--instead", "T12"), "predict with --l1-is NAME or --instead L2; --mask"),
        (("T12", "L2"), ("--instead", "T12"), "predict with --l1-is NAME; --mask"),
        (("T12",), ("--l1-is", "T12"), "predict with --l1-is ANOTHER or --instead T12|L2; --mask"),
    ],
)
def test_what_was_tried_or_cannot_be_measured_is_not_proposed(run, spine, monkeypatch, lost, tried, hint):
    found = segmentation_of(spine)
    labels = np.where(np.isin(found.labels_zyx, [TOTALSEGMENTATOR[name] for name in lost]), 0, found.labels_zyx)
    fake_client.install(monkeypatch, replace(found, labels_zyx=labels.astype(np.uint8)))
    code, _, _, err = run("predict", "--segmenter", "totalsegmentator", *tried)
    assert code == 3
    assert hint in err


def test_a_named_mask_with_neighbours_is_checked_and_its_doubts_are_warnings(run, misnamed, tmp_path):
    mask = write(misnamed, tmp_path)[1]
    code, files, out, _ = run("predict", "--mask", mask, "--label-map", "totalsegmentator")
    assert code == 0
    document = written(tmp_path)
    assert document["level"]["decided_by"] == "label"
    assert document["level"]["segmenter"] == "existing"
    assert "lumbar_count" in {n["code"] for n in document["quality"]}
    assert "warning: L4 lies directly on the sacrum" in out
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("L4 lies directly on the sacrum") == 1
    assert page.count("There are doubts about the level") == 1
    assert files >= LEVEL_FILES


def test_a_given_mask_without_l1_is_not_told_of_a_network_that_never_ran(run, spine, tmp_path):
    labels = np.where(spine.labels_zyx == TOTALSEGMENTATOR["L1"], 0, spine.labels_zyx)
    mask = write(replace(spine, labels_zyx=labels), tmp_path)[1]
    code, _, _, err = run("predict", "--mask", mask, "--label-map", "totalsegmentator")
    assert code == 3
    assert "Here: the same command with --l1-is NAME" in err
    assert "network" not in err


def test_what_segment_wrote_can_be_decided_on_without_a_second_run_and_stays_what_it_was(
    run, misnamed, monkeypatch, tmp_path
):
    note = QualityNote("demonstration_segmenter", Severity.INFO, "Found by the demonstration network.")
    found = segmentation_of(misnamed, segmenter="demonstration", is_demonstration=True, notes=(note,))
    client = fake_client.install(monkeypatch, found)
    run("segment", "--segmenter", "demonstration")
    kept = tmp_path / "kept"
    (tmp_path / "out").rename(kept)
    named = ("--mask", kept / "labels.nii.gz", "--label-map", kept / "labels.json")
    assert run("predict", *named)[0] == 3  # a doubt about a network's names does not go away by a detour
    assert written(tmp_path)["refusal"]["code"] == "level_in_doubt"
    assert run("predict", *named, "--l1-is", "T12")[0] == 0
    document = written(tmp_path)
    level = document["level"]
    assert (level["found_as"], level["segmenter"], level["identity"]) == ("T12", "demonstration", "test weights")
    assert level["demonstration"] is True
    assert "demonstration_segmenter" in {n["code"] for n in document["quality"]}
    assert len(client.requests) == 1


def test_the_demonstration_network_is_named_in_every_output(run, spine, monkeypatch, tmp_path):
    found = segmentation_of(spine, segmenter="demonstration", is_demonstration=True)
    client = fake_client.install(monkeypatch, found)
    for command in ("segment", "predict"):
        code, _, out, _ = run(command, "--segmenter", "demonstration", "--insist")
        assert code == 0
        assert "demonstration network" in out
        assert "demonstration network" in (tmp_path / "out" / "report.html").read_text()
    assert all(request.insist for request in client.requests)
    assert written(tmp_path)["level"]["demonstration"] is True


@pytest.mark.parametrize("command", ["segment", "predict"])
@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (MissingRequirement("segmenter_weights_missing", "No weights.", "Fetch them."), 4, "medconv segmenters fetch"),
        (InputRefused("nothing_found", "No vertebra was found.", "Use another CT."), 3, "No vertebra was found"),
        (InputRefused("demonstration_on_real_ct", "Not simulated.", "Choose another."), 3, "Here: --insist."),
        (KeyboardInterrupt(), 130, "Cancelled"),
    ],
)
def test_failures_have_their_exit_codes_and_leave_nothing_half(run, monkeypatch, command, failure, code, words):
    client = fake_client.install(monkeypatch, failure)
    found, files, _, err = run(command)
    assert found == code
    assert words in err
    assert files == ({"result.json", "report.html"} if (command, code) == ("predict", 3) else set())
    assert client.open_clients == 0


def test_a_ct_that_can_carry_no_answer_is_refused_before_the_network_runs(run, spine, monkeypatch, tmp_path):
    client = fake_client.install(monkeypatch, segmentation_of(spine))
    wrong = replace(spine, ct=replace(spine.ct, array_zyx=spine.ct.array_zyx + np.int16(1024)))
    shifted = write(wrong, tmp_path)[0]
    for command in ("segment", "predict"):
        assert main([command, str(shifted), "--out", str(tmp_path / "o")]) == 3
    assert client.requests == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--segmenter", "guess"), "no segmenter 'guess'"),
        (("--segmenter", "nnunet"), "nnunet:FOLDER"),
        (("--segmenter", "totalsegmentator:x"), "takes no folder"),
        (("--l1-is", "L9"), "no vertebra 'L9'"),
        (("--time-limit", "0"), "above 0 minutes"),
        (("--time-limit", "nan"), "above 0 minutes"),
    ],
)
def test_a_wrong_request_is_told_before_anything_runs(run, spine, monkeypatch, arguments, words):
    client = fake_client.install(monkeypatch, segmentation_of(spine))
    for command in ("segment", "predict"):
        code, _, _, err = run(command, *arguments)
        assert code == 2
        assert words in err
    assert client.requests == []


def test_full_disk_or_failure_while_writing_leaves_no_file(run, spine, monkeypatch, tmp_path):
    fake_client.install(monkeypatch, segmentation_of(spine))

    def fail(*_, **__):
        raise OSError(28, "No space left on device", "labels.nii.gz")

    for place in ("medconv.segment_command.segment_page", "medconv.report_html.result_page"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            code, files, _, err = run("segment" if "segment_page" in place else "predict")
        assert code == 1
        assert files == set()
        assert "No space left" in err
    assert list((tmp_path / "out").iterdir()) == []


SLOW = """
import sys, time
from medconv import segmenter, worker
class Slow:
    def segment(self, ct, progress):
        progress("Working", 0.5)
        open(sys.argv[1], "w").write(str(__import__("os").getpid()))
        time.sleep(120)
segmenter.make_segmenter = lambda request: Slow()
if hasattr(worker, "make_segmenter"):
    worker.make_segmenter = segmenter.make_segmenter
sys.exit(worker.main())
"""
COMMAND = """
import sys
from medconv import mask_source
from medconv.cli import main
from medconv.worker_client import WorkerClient
def client(time_limit_s):
    return WorkerClient([sys.executable, sys.argv[1], sys.argv[2]], time_limit_s)
mask_source.WorkerClient = client
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_terminate_end_the_worker_process_with_exit_130(ct_file, tmp_path, number):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "command.py").write_text(COMMAND)
    started = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": str(Path(medconv.__file__).parents[1]), "TMPDIR": str(tmp_path)}
    arguments = ["segment", str(ct_file), "--segmenter", "demonstration", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "command.py"), str(tmp_path / "slow.py"), str(started), *arguments],
        env=environment,
        stderr=subprocess.PIPE,
    ) as process:
        while not (started.exists() and started.read_text()):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        worker = int(started.read_text())
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Cancelled" in err
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.glob("medconv-*"))
