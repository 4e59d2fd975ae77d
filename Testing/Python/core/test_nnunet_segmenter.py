"""Any nnU-Net v2 folder as a segmenter: the mask lies where the network saw it, named as the person expects.

The network is one whose answer is known exactly (`nnunet_writer`): it names structures by their HU. A small trained
network on a real CT shows the same with convolutions that mean something.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from core.nnunet_writer import HU_OF, write_model
from core.phantom import Phantom, grid, phantom, reoriented

from medconv.grid import cut_ct, to_image
from medconv.segmenter import SegmenterRequest, make_segmenter
from medconv.segmenters import nnunet
from medconv.segmenters.nnunet_folder import read_model_folder
from medconv.types import CTVolume, ImageGeometry, InputRefused, MissingRequirement, SpineSegmentation, UsageError
from medconv.volume_io import read_ct, read_labels

CODES = ("LPS", "RAS", "PIR", "ASL")
FROM, TO = (10, 14), (22, 28)  # in-plane box of every structure: x, y
LEVELS = {"sacrum": (4, 12), "L2": (16, 24), "L1": (28, 36), "T12": (40, 48)}
PATCH = (32, 42, 40)  # few tiles: the tests are to be short
ANGLE = np.deg2rad(12)
OBLIQUE = (1, 0, 0, 0, np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE))


def silent(stage: str, fraction: float) -> None:
    """Progress that no one watches."""


def painted_ct(code: str = "LPS", direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)) -> Phantom:
    """A 3 mm CT of four boxes, each with the HU that the network knows it by; labels as drawn (2 = L1)."""
    geometry = ImageGeometry((40, 42, 54), (3.0, 3.0, 3.0), (-60.0, 20.0, 5.0), tuple(float(v) for v in direction))
    hu, labels = np.full(geometry.shape_zyx, 40, np.int16), np.zeros(geometry.shape_zyx, np.uint8)
    for label, name in enumerate(("L2", "L1", "T12", "sacrum"), start=1):
        box = (slice(*LEVELS[name]), slice(FROM[1], TO[1]), slice(FROM[0], TO[0]))
        hu[box], labels[box] = HU_OF[name], label
    return reoriented(Phantom(CTVolume(hu, geometry), labels), code)


def request(folder: Path, **options) -> SegmenterRequest:
    return SegmenterRequest("nnunet", folder=str(folder), device="cpu", **options)


def on_whole_ct(found: SpineSegmentation) -> np.ndarray:
    full = np.zeros(found.ct_geometry.shape_zyx, np.uint8)
    x, y, z = found.start_xyz
    depth, height, width = found.labels_zyx.shape
    full[z : z + depth, y : y + height, x : x + width] = found.labels_zyx
    return full


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("nnunet"), patch_zyx=PATCH)


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> nnunet.NNUNetSegmenter:
    return nnunet.NNUNetSegmenter(request(folder))


@pytest.mark.parametrize("code", CODES)
def test_every_structure_is_where_it_is_in_any_orientation(segmenter, code: str) -> None:
    case = painted_ct(code)
    found = segmenter.segment(case.ct, silent)
    assert found.ct_geometry is case.ct.geometry
    assert np.array_equal(on_whole_ct(found), case.labels_zyx)
    assert dict(found.names) == {1: "L2", 2: "L1", 3: "T12", 4: "sacrum"}


def test_oblique_ct_gets_its_mask_on_its_own_grid(segmenter) -> None:
    case = painted_ct(direction=OBLIQUE)
    assert np.array_equal(on_whole_ct(segmenter.segment(case.ct, silent)), case.labels_zyx)


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_network_sees_the_patients_right_at_the_same_side_with_every_reader(tmp_path, reader: str, code: str) -> None:
    """A network that looks one voxel to the array's right: its labels lie 3 mm to the patient's left of the truth."""
    case = painted_ct()
    expected = np.roll(case.labels_zyx, 1, axis=2)  # LPS: x runs to the patient's left
    stored = painted_ct(code).ct
    sideways = nnunet.NNUNetSegmenter(request(write_model(tmp_path, reader=reader, shift_x=1, patch_zyx=PATCH)))
    found = on_whole_ct(sideways.segment(stored, silent))
    back = sitk.DICOMOrient(to_image(found, stored.geometry), "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(back), expected)


def test_reader_that_takes_images_as_stored_is_told_of(tmp_path: Path) -> None:
    unsure = nnunet.NNUNetSegmenter(request(write_model(tmp_path, reader="SimpleITKIO", patch_zyx=PATCH)))
    notes = unsure.segment(painted_ct().ct, silent).notes
    assert [note.code for note in notes] == ["nnunet_orientation"]
    assert "RAS" in notes[0].message


class KnowsOnlyLPS:
    """Stands in for a network trained on LPS-stored images: elsewhere it finds nothing."""

    def __init__(self, real) -> None:
        self._real, self.folder, self.checkpoint_sha256 = real, real.folder, real.checkpoint_sha256

    def predict(self, block, progress, stage):
        labels, notes = self._real.predict(block, progress, stage)
        columns = np.flatnonzero((labels > 0).any(axis=(0, 1)))
        return (labels if columns.mean() < labels.shape[2] / 2 else np.zeros_like(labels)), notes


def test_network_trained_on_lps_images_is_tried_the_other_way_round(tmp_path: Path) -> None:
    case = painted_ct()  # its boxes lie at the lower x of LPS, the patient's right: in RAS at the upper
    unsure = nnunet.NNUNetSegmenter(request(write_model(tmp_path, reader="SimpleITKIO", patch_zyx=PATCH)))
    unsure._model = KnowsOnlyLPS(unsure._model)
    found = unsure.segment(case.ct, silent)
    assert np.array_equal(on_whole_ct(found), case.labels_zyx)
    assert "LPS" in found.notes[-1].message


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (2.0, 2.0, 0.7)])
def test_mask_is_smooth_and_in_place_at_other_voxel_sizes(tmp_path: Path, spacing) -> None:
    case = phantom(grid(spacing=spacing))
    one_level = write_model(  # between 40 and 150 HU
        tmp_path, names=("L1",), thresholds_hu=(95.0,), spacing_mm=2.0, patch_zyx=(56, 80, 80)
    )
    found = on_whole_ct(nnunet.NNUNetSegmenter(request(one_level)).segment(case.ct, silent))
    assert dice(found == 1, case.labels_zyx == 31) > 0.93


def test_result_says_who_made_it_and_how_long_it_took(segmenter, folder: Path) -> None:
    import hashlib

    found = segmenter.segment(painted_ct().ct, silent)
    digest = hashlib.sha256((folder / "fold_0" / "checkpoint_final.pth").read_bytes()).hexdigest()
    assert (found.segmenter, found.is_demonstration) == ("nnunet", False)
    assert found.identity == f"Dataset901_Bins {digest[:12]}"
    assert set(found.timing_s) == {"locate", "vertebrae", "total"}
    assert found.timing_s["total"] == pytest.approx(found.timing_s["locate"] + found.timing_s["vertebrae"])


def test_progress_goes_from_0_to_1_and_never_back(segmenter) -> None:
    told: list[tuple[str, float]] = []
    segmenter.segment(painted_ct().ct, lambda stage, fraction: told.append((stage, fraction)))
    fractions = [fraction for _, fraction in told]
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert fractions == sorted(fractions)
    assert len(fractions) == 1 + 1 + 3 + 1, "the start of the search and of the network, three tiles, the end"


def stages_with_region(segmenter, monkeypatch, region) -> tuple[np.ndarray, list[str]]:
    monkeypatch.setattr(nnunet, "locate_lumbar_region", lambda _: region)
    stages: list[str] = []
    found = segmenter.segment(painted_ct().ct, lambda stage, _: stages.append(stage))
    return on_whole_ct(found), list(dict.fromkeys(stages))


def test_region_with_l1_in_it_is_all_that_is_segmented(segmenter, monkeypatch) -> None:
    found, stages = stages_with_region(segmenter, monkeypatch, ((6, 6, 20), (28, 30, 34)))
    truth = painted_ct().labels_zyx.copy()
    truth[:20] = 0
    assert np.array_equal(found, truth)
    assert stages == ["Locating the lumbar spine", "Finding vertebrae"]


@pytest.mark.parametrize("region", [((6, 6, 0), (28, 30, 20)), ((6, 6, 32), (28, 30, 22))])
def test_whole_ct_is_segmented_if_the_region_missed_l1_or_cut_it(segmenter, monkeypatch, region) -> None:
    found, stages = stages_with_region(segmenter, monkeypatch, region)
    assert np.array_equal(found, painted_ct().labels_zyx)
    assert stages == ["Locating the lumbar spine", "Finding vertebrae", "Finding vertebrae in the whole CT"]


def test_ct_without_vertebrae_is_refused(segmenter) -> None:
    empty = painted_ct().ct
    soft = CTVolume(np.full_like(empty.array_zyx, 40), empty.geometry)
    with pytest.raises(InputRefused, match="found no vertebra") as refused:
        segmenter.segment(soft, silent)
    assert refused.value.code == "nothing_found"


def test_specks_are_no_vertebra(segmenter) -> None:
    case = painted_ct().ct
    hu = np.full_like(case.array_zyx, 40)
    hu[30:33, 20:23, 20:23] = HU_OF["L1"]  # 0.7 ml
    with pytest.raises(InputRefused, match="found no vertebra"):
        segmenter.segment(CTVolume(hu, case.geometry), silent)


@pytest.mark.parametrize("name", ["Modelle für Wirbel", "椎骨 モデル"])
def test_folders_with_spaces_and_other_alphabets_work(folder: Path, tmp_path: Path, name: str) -> None:
    dataset = Path(shutil.copytree(folder.parent, tmp_path / name / "Dataset901_Bins"))
    case = painted_ct()
    found = make_segmenter(request(dataset)).segment(case.ct, silent)
    assert np.array_equal(on_whole_ct(found), case.labels_zyx)


def test_missing_folder_is_told_before_any_ct_is_touched(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match="no folder"):
        make_segmenter(request(tmp_path / "absent"))


# --- label maps -----------------------------------------------------------------------------------------------------


def renamed(folder: Path, tmp_path: Path, labels: dict) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    document = json.loads((copy / "dataset.json").read_text())
    document["labels"] = labels
    (copy / "dataset.json").write_text(json.dumps(document))
    return copy


def write_map(tmp_path: Path, entries: dict) -> str:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(entries))
    return str(path)


def names_of(folder: Path, label_map: str = "") -> dict[int, str]:
    return nnunet.structure_names(read_model_folder(folder), label_map)


def test_numbered_network_takes_its_names_from_a_map(folder: Path, tmp_path: Path) -> None:
    numbered = renamed(folder, tmp_path, {"background": 0, "1": 1, "2": 2, "3": 3, "4": 4})
    with pytest.raises(InputRefused, match="does not name L1"):
        names_of(numbered)
    label_map = write_map(tmp_path, {"L2": 1, "L1": 2, "T12": 3})
    assert names_of(numbered, label_map) == {1: "L2", 2: "L1", 3: "T12"}
    case = painted_ct()
    found = make_segmenter(request(numbered, label_map=label_map)).segment(case.ct, silent)
    assert np.array_equal(on_whole_ct(found), np.where(case.labels_zyx == 4, 0, case.labels_zyx))


def test_map_with_labels_that_the_network_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"label 9 \(L5\) is none of the network's") as refused:
        names_of(folder, write_map(tmp_path, {"L1": 2, "L5": 9}))
    assert refused.value.code == "label_map_unfit"


def test_map_that_contradicts_the_networks_own_names_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="label 2 is L1 in the network and L3 in the map"):
        names_of(folder, write_map(tmp_path, {"T12": 3, "L3": 2, "L1": 4}))


def test_verse_map_fits_a_network_that_knows_some_of_its_vertebrae(folder: Path, tmp_path: Path) -> None:
    verse = {"background": 0, "T12": 19, "vertebra_L1": 20, "21": 21, "22": 22}
    assert names_of(renamed(folder, tmp_path, verse), "verse") == {19: "T12", 20: "L1", 21: "L2", 22: "L3"}


def test_totalsegmentators_map_does_not_fit_a_verse_network(folder: Path, tmp_path: Path) -> None:
    verse = {"background": 0} | {str(n): n for n in range(1, 26)}
    with pytest.raises(InputRefused, match="no label for L1"):
        names_of(renamed(folder, tmp_path, verse), "totalsegmentator")


def test_unknown_map_is_a_wrong_request(folder: Path) -> None:
    with pytest.raises(UsageError, match="no label map 'verze'"):
        names_of(folder, "verze")


def test_organs_that_the_level_check_does_not_need_are_left_out(folder: Path, tmp_path: Path) -> None:
    labels = {"background": 0, "vertebrae_L1": 2, "spleen": 1, "liver": 3, "rib_left_12": 4}
    assert names_of(renamed(folder, tmp_path, labels)) == {2: "L1", 3: "liver", 4: "rib_left_12"}


# --- a trained network on a real CT ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_model() -> Path:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "tiny_models" / "Dataset900_CTSpine1K_tiny"
    if not folder.is_dir():
        pytest.skip("no small CTSpine1K-style model on this machine")
    return folder


@pytest.mark.real_ct
def test_ctspine1k_style_network_finds_l1_in_a_real_ct_also_oblique_and_turned(tiny_model: Path, real_case) -> None:
    case = real_case("abdomen_3mm_l1_complete")
    whole = read_ct(case / "example_ct_sm.nii.gz")
    labels, _, _keep = read_labels(case / "example_seg.nii.gz")
    ct = cut_ct(whole, (20, 15, 0), (75, 75, 30))  # fewer tiles: the test is to be short
    truth = labels[:, 15:90, 20:95] == 31
    segmenter = make_segmenter(SegmenterRequest.parse(f"nnunet:{tiny_model}", device="cpu"))
    straight = on_whole_ct(segmenter.segment(ct, silent)) == 20
    assert dice(straight, truth) > 0.88

    turned = reoriented(Phantom(on_oblique_grid(ct), np.zeros(on_oblique_grid(ct).array_zyx.shape, np.uint8)), "PIL").ct
    found = on_whole_ct(segmenter.segment(turned, silent)) == 20
    back = sitk.Resample(
        to_image(found.astype(np.float32), turned.geometry), to_image(truth.astype(np.uint8), ct.geometry),
        sitk.Transform(), sitk.sitkLinear, 0.0,
    )  # fmt: skip
    assert dice(sitk.GetArrayFromImage(back) >= 0.5, truth) > 0.85


def on_oblique_grid(ct: CTVolume) -> CTVolume:
    """The CT resampled onto a grid turned by 6 degrees about the left-right axis, at its own spacing."""
    angle = np.deg2rad(6)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    direction = turn @ np.reshape(ct.geometry.direction, (3, 3))
    middle = (np.array(ct.geometry.size_xyz) - 1) / 2
    x, y, z = (
        float(v) for v in ct.geometry.index_to_lps(middle) - direction @ (middle * np.array(ct.geometry.spacing_mm_xyz))
    )
    geometry = ImageGeometry(
        ct.geometry.size_xyz, ct.geometry.spacing_mm_xyz, (x, y, z), tuple(float(v) for v in direction.ravel())
    )
    reference = to_image(np.zeros(geometry.shape_zyx, np.uint8), geometry)
    image = sitk.Resample(
        to_image(ct.array_zyx.astype(np.float32), ct.geometry), reference, sitk.Transform(), sitk.sitkLinear, -1000.0
    )
    return CTVolume(sitk.GetArrayFromImage(image).round().astype(np.int16), geometry)
