"""The command as a person types it: files, exit codes, and one clear line for every mistake."""

import hashlib
import io
import json
import time
import zipfile

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk
from core.dicom_writer import write_series
from core.phantom import Phantom, grid, phantom, write

from medconv import console
from medconv.cli import main
from medconv.grid import to_image
from medconv.report import schema
from medconv.segmenters.weights_store import TOTAL_3MM
from medconv.volume_io import read_ct
from medconv.worker_client import Done, Failure


@pytest.fixture
def files(vertebra, tmp_path):
    return write(vertebra, tmp_path)


@pytest.fixture
def run(only_untrained, capsys, tmp_path):
    """Run `medconv predict`; returns exit code, result.json (or None), standard output and error."""

    def predict(*arguments, out=tmp_path / "out"):
        try:
            code = main(["predict", *map(str, arguments), "--out", str(out), "--device", "cpu"])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        result = out / "result.json"
        document = json.loads(result.read_text()) if result.exists() else None
        if document:
            jsonschema.validate(document, schema())
        return code, document, captured.out, captured.err

    return predict


def test_a_ct_and_its_mask_give_every_result_file(run, files, tmp_path, vertebra):
    code, document, out, err = run(files[0], "--mask", files[1], "--label", 31)
    assert (code, err) == (0, "")
    assert document["status"] == "ok"
    assert document["attenuation"]["mean_hu"] == 150.0
    assert "150 HU" in out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    planes = {f"l1_{p}.png" for p in ("sagittal", "axial", "coronal")}
    assert names == {"result.json", "report.html", "l1_mask.nii.gz"} | planes
    mask = sitk.ReadImage(str(tmp_path / "out" / "l1_mask.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask), vertebra.labels_zyx // 31)
    assert read_ct(files[0]).geometry.size_xyz == mask.GetSize()


def test_tau_on_the_command_line_is_what_the_result_says(run, files):
    code, document, _, _ = run(files[0], "--mask", files[1], "--adjustment", "temperature", "--tau1", 1, "--tau2", 0.25)
    assert code == 0
    assert document["adjustment"] == {"method": "temperature", "tau1": 1.0, "tau2": 0.25}
    z = np.array(list(document["logits"].values()))
    e = np.exp((z - z.mean()) / [1, 1, 0.25])
    assert list(document["probabilities"].values()) == pytest.approx((e / e.sum()).tolist())


def refused(run, *arguments):
    code, document, _, err = run(*arguments)
    assert code == 3
    assert err.startswith("medconv: ")
    assert err.count("\n") == 1
    assert document["status"] == "refused"
    assert document["refusal"]["remedy"]
    assert document["probabilities"] is None
    return document["refusal"]["code"]


def altered(vertebra, folder, hu=None, labels=None, geometry=None):
    g = geometry or vertebra.ct.geometry
    array = vertebra.ct.array_zyx if hu is None else hu
    from medconv.types import CTVolume

    folder.mkdir()
    return write(Phantom(CTVolume(array, g), vertebra.labels_zyx if labels is None else labels), folder)


def test_every_bad_input_gets_its_own_message(run, files, vertebra, tmp_path):
    ct, mask = files
    with_mask = ("--mask", mask, "--label", 31)
    hu = vertebra.ct.array_zyx
    codes = {
        "not_hu": refused(run, altered(vertebra, tmp_path / "a", hu=hu + 1024)[0], *with_mask),
        "label_absent": refused(run, ct, "--mask", mask, "--label", 20),
        "file_missing": refused(run, tmp_path / "no.nii", *with_mask),
    }
    image = sitk.ReadImage(str(ct))
    sitk.WriteImage(image[:, :, 50], str(tmp_path / "flat.nii"))
    codes["image_2d"] = refused(run, tmp_path / "flat.nii", *with_mask)
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "time.nii"))
    codes["image_4d"] = refused(run, tmp_path / "time.nii", *with_mask)
    away = altered(vertebra, tmp_path / "b", geometry=grid(center=(0, 0, 500.0)))[1]
    codes["mask_elsewhere"] = refused(run, ct, "--mask", away, "--label", 31)
    cut = altered(
        vertebra,
        tmp_path / "c",
        hu[50:],
        vertebra.labels_zyx[50:],
        vertebra.ct.geometry.cut((0, 0, 50), (160, 160, 60)),
    )
    codes["l1_touches_border"] = refused(run, cut[0], "--mask", cut[1])
    thick = phantom(grid((1.0, 1.0, 6.0)))
    (tmp_path / "d").mkdir()
    thick_ct, thick_mask = write(thick, tmp_path / "d")
    codes["slices_too_thick"] = refused(run, thick_ct, "--mask", thick_mask)
    (tmp_path / "bad.nii").write_bytes(b"not an image")
    codes["unreadable"] = refused(run, tmp_path / "bad.nii", *with_mask)
    (tmp_path / "empty").mkdir()
    codes["no_dicom"] = refused(run, tmp_path / "empty", *with_mask)
    small = phantom(grid((2.0, 2.0, 2.5)))
    write_series(tmp_path / "dicom" / "1", small.ct)
    write_series(tmp_path / "dicom" / "2", small.ct)
    codes["several_series"] = refused(run, tmp_path / "dicom", *with_mask)
    write_series(tmp_path / "mr", small.ct, modality="MR")
    codes["not_ct"] = refused(run, tmp_path / "mr", *with_mask)
    assert {name: code for name, code in codes.items() if name != code} == {}


def test_a_class_outside_its_scope_is_told_so_in_the_first_lines_and_once(run, files, vertebra, tmp_path):
    write_series(tmp_path / "young", vertebra.ct, age="034Y")
    _, _, out, _ = run(tmp_path / "young", "--mask", files[1], "--label", 31)
    first, second = out.splitlines()[:2]
    assert first.endswith(", but WHO classes do not apply")
    assert second.startswith("  warning: Age 34: ")
    assert out.count("Age 34") == 1


def test_a_dicom_folder_and_a_mask_of_another_grid_give_an_answer(run, tmp_path, files):
    write_series(tmp_path / "dicom", phantom(grid((1.0, 1.0, 2.0))).ct)
    code, document, _, _ = run(tmp_path / "dicom", "--mask", files[1], "--label", 31)
    assert code == 0
    assert "mask_resampled" in {n["code"] for n in document["quality"]}
    assert document["attenuation"]["mean_hu"] == pytest.approx(150, abs=2)


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        (("--segmenter", "existing"), 2, "--mask"),
        (("--segmenter", "totalsegmentator", "--mask", "MASK"), 2, "either from a mask or from a segmenter"),
        (("--label", "31"), 2, "--label belongs to a mask"),
        (("--mask", "MASK", "--label", "31", "--label-map", "verse"), 2, "Give one of the two"),
        (("--mask", "MASK", "--l1-is", "T12"), 2, "--label-map"),
        (("--mask", "MASK", "--label-map", "numbers"), 2, "no label map 'numbers'"),
        (("--mask", "MASK", "--weights", "nobody"), 4, "no weights named 'nobody'"),
        (("--mask", "MASK", "--tau1", "0.5"), 2, "belongs to the weights"),
        (("--mask", "MASK", "--adjustment", "temperature", "--tau2", "0"), 2, "out of range"),
        (("--mask", "MASK", "--adjustment", "sharpen"), 2, "invalid choice"),
        (("--mask", "MASK", "--label", "one"), 2, "invalid int"),
        (("--mask", "MASK", "--label", "0"), 2, "background"),
    ],
)
def test_usage_and_missing_things_have_their_exit_codes(run, files, extra, code, words):
    found, document, _, err = run(files[0], *[files[1] if e == "MASK" else e for e in extra])
    assert found == code
    assert words in err
    assert document is None


def test_a_mask_with_a_label_map_needs_no_number(run, files):
    code, document, _, _ = run(files[0], "--mask", files[1], "--label-map", "totalsegmentator")
    assert code == 0
    assert (document["level"]["found_as"], document["level"]["decided_by"]) == ("L1", "label")
    assert [row["name"] for row in document["level"]["levels"]] == ["L1"]


def test_a_label_given_by_number_is_told_as_such(run, files):
    code, document, _, _ = run(files[0], "--mask", files[1], "--label", 31)
    assert code == 0
    assert (document["level"]["found_as"], document["level"]["decided_by"]) == ("label 31", "label")
    assert document["level"]["levels"] == []


def test_what_is_to_be_read_is_never_removed_as_an_earlier_result(run, files, tmp_path):
    (tmp_path / "out").mkdir()
    kept = files[1].rename(tmp_path / "out" / "labels.nii.gz")
    code, document, _, err = run(files[0], "--mask", kept)
    assert (code, document) == (2, None)
    assert "Choose another --out" in err
    assert kept.exists()


def test_an_earlier_answer_does_not_stand_beside_a_refusal(run, files, tmp_path):
    run(files[0], "--mask", files[1])
    code, document, _, _ = run(files[0], "--mask", files[1], "--label", 99)
    assert (code, document["status"]) == (3, "refused")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"result.json", "report.html"}


def test_out_whose_name_is_no_text_is_refused_before_any_work(run, files, tmp_path):
    ct, mask = files
    code, _, _, err = run(ct, "--mask", mask, out=tmp_path / "out\udcff")
    assert (code, err.count("\n")) == (2, 1)
    assert "The path holds bytes that are no UTF-8 text. Choose another --out." in err


def test_out_must_not_be_a_file(run, files):
    assert run(files[0], "--mask", files[1], out=files[0])[0] == 2


def test_no_path_and_no_name_of_the_input_gets_into_the_results(run, vertebra, tmp_path):
    (tmp_path / "Surname Forename").mkdir()
    ct, mask = write(vertebra, tmp_path / "Surname Forename")
    assert run(ct, "--mask", mask)[0] == 0
    for name in ("result.json", "report.html"):
        assert "Surname" not in (tmp_path / "out" / name).read_text()


def test_no_name_of_the_input_gets_into_a_refusal(run, vertebra, tmp_path):
    folder = tmp_path / "Surname Forename"
    folder.mkdir()
    _, mask = write(vertebra, folder)
    small = phantom(grid((2.0, 2.0, 2.5)))
    for part in "ab":
        write_series(folder / "dicom" / part, small.ct, SeriesDescription="CT Surname^Forename")
    (folder / "Surname.nii").write_bytes(b"x")
    for ct in (folder / "Surname.nii", folder / "missing Surname.nii", folder / "dicom"):
        code, _, _, err = run(ct, "--mask", mask)
        assert code == 3
        assert "Surname" in err  # the screen names it, the files don't
        for name in ("result.json", "report.html"):
            assert "Surname" not in (tmp_path / "out" / name).read_text()


def test_the_mask_written_is_the_mask_that_was_measured(run, vertebra, tmp_path):
    labels = vertebra.labels_zyx.copy()
    labels[20, 20, 20:23] = 31
    ct, mask = altered(vertebra, tmp_path / "stray", labels=labels)
    code, document, _, _ = run(ct, "--mask", mask)
    assert code == 0
    assert "stray_voxels_removed" in {n["code"] for n in document["quality"]}
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "l1_mask.nii.gz")))
    assert np.array_equal(written, vertebra.labels_zyx // 31)


def test_a_voxel_that_is_no_number_is_refused(run, vertebra, tmp_path):
    hu = vertebra.ct.array_zyx.astype(np.float32)
    hu[55, 80, 80] = np.nan
    (tmp_path / "n").mkdir()
    sitk.WriteImage(to_image(hu, vertebra.ct.geometry), str(tmp_path / "n" / "ct.nrrd"))
    _, mask = write(vertebra, tmp_path)
    assert refused(run, tmp_path / "n" / "ct.nrrd", "--mask", mask) == "not_hu"


def test_what_nobody_foresaw_is_one_line_and_exit_1(run, files, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("medconv.pipeline.predict", fail)
    code, _, _, err = run(files[0], "--mask", files[1])
    assert code == 1
    assert err.count("\n") == 1
    assert "surprise" in err
    assert main(["bench", "--slices", "3"]) == 2


@pytest.fixture
def no_segmenter_weights(monkeypatch, tmp_path):
    """TotalSegmentator's folder of this user, empty."""
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "totalsegmentator"))
    return tmp_path / "totalsegmentator" / "nnunet" / "results"


def test_without_weights_the_real_worker_says_what_to_do(run, files, no_segmenter_weights):
    code, document, _, err = run(files[0])
    assert (code, document) == (4, None)
    assert "weights are not on this computer" in err
    assert "medconv segmenters fetch" in err


def stored(folder, size):
    """A data set's folder as `weights_store` wants it, with a checkpoint of about that size."""
    model = folder / "fold_0"
    model.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"vertebrae_L1": 1}}))
    (folder / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {}}}))
    with zipfile.ZipFile(model / "checkpoint_final.pth", "w") as archive:
        archive.writestr("data", bytes(size))


def test_segmenters_are_listed_imported_and_removed(no_segmenter_weights, capsys, monkeypatch, tmp_path):
    assert main(["segmenters", "list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("existing", "totalsegmentator", "nnunet:FOLDER", "demonstration"))
    assert str(no_segmenter_weights) in told
    assert told.count("is missing") >= 2
    source = tmp_path / "usb stick"
    stored(source / TOTAL_3MM.folder / TOTAL_3MM.model_folder(source).name, 2_000_000)
    assert main(["segmenters", "import", str(source)]) == 0
    assert "fast   ready, 2 MB" in capsys.readouterr().out
    assert TOTAL_3MM.model_folder(no_segmenter_weights).is_dir()
    assert main(["segmenters", "fetch", "--quality", "fast"]) == 0
    assert "Nothing to fetch" in capsys.readouterr().out
    # Nobody can be asked here, so nothing is fetched or removed without --yes.
    for action in ("fetch", "remove"):
        assert main(["segmenters", action]) == 2
        assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("medconv.console.can_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["segmenters", "remove"]) == 0
    assert "Nothing was removed" in capsys.readouterr().out
    assert TOTAL_3MM.model_folder(no_segmenter_weights).is_dir()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["segmenters", "remove"]) == 0
    assert "2 MB free" in capsys.readouterr().out
    assert not (no_segmenter_weights / TOTAL_3MM.folder).exists()
    assert main(["segmenters", "remove", "--yes"]) == 0
    assert "Nothing to remove" in capsys.readouterr().out
    (tmp_path / "weights.zip").write_bytes(b"no zip")
    assert main(["segmenters", "import", str(tmp_path / "weights.zip")]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_fetching_is_done_by_the_worker_after_agreement(no_segmenter_weights, capsys, monkeypatch):
    asked = []

    class Client:
        def fetch_weights(self, quality):
            asked.append(quality)

        def wait(self, progress):
            progress("Fetching weights 1 of 1", 0.5)
            return outcome

        def close(self):
            asked.append("closed")

    monkeypatch.setattr("medconv.segmenters_command.WorkerClient", Client)
    outcome = Done("Fetched the weights.")
    assert main(["segmenters", "fetch", "--quality", "fast", "--yes"]) == 0
    assert capsys.readouterr().out == "Fetched the weights.\n"
    outcome = Failure("weights_unreachable", "GitHub can't be reached.", "Import a file.", exit_code=4)
    assert main(["segmenters", "fetch", "--yes"]) == 4
    assert "Import a file." in capsys.readouterr().err
    assert asked == ["fast", "closed", "full", "closed"]


def test_progress_is_one_line_with_percent_on_a_terminal_and_nothing_in_a_file(capsys, monkeypatch):
    console.say("Working", 0.42)
    console.clear()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console.say("Working", 0.42)
    console.say("Almost there")
    console.clear()
    err = capsys.readouterr().err
    assert err == "\r\x1b[KWorking   42%\r\x1b[KAlmost there\r\x1b[K"


def test_a_line_that_stands_for_long_says_for_how_many_seconds(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    console.say("Cutting out L1 (1 of 9)", 0.11)
    with console.heartbeat(every_s=0.01):
        give_up = time.monotonic() + 30
        while "Cutting out L1 (1 of 9) (0 s)   11%" not in terminal.getvalue() and time.monotonic() < give_up:
            time.sleep(0.01)
        console.clear()
        told = len(terminal.getvalue())
        time.sleep(0.1)
    assert "Cutting out L1 (1 of 9) (0 s)   11%" in terminal.getvalue()
    assert len(terminal.getvalue()) == told, "a line that was taken away does not come back"


def test_weights_list_verify_import(only_untrained, capsys, tmp_path):
    assert main(["weights", "list"]) == 0
    assert "untrained" in capsys.readouterr().out
    assert main(["weights", "verify", "untrained"]) == 0
    digest = hashlib.sha256((only_untrained / "untrained.npz").read_bytes()).hexdigest()
    assert digest[:16] in capsys.readouterr().out
    assert main(["weights", "import", str(only_untrained / "untrained.npz")]) == 0
    (tmp_path / "x.npz").write_text("x")
    assert main(["weights", "import", str(tmp_path / "x.npz")]) == 4
    assert capsys.readouterr().err.count("\n") == 1
