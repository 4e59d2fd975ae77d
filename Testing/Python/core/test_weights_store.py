"""TotalSegmentator's weights: what is there, what is whole, and how they come and go, without the internet."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medconv.segmenters import weights_archive, weights_incoming, weights_store
from medconv.segmenters.weights_store import TOTAL_3MM, VERTEBRAE_1_5MM, WeightsDataset
from medconv.types import Cancelled, InputRefused, MissingRequirement, UsageError

BOTH = (TOTAL_3MM.folder, VERTEBRAE_1_5MM.folder)


def checkpoint_bytes(payload: bytes = b"weights" * 300) -> bytes:
    """A zip archive, as torch.save writes one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data/0", payload)
    return stream.getvalue()


def write_dataset(root: Path, dataset: WeightsDataset) -> Path:
    model = dataset.model_folder(root)
    (model / "fold_0").mkdir(parents=True)
    (model / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "vertebrae_L1": 1}}))
    (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {}}}))
    (model / weights_store.CHECKPOINT).write_bytes(checkpoint_bytes())
    return model


def release_zip(folder: Path, dataset: WeightsDataset, **extra: bytes) -> Path:
    """The data set as the release ships it: its folder at the top of a zip file of its name."""
    write_dataset(folder / "unpacked", dataset)
    path = folder / f"{dataset.folder}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "unpacked" / dataset.folder).rglob("*")):
            archive.write(file, file.relative_to(folder / "unpacked"))
        for name, content in extra.items():
            archive.writestr(name, content)
    return path


def silent(_stage: str, _fraction: float) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder that is the usual one of this user."""
    folder = tmp_path / "Gewichte für Ü" / "results"
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(folder))
    return folder


def test_names_and_addresses_are_those_of_the_package() -> None:
    from totalsegmentator import map_tasks_config as config

    for dataset in (TOTAL_3MM, VERTEBRAE_1_5MM):
        entry = config.TASK_ID_WEIGHTS_CONFIGS[dataset.task_id]
        assert entry["foldername"] == dataset.folder
        assert f"/{entry['version']}/{dataset.folder}.zip" in dataset.address
    modes = config.TASK_CONFIGS["total"]["sub_modes"]
    assert (modes["fast"]["task_id"], modes["fast"]["trainer"]) == (TOTAL_3MM.task_id, TOTAL_3MM.trainer)
    assert VERTEBRAE_1_5MM.task_id in modes["default"]["task_id"]
    assert modes["default"]["trainer"] == VERTEBRAE_1_5MM.trainer


def test_the_usual_folder_follows_the_users_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from totalsegmentator import config

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.delenv("TOTALSEG_HOME_DIR", raising=False)
    assert weights_store.usual_folder() == tmp_path / "home" / ".totalsegmentator" / "nnunet" / "results"
    assert weights_store.usual_folder() == config.get_weights_dir()
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "shared"))
    assert weights_store.usual_folder() == tmp_path / "shared" / "nnunet" / "results" == config.get_weights_dir()
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    assert weights_store.usual_folder() == tmp_path / "weights" == config.get_weights_dir()
    assert weights_store.folder_of(str(tmp_path / "chosen")) == tmp_path / "chosen"


def test_fast_needs_one_network_and_full_both(store: Path) -> None:
    assert weights_store.status("fast").missing == (TOTAL_3MM.folder,)
    assert weights_store.status("full").missing == weights_store.status("all").missing == BOTH
    write_dataset(store, TOTAL_3MM)
    assert weights_store.status("fast").complete
    found = weights_store.status("full")
    assert (found.folder, found.present, found.missing) == (store, BOTH[:1], BOTH[1:])
    assert found.size_bytes == sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    with pytest.raises(UsageError, match="quality 'best'"):
        weights_store.status("best")


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda m: m.rename(m.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres")), "of another version"),
        (lambda m: (m / "plans.json").unlink(), "plans.json is missing or damaged"),
        (lambda m: (m / "plans.json").write_text('{"configurations": {'), "plans.json is missing or damaged"),
        (lambda m: (m / "dataset.json").write_text('{"labels": {"hip_left": 1}}'), "dataset.json is missing"),
        (lambda m: (m / weights_store.CHECKPOINT).unlink(), "checkpoint_final.pth is missing"),
        (lambda m: (m / weights_store.CHECKPOINT).write_bytes(b""), "is damaged or cut off"),
        (lambda m: (m / weights_store.CHECKPOINT).write_bytes(checkpoint_bytes()[:500]), "is damaged or cut off"),
    ],
)
def test_weights_that_are_not_whole_are_named_before_a_run(
    store: Path, break_it: Callable[[Path], object], reason: str
) -> None:
    break_it(write_dataset(store, TOTAL_3MM))
    found = weights_store.status("fast")
    assert not found.complete
    assert found.present == found.missing == ()
    assert found.damaged[0][0] == TOTAL_3MM.folder
    assert reason in found.damaged[0][1]
    with pytest.raises(MissingRequirement) as caught:
        weights_store.require("fast")
    assert caught.value.code == "segmenter_weights_missing"
    assert reason in caught.value.message
    assert TOTAL_3MM.address in caught.value.remedy
    assert "import" in caught.value.remedy


def test_a_flipped_byte_inside_a_checkpoint_is_found_by_its_checksum(store: Path) -> None:
    checkpoint = write_dataset(store, TOTAL_3MM) / weights_store.CHECKPOINT
    content = bytearray(checkpoint.read_bytes())
    content[200] ^= 0xFF
    checkpoint.write_bytes(content)
    assert weights_store.damage(store, TOTAL_3MM) == ""
    assert weights_store.damage(store, TOTAL_3MM, every_byte=True) == "checkpoint_final.pth is damaged"


def test_a_release_file_is_imported_into_the_usual_folder(tmp_path: Path, store: Path) -> None:
    told: list[float] = []
    path = release_zip(tmp_path, TOTAL_3MM, **{"README.txt": b"not ours"})
    assert weights_store.import_file(path, lambda _, fraction: told.append(fraction)) == (TOTAL_3MM.folder,)
    assert weights_store.status("fast").complete
    assert [p.name for p in store.iterdir()] == [TOTAL_3MM.folder]
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("inside", ["", "home/nnunet/results"])
def test_another_computers_folder_is_imported(tmp_path: Path, store: Path, inside: str) -> None:
    stick = tmp_path / "stick"
    for dataset in (TOTAL_3MM, VERTEBRAE_1_5MM):
        write_dataset(stick / inside, dataset)
    source = stick / inside.partition("/")[0]
    assert weights_store.import_file(source, silent) == BOTH
    assert weights_store.status("full").complete


def test_one_data_sets_folder_is_imported_alone_and_replaces_damaged_weights(tmp_path: Path, store: Path) -> None:
    for dataset in (TOTAL_3MM, VERTEBRAE_1_5MM):
        write_dataset(tmp_path / "stick", dataset)
    (write_dataset(store, VERTEBRAE_1_5MM) / "plans.json").unlink()
    assert weights_store.import_file(tmp_path / "stick" / VERTEBRAE_1_5MM.folder, silent) == BOTH[1:]
    assert weights_store.status("full").present == BOTH[1:]
    assert [p.name for p in store.iterdir()] == [VERTEBRAE_1_5MM.folder]


def zip_with(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return path


def test_what_is_no_weights_file_is_refused_with_what_was_expected(tmp_path: Path, store: Path) -> None:
    text = tmp_path / "notes.zip"
    text.write_text("not a zip file")
    cut = release_zip(tmp_path, TOTAL_3MM)
    cut.write_bytes(cut.read_bytes()[:-100])
    linked = zipfile.ZipInfo(f"{TOTAL_3MM.folder}/plans.json")
    linked.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(linked, "/etc/passwd")
    cases = {
        text: "weights_file_damaged",
        cut: "weights_file_damaged",
        tmp_path / "nowhere.zip": "weights_file_missing",
        zip_with(tmp_path / "other.zip", "Dataset298_TotalSegmentator/plans.json"): "weights_not_found_in_file",
        zip_with(tmp_path / "up.zip", f"../{TOTAL_3MM.folder}/plans.json"): "weights_file_unsafe",
        zip_with(tmp_path / "out.zip", f"{TOTAL_3MM.folder}/../../evil"): "weights_file_unsafe",
        zip_with(tmp_path / "root.zip", f"/{TOTAL_3MM.folder}/plans.json"): "weights_file_unsafe",
        zip_with(tmp_path / "drive.zip", f"C:/{TOTAL_3MM.folder}/plans.json"): "weights_file_unsafe",
        tmp_path / "link.zip": "weights_file_unsafe",
        zip_with(tmp_path / "half.zip", f"{TOTAL_3MM.folder}/plans.json"): "segmenter_weights_damaged",
    }
    for path, code in cases.items():
        with pytest.raises(InputRefused) as caught:
            weights_store.import_file(path, silent)
        assert caught.value.code == code, path.name
        if code == "weights_not_found_in_file":
            assert "Dataset298_TotalSegmentator" in caught.value.message
            assert f"{TOTAL_3MM.folder}.zip" in caught.value.remedy
    assert list(store.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_archive, "MAXIMUM_BYTES", 1000)
    with pytest.raises(InputRefused) as caught:
        weights_store.import_file(release_zip(tmp_path, TOTAL_3MM), silent)
    assert caught.value.code == "weights_file_too_large"
    assert list(store.iterdir()) == []


def test_removing_frees_only_what_is_used_here(tmp_path: Path, store: Path) -> None:
    other = store / "Dataset298_TotalSegmentator_total_6mm_1559subj"
    other.mkdir(parents=True)
    write_dataset(store, TOTAL_3MM)
    write_dataset(tmp_path / "elsewhere", VERTEBRAE_1_5MM)
    (store / VERTEBRAE_1_5MM.folder).symlink_to(tmp_path / "elsewhere" / VERTEBRAE_1_5MM.folder)
    size = weights_store.status("fast").size_bytes
    assert weights_store.status("full").complete
    assert weights_store.remove() == size > 2000
    assert list(store.iterdir()) == [other]
    assert weights_store.damage(tmp_path / "elsewhere", VERTEBRAE_1_5MM) == "", "what was linked belongs to others"
    assert weights_store.remove() == 0


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local server instead of GitHub; the folder it serves the release's files from."""
    import requests
    from totalsegmentator import libs

    folder = tmp_path / "served" / "v2.0.0-weights"
    folder.mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real_get = requests.get

    def get(url: str, **options: object) -> object:
        assert options["timeout"], "a silent server must not be waited for without end"
        local = url.replace("https://github.com/wasserth/TotalSegmentator/releases/download", "")
        return real_get(f"http://127.0.0.1:{server.server_port}{local}", **options)

    monkeypatch.setattr(libs.requests, "get", get)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_missing_weights_are_fetched_from_the_release_with_progress(tmp_path: Path, store: Path, github: Path) -> None:
    write_dataset(store, TOTAL_3MM)
    release_zip(tmp_path, VERTEBRAE_1_5MM).rename(github / f"{VERTEBRAE_1_5MM.folder}.zip")
    told: list[tuple[str, float]] = []
    assert weights_store.fetch("full", lambda stage, fraction: told.append((stage, fraction))).complete
    assert sorted(p.name for p in store.iterdir()) == sorted(BOTH)
    assert told[-1] == ("Fetching weights 1 of 1", 0.99)
    assert os.environ["TOTALSEG_WEIGHTS_PATH"] == str(store)


def test_a_fetch_that_fails_says_what_to_do_and_leaves_nothing(tmp_path: Path, store: Path, github: Path) -> None:
    with pytest.raises(MissingRequirement) as caught:
        weights_store.fetch("fast", silent)
    assert caught.value.code == "segmenter_weights_not_fetched"
    assert "404" in caught.value.message
    assert TOTAL_3MM.address in caught.value.remedy
    assert "import" in caught.value.remedy
    assert list(store.iterdir()) == []

    whole = release_zip(tmp_path, TOTAL_3MM)
    (github / whole.name).write_bytes(whole.read_bytes()[:400])
    with pytest.raises(MissingRequirement, match="BadZipFile"):
        weights_store.fetch("fast", silent)
    assert list(store.iterdir()) == []


def test_a_cancelled_fetch_leaves_nothing(tmp_path: Path, store: Path, github: Path) -> None:
    release_zip(tmp_path, TOTAL_3MM).rename(github / f"{TOTAL_3MM.folder}.zip")

    def cancel(_stage: str, _fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        weights_store.fetch("fast", cancel)
    assert list(store.iterdir()) == []


def test_what_a_killed_fetch_left_is_cleared_by_the_next_one_and_a_running_one_is_not_disturbed(
    tmp_path: Path, store: Path
) -> None:
    store.mkdir(parents=True)
    dead = store / f"{weights_incoming.PREFIX}4194399-abc"  # above Linux's largest process id
    running = store / f"{weights_incoming.PREFIX}{os.getppid()}-abc"
    for place in (dead, running):
        place.mkdir()
        (place / "tmp_download_file.zip").write_bytes(b"half")
    weights_store.import_file(release_zip(tmp_path, TOTAL_3MM), silent)
    assert sorted(p.name for p in store.iterdir()) == sorted([running.name, TOTAL_3MM.folder])


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(MissingRequirement) as caught:
        weights_store.import_file(release_zip(tmp_path, TOTAL_3MM), silent, str(blocked / "results"))
    assert caught.value.code == "weights_folder_not_writable"
    assert "free space" in caught.value.remedy
