"""Other networks in TotalSegmentator's folder formats: its own package takes them for its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from core.totalsegmentator_writer import painted_ct, write_weights

from medconv.segmenter import SegmenterRequest, make_segmenter
from medconv.segmenters import weights_store
from medconv.segmenters.demonstration import find_demonstration_folder
from medconv.segmenters.nnunet_folder import read_model_folder
from medconv.segmenters.nnunet_loading import initialisation
from medconv.segmenters.stand_in import ORGANS, RIBS, TOTAL_6MM, write_stand_in
from medconv.segmenters.totalsegmentator_package import prepare_settings
from medconv.segmenters.weights_store import TOTAL_3MM, VERTEBRAE_1_5MM, WeightsDataset
from medconv.simulate import simulate_lumbar_ct
from medconv.types import SpineSegmentation
from medconv.vertebrae import TOTALSEGMENTATOR
from medconv.volume_io import read_labels, write_image

WITH_NETWORK = (TOTAL_3MM, TOTAL_6MM, ORGANS, VERTEBRAE_1_5MM, RIBS)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped demonstration network as TotalSegmentator's weights."""
    folder = tmp_path_factory.mktemp("demonstration") / "nnunet" / "results"
    write_stand_in(folder)
    return folder


def model(root: Path, dataset: WeightsDataset) -> Path:
    return dataset.model_folder(root)


def test_all_data_sets_of_task_total_have_the_packages_names_and_labels(demonstration: Path) -> None:
    from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
    from totalsegmentator.map_to_binary import class_map, class_map_5_parts, map_taskid_to_partname_ct

    modes = TASK_CONFIGS["total"]["sub_modes"]
    wanted = {*modes["default"]["task_id"], modes["fast"]["task_id"], modes["fastest"]["task_id"]}
    folders = {TASK_ID_WEIGHTS_CONFIGS[number]["foldername"] for number in wanted}
    assert {path.name for path in demonstration.iterdir()} == folders
    for dataset in WITH_NETWORK:
        classes = map_taskid_to_partname_ct.get(dataset.task_id)
        expected = class_map["total"] if classes is None else class_map_5_parts[classes]
        labels = json.loads((model(demonstration, dataset) / "dataset.json").read_text())["labels"]
        assert labels == {"background": 0} | {name: number for number, name in expected.items()}
    for mode, dataset in (("fast", TOTAL_3MM), ("fastest", TOTAL_6MM), ("default", VERTEBRAE_1_5MM)):
        assert modes[mode]["trainer"] == dataset.trainer
    assert weights_store.status("full", str(demonstration)).complete


def test_the_plans_have_the_format_of_totalsegmentators_weights_and_mean_the_same_kind_of_network(
    demonstration: Path,
) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    own = json.loads((find_demonstration_folder() / "plans.json").read_text())["configurations"]["3d_fullres"]
    for dataset in WITH_NETWORK:
        plans = json.loads((model(demonstration, dataset) / "plans.json").read_text())
        written = plans["configurations"]["3d_fullres"]
        assert "architecture" not in written
        assert written["UNet_class_name"] == "PlainConvUNet"
        rebuilt = PlansManager(plans).get_configuration("3d_fullres").configuration["architecture"]
        kwargs, expected = rebuilt["arch_kwargs"], own["architecture"]["arch_kwargs"]
        assert rebuilt["network_class_name"] == own["architecture"]["network_class_name"]
        same = ("strides", "kernel_sizes", "n_conv_per_stage", "n_conv_per_stage_decoder")
        assert {key: kwargs[key] for key in same} == {key: expected[key] for key in same}
        assert (np.array(kwargs["features_per_stage"]) >= expected["features_per_stage"]).all()


def test_outputs_are_rearranged_and_those_that_were_not_trained_never_win(demonstration: Path) -> None:
    import torch

    own = read_model_folder(find_demonstration_folder())
    torch.manual_seed(0)
    patch = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = initialisation(own)[0].eval()(patch)[0].argmax(0)
        found = initialisation(read_model_folder(model(demonstration, TOTAL_3MM)))[0].eval()(patch)[0].argmax(0)
    number = {
        label: TOTALSEGMENTATOR.get(name.removeprefix("vertebrae_"), 0) for name, label in own.label_names.items()
    }
    translate = torch.tensor([number[label] for label in range(len(number))])
    assert len(expected.unique()) > 3, "else nothing is compared"
    assert torch.equal(translate[expected], found)


def test_more_channels_cost_more_and_change_nothing(demonstration: Path, tmp_path: Path) -> None:
    import torch

    write_stand_in(tmp_path / "wide", widen=2)
    torch.manual_seed(0)
    patch = torch.randn(1, 1, 32, 32, 32)
    narrow, wide = (
        initialisation(read_model_folder(model(root, VERTEBRAE_1_5MM)))[0].eval()
        for root in (demonstration, tmp_path / "wide")
    )
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (narrow, wide)]
    assert 3.5 < sizes[1] / sizes[0] < 4.0
    with torch.no_grad():
        assert torch.allclose(narrow(patch), wide(patch), atol=1e-3)


def l1_of(found: SpineSegmentation) -> np.ndarray:
    full = np.zeros(found.ct_geometry.shape_zyx, bool)
    x, y, z = found.start_xyz
    depth, height, width = found.labels_zyx.shape
    full[z : z + depth, y : y + height, x : x + width] = found.labels_zyx == found.label_of("L1")
    return full


def segment(ct, weights: Path, quality: str) -> SpineSegmentation:
    request = SegmenterRequest("totalsegmentator", quality, weights_folder=str(weights), device="cpu")
    return make_segmenter(request).segment(ct, lambda *_: None)


def test_the_demonstration_network_finds_l1_in_a_simulated_ct_through_the_package(demonstration: Path) -> None:
    """0.88 and 0.89 were measured at 0.9 x 0.9 x 1.5 mm; 3 mm here, for speed."""
    case = simulate_lumbar_ct(
        3, field_of_view_mm=(-150.0, 110.0), in_plane_spacing_mm=2.0, slice_thickness_mm=3.0
    )  # T9 to L5
    truth = case.labels_zyx == TOTALSEGMENTATOR["L1"]
    found = segment(case.ct, demonstration, "full")
    l1 = l1_of(found)
    assert 2.0 * (l1 & truth).sum() / (l1.sum() + truth.sum()) > 0.8
    assert found.is_demonstration
    assert [note.code for note in found.notes] == []


def test_the_plain_command_takes_the_folder_and_gives_the_same_labels(tmp_path: Path) -> None:
    """`TotalSegmentator --fast` as a person calls it, on a CT at the network's own grid: voxel for voxel."""
    command = shutil.which("TotalSegmentator", path=str(Path(sys.executable).parent))
    assert command, "it is installed with the package"
    weights = write_weights(tmp_path / "weights", tmp_path / "scratch")
    ct, truth = painted_ct(spacing_mm=3.0)
    write_image(tmp_path / "ct.nii.gz", ct.array_zyx, ct.geometry)
    prepare_settings(tmp_path / "home")
    (tmp_path / "tmp").mkdir()
    own = {"TOTALSEG_HOME_DIR": "home", "TOTALSEG_WEIGHTS_PATH": "weights", "TMPDIR": "tmp"}
    environment = os.environ | {name: str(tmp_path / path) for name, path in own.items()}
    arguments = [command, "-i", "ct.nii.gz", "-o", "labels.nii.gz", "--ml", "--fast", "--device", "cpu"]
    subprocess.run(arguments, cwd=tmp_path, env=environment, check=True, capture_output=True)
    plain, geometry, _owner = read_labels(tmp_path / "labels.nii.gz")
    assert geometry.same_grid_as(ct.geometry)
    assert np.array_equal(plain, truth)
    ours = segment(ct, weights, "fast")
    assert np.array_equal(l1_of(ours), plain == TOTALSEGMENTATOR["L1"])
