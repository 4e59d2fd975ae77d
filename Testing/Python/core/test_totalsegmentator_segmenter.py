"""TotalSegmentator's real package, offline, with networks in exactly its formats.

Most tests use networks whose answer is known exactly (`nnunet_writer`); the demonstration network and, where this
machine has them, small networks trained on the real CT show the same with convolutions that mean something.
"""

from __future__ import annotations

import json
import multiprocessing.process
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from core.phantom import Phantom, reoriented
from core.totalsegmentator_writer import painted_ct, write_weights

from medconv.grid import cut_ct
from medconv.segmenter import SegmenterRequest, make_segmenter
from medconv.segmenters import totalsegmentator as ours
from medconv.segmenters import totalsegmentator_package as package
from medconv.segmenters import weights_store
from medconv.segmenters.resampling import canonical_block, nifti_image
from medconv.segmenters.totalsegmentator import TotalSegmentatorSegmenter
from medconv.types import Cancelled, CTVolume, InputRefused, MissingRequirement, SpineSegmentation
from medconv.vertebrae import TOTALSEGMENTATOR
from medconv.volume_io import read_ct, read_labels

TINY_MODELS = Path(__file__).parents[4] / "shared" / "data" / "tiny_models"
VERTEBRAE = [TOTALSEGMENTATOR[name] for name in ("L2", "L1", "T12")]
ANGLE = np.deg2rad(12)
OBLIQUE = (1, 0, 0, 0, np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE))


@dataclass
class Watch:
    """What tried to leave this process or to start another one."""

    network: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    """No connection and no name look-up succeeds; each attempt is noted, and so is every process that is started."""
    seen = Watch()
    patch = pytest.MonkeyPatch()

    def refuse(what: str) -> Callable[..., None]:
        def attempt(*arguments: object, **_: object) -> None:
            seen.network.append(f"{what} {arguments}")
            raise OSError("no network in tests")

        return attempt

    import requests

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, refuse(name))
    patch.setattr(socket, "getaddrinfo", refuse("getaddrinfo"))
    patch.setattr(requests, "post", refuse("post"))
    starts: dict[type, str] = {subprocess.Popen: "__init__", multiprocessing.process.BaseProcess: "start"}
    for owner, method in starts.items():
        real = getattr(owner, method)

        def started(self: object, *arguments: object, real: Callable = real, **options: object) -> None:
            seen.processes.append(f"{type(self).__name__} {arguments}")
            real(self, *arguments, **options)

        patch.setattr(owner, method, started)
    yield seen
    patch.undo()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with spaces and letters outside ASCII in its path."""
    folder = tmp_path_factory.mktemp("weights") / "Gewichte für Größe µ" / "nnunet results"
    return write_weights(folder, tmp_path_factory.mktemp("scratch"))


def segmenter_for(weights: Path, quality: str = "full") -> TotalSegmentatorSegmenter:
    made = make_segmenter(SegmenterRequest("totalsegmentator", quality, weights_folder=str(weights), device="cpu"))
    assert isinstance(made, TotalSegmentatorSegmenter)
    return made


def silent(_stage: str, _fraction: float) -> None:
    """Progress that nobody looks at."""


def on_whole_ct(found: SpineSegmentation) -> np.ndarray:
    full = np.zeros(found.ct_geometry.shape_zyx, np.uint8)
    x, y, z = found.start_xyz
    depth, height, width = found.labels_zyx.shape
    full[z : z + depth, y : y + height, x : x + width] = found.labels_zyx
    return full


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def only_vertebrae(labels: np.ndarray) -> np.ndarray:
    return np.where(np.isin(labels, VERTEBRAE), labels, 0)


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> TotalSegmentatorSegmenter:
    """Full quality; its networks stay loaded from test to test."""
    return segmenter_for(weights)


@dataclass
class Run:
    found: SpineSegmentation
    progress: list[tuple[str, float]]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def whole_run(watch: Watch, segmenter: TotalSegmentatorSegmenter) -> Run:
    """One case at full quality with everything watched."""
    told: list[tuple[str, float]] = []
    before = dict(os.environ)
    found = segmenter.segment(painted_ct()[0], lambda stage, fraction: told.append((stage, fraction)))
    assert dict(os.environ) == before, "the package's settings must not outlive the run"
    return Run(found, told, before)


def test_full_quality_draws_the_vertebrae_exactly_on_the_cts_grid(whole_run: Run) -> None:
    ct, truth = painted_ct()
    assert whole_run.found.ct_geometry == ct.geometry
    found = on_whole_ct(whole_run.found)
    assert np.array_equal(only_vertebrae(found), only_vertebrae(truth))
    sacrum = TOTALSEGMENTATOR["sacrum"]
    assert dice(found == sacrum, truth == sacrum) > 0.8, "the 3 mm pass alone finds it"


def test_it_says_what_it_is(whole_run: Run) -> None:
    found = whole_run.found
    assert found.segmenter == "totalsegmentator"
    assert found.is_demonstration, "networks in TotalSegmentator's format that are not its own"
    assert found.notes == ()
    assert found.identity.startswith("TotalSegmentator 2.")
    for dataset in weights_store.NEEDED["full"]:
        assert dataset.folder in found.identity
    wanted = {"T11", "T12", "L1", "L2", "L3", "L4", "L5", "sacrum", "rib_left_11", "rib_right_12", "liver"}
    assert wanted <= set(found.names.values())
    assert found.label_of("L1") == 31
    assert "spleen" not in found.names.values()
    assert set(found.timing_s) == {"loading", "3 mm pass", "1.5 mm pass", "onto the CT"}


def test_progress_only_rises_and_ends_at_one(whole_run: Run) -> None:
    fractions = [fraction for _, fraction in whole_run.progress]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    stages = list(dict.fromkeys(stage for stage, _ in whole_run.progress))
    assert stages == ["Loading TotalSegmentator", "Finding vertebrae", "Outlining L1", "Finding vertebrae"][:3]
    assert len(fractions) > 6, "told tile by tile"


def test_nothing_is_sent_and_no_process_is_started(whole_run: Run, watch: Watch) -> None:
    assert whole_run.found.labels_zyx.any()
    assert watch.network == []
    # nnU-Net asks for the computer's name when it is imported, to choose its own defaults.
    assert [process for process in watch.processes if "hostname" not in process] == []


def test_with_the_packages_own_settings_something_would_have_been_sent(
    watch: Watch, segmenter: TotalSegmentatorSegmenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the test above can fail: the same run with the config.json that the package itself writes."""
    home = tmp_path / "home"

    def packages_own_settings(_home: Path) -> None:
        import totalsegmentator.config as config

        monkeypatch.setenv("TOTALSEG_HOME_DIR", str(home))
        assert config.setup_totalseg()["send_usage_stats"] is True
        shutil.copy(home / "config.json", _home / "config.json")

    monkeypatch.setattr(package, "prepare_settings", packages_own_settings)
    segmenter.segment(painted_ct()[0], silent)
    assert any("stats.totalsegmentator.com" in attempt for attempt in watch.network), watch.network
    watch.network.clear()


def test_settings_that_were_left_half_written_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from totalsegmentator import config

    home = tmp_path / "home"
    home.mkdir()
    (home / "config.json").write_text('{"send_usage_stats": tr')
    package.prepare_settings(home)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(home))
    assert config.get_config()["send_usage_stats"] is False
    assert config.setup_totalseg() == package.SETTINGS


@pytest.mark.parametrize("code", ["LPS", "PIR"])
def test_any_orientation_gives_the_same_vertebrae(segmenter: TotalSegmentatorSegmenter, code: str) -> None:
    case = reoriented(Phantom(*painted_ct()), code)
    found = segmenter.segment(case.ct, silent)
    assert found.ct_geometry == case.ct.geometry
    assert np.array_equal(only_vertebrae(on_whole_ct(found)), only_vertebrae(case.labels_zyx))


def test_an_oblique_ct_gets_its_mask_on_its_own_grid(segmenter: TotalSegmentatorSegmenter) -> None:
    ct, truth = painted_ct(OBLIQUE)
    assert np.array_equal(only_vertebrae(on_whole_ct(segmenter.segment(ct, silent))), only_vertebrae(truth))


def test_fast_quality_is_one_pass_with_one_network(weights: Path, tmp_path: Path) -> None:
    only_3mm = tmp_path / "weights"
    shutil.copytree(weights / weights_store.TOTAL_3MM.folder, only_3mm / weights_store.TOTAL_3MM.folder)
    (only_3mm / f"{weights_store.TOTAL_3MM.folder}_v204").mkdir()  # left by an older version of the package
    ct, truth = painted_ct()
    found = segmenter_for(only_3mm, "fast").segment(ct, silent)
    assert set(found.timing_s) == {"loading", "3 mm pass", "onto the CT"}
    l1 = TOTALSEGMENTATOR["L1"]
    assert dice(on_whole_ct(found) == l1, truth == l1) > 0.8
    with pytest.raises(MissingRequirement, match="Dataset292"):
        segmenter_for(only_3mm, "full")


def test_cancel_between_two_tiles_leaves_no_files_and_the_next_case_runs(
    segmenter: TotalSegmentatorSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[int] = []

    def cancel(stage: str, fraction: float) -> None:
        if stage == "Outlining L1" and fraction > 0.65:
            seen.append(len(list(tmp_path.iterdir())))
            raise Cancelled

    with pytest.raises(Cancelled):
        segmenter.segment(painted_ct()[0], cancel)
    assert seen == [1], "the package's own temporary folder"
    assert list(tmp_path.iterdir()) == []
    ct, truth = painted_ct()
    assert np.array_equal(only_vertebrae(on_whole_ct(segmenter.segment(ct, silent))), only_vertebrae(truth))
    assert list(tmp_path.iterdir()) == []


class Painted:
    """Stands in for the package's two calls: sees in a block what the truth says, through `change` at 1.5 mm."""

    def __init__(self, ct: CTVolume, truth: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self._ct, self._truth, self._change = ct, truth, change
        self.shapes: list[tuple[int, ...]] = []

    def total_3mm(self, image, _device: str) -> np.ndarray:
        self.shapes.append(image.shape)
        return self._labels(image)

    def vertebrae(self, image, _device: str) -> np.ndarray:
        self.shapes.append(image.shape)
        return self._change(self._labels(image))

    def _labels(self, image) -> np.ndarray:
        """The truth on the image's grid, by nibabel's affine alone."""
        index = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), -1)
        ras = index @ image.affine[:3, :3].T + image.affine[:3, 3]
        at = np.rint(self._ct.geometry.lps_to_index(ras * (-1, -1, 1))).astype(int)
        inside = ((at >= 0) & (at < self._ct.geometry.size_xyz)).all(axis=-1)
        at[~inside] = 0
        labels = np.where(inside, self._truth[at[..., 2], at[..., 1], at[..., 0]], 0)
        return labels.transpose(2, 1, 0).astype(np.uint8)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Painted]:
    def make(ct: CTVolume, truth: np.ndarray, change: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Painted:
        fake = Painted(ct, truth, change)
        monkeypatch.setattr(package, "predict_total_3mm", fake.total_3mm)
        monkeypatch.setattr(package, "predict_vertebrae", fake.vertebrae)
        return fake

    return make


def test_two_passes_that_mean_different_vertebrae_are_told(segmenter: TotalSegmentatorSegmenter, painted) -> None:
    """The 1.5 mm network counts one level too high; names stay those of the 3 mm network."""
    ct, truth = painted_ct()
    painted(ct, truth, lambda labels: np.where(labels > 0, labels + 1, 0).astype(np.uint8))
    found = segmenter.segment(ct, silent)
    assert [note.code for note in found.notes] == ["level_passes_disagree"]
    assert "Dice 0.00" in found.notes[0].message
    assert np.array_equal(only_vertebrae(on_whole_ct(found)), only_vertebrae(truth))


def test_a_region_without_l1_is_followed_by_the_whole_ct(
    segmenter: TotalSegmentatorSegmenter, painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct, truth = painted_ct()
    fake = painted(ct, truth)
    monkeypatch.setattr(ours, "locate_lumbar_region", lambda _ct: ((0, 0, 0), (70, 64, 46)))
    told: list[str] = []
    found = segmenter.segment(ct, lambda stage, _: told.append(stage))
    assert "Finding vertebrae in the whole CT" in told
    assert len(fake.shapes) == 3
    assert fake.shapes[0][2] < fake.shapes[1][2]
    assert np.array_equal(only_vertebrae(on_whole_ct(found)), only_vertebrae(truth))


def test_a_region_that_holds_l1_is_all_that_is_looked_at(
    segmenter: TotalSegmentatorSegmenter, painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct, truth = painted_ct()
    fake = painted(ct, truth)
    monkeypatch.setattr(ours, "locate_lumbar_region", lambda _ct: ((10, 10, 20), (50, 50, 76)))
    found = segmenter.segment(ct, silent)
    assert fake.shapes[0] == (25, 25, 38)
    assert np.array_equal(only_vertebrae(on_whole_ct(found)), only_vertebrae(truth))


def test_a_ct_without_vertebrae_is_refused(segmenter: TotalSegmentatorSegmenter, painted) -> None:
    ct, truth = painted_ct()
    painted(ct, np.zeros_like(truth))
    with pytest.raises(InputRefused) as caught:
        segmenter.segment(ct, silent)
    assert caught.value.code == "nothing_found"


def test_without_l1_and_its_neighbours_the_coarse_pass_is_the_answer(segmenter, painted) -> None:
    ct, truth = painted_ct()
    lower = np.where(truth > 0, TOTALSEGMENTATOR["L4"], 0).astype(np.uint8)
    fake = painted(ct, lower)
    found = segmenter.segment(ct, silent)
    assert len(fake.shapes) == 1, "nothing to outline"
    assert dice(on_whole_ct(found) > 0, lower > 0) > 0.85
    assert found.notes == ()


def test_the_blocks_are_taken_by_the_package_without_resampling() -> None:
    """At exactly the task's spacing it hands the image on; else it would make float64 copies and shift boundaries."""
    from totalsegmentator.resampling import change_spacing

    ct = cut_ct(painted_ct()[0], (3, 5, 7), (61, 53, 80))
    for spacing in (3.0, 1.5):
        image = nifti_image(canonical_block(ct, (0, 0, 0), ct.geometry.size_xyz, spacing))
        assert change_spacing(image, spacing, order=1, dtype=np.int32) is image


def test_missing_weights_are_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement) as caught:
        segmenter_for(tmp_path / "empty", "fast")
    assert caught.value.code == "segmenter_weights_missing"
    assert "import" in caught.value.remedy


def test_weights_that_go_while_the_segmenter_waits_are_missed_before_the_next_case(
    weights: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(weights / weights_store.TOTAL_3MM.folder, copy / weights_store.TOTAL_3MM.folder)
    waiting = segmenter_for(copy, "fast")
    weights_store.remove("all", str(copy))
    with pytest.raises(MissingRequirement) as caught:
        waiting.segment(painted_ct()[0], silent)
    assert caught.value.code == "segmenter_weights_missing"


def damaged_checkpoint(model: Path) -> None:
    """The bytes of a weight tensor's header go wrong inside a file that is otherwise whole."""
    path = model / weights_store.CHECKPOINT
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x03\x04") + 60
    content[at : at + 200] = bytes(200)
    path.write_bytes(content)


def other_networks_plans(model: Path) -> None:
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4]
    (model / "plans.json").write_text(json.dumps(plans))


@pytest.mark.parametrize("harm", [damaged_checkpoint, other_networks_plans])
def test_weights_that_turn_out_unusable_say_how_to_get_them_again(
    weights: Path, tmp_path: Path, watch: Watch, harm: Callable[[Path], None]
) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(weights / weights_store.TOTAL_3MM.folder, copy / weights_store.TOTAL_3MM.folder)
    harm(weights_store.TOTAL_3MM.model_folder(copy))
    with pytest.raises(MissingRequirement) as caught:
        segmenter_for(copy, "fast").segment(painted_ct()[0], silent)
    assert caught.value.code == "segmenter_weights_missing"
    assert "Remove" in caught.value.remedy
    assert "import" in caught.value.remedy
    assert watch.network == []


def test_the_package_never_fetches_by_itself(
    segmenter: TotalSegmentatorSegmenter, tmp_path: Path, watch: Watch
) -> None:
    """Even if it asks for weights that nobody checked: its download is shut, its check passes, and loading fails."""
    notes: list = []
    image = nifti_image(canonical_block(painted_ct()[0], (0, 0, 0), (70, 64, 96), 3.0))
    with pytest.raises(MissingRequirement) as caught:
        with package.quiet_package(tmp_path / "home", tmp_path / "empty", notes, {}):
            package.predict_total_3mm(image, "cpu")
    assert caught.value.code == "segmenter_weights_missing"
    with package.quiet_package(tmp_path / "home", tmp_path / "empty", notes, {}):
        from totalsegmentator import libs

        with pytest.raises(MissingRequirement):
            libs.download_pretrained_weights(297)
    assert watch.network == []
    assert not any((tmp_path / "empty").rglob("*.zip"))


@pytest.mark.skipif(not TINY_MODELS.is_dir(), reason=f"no small networks for the real CT in {TINY_MODELS}")
@pytest.mark.parametrize(("quality", "floor"), [("fast", 0.87), ("full", 0.9)])
def test_networks_trained_on_the_real_ct_find_its_l1(real_case, quality: str, floor: float) -> None:
    """They know T11 to L2 in this one stack; 0.895 (3 mm) and 0.925 (1.5 mm) were measured."""
    folder = real_case("abdomen_3mm_l1_complete")
    ct = read_ct(folder / "example_ct_sm.nii.gz")
    truth, geometry, _owner = read_labels(folder / "example_seg.nii.gz")
    assert geometry.same_grid_as(ct.geometry)
    found = segmenter_for(TINY_MODELS, quality).segment(ct, silent)
    l1 = TOTALSEGMENTATOR["L1"]
    assert dice(on_whole_ct(found) == l1, truth == l1) > floor
    assert not found.is_demonstration
    assert found.ct_geometry == ct.geometry
    assert found.notes == ()
