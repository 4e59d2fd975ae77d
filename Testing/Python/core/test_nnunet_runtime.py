"""nnU-Net inside this process: exact labels, honest progress, full memories answered, no file trusted."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from core.nnunet_writer import HU_OF, MODEL_NAME, NAMES, THRESHOLDS_HU, write_checkpoint, write_model

from medconv.devices import choose_device
from medconv.segmenters import memory
from medconv.segmenters.nnunet_folder import read_model_folder
from medconv.segmenters.nnunet_runtime import (
    NNUNetModel,
    reporting_progress,
    sequential_prediction,
)
from medconv.segmenters.resampling import canonical_block, nifti_image
from medconv.segmenters.safe_checkpoint import load_checkpoint
from medconv.types import Cancelled, CTVolume, ImageGeometry, MissingRequirement, UsageError


def silent(stage: str, fraction: float) -> None:
    """Progress that no one watches."""


def blocks_of_hu() -> np.ndarray:
    """A small volume in which every structure is a cube of its own HU; z, y, x."""
    hu = np.full((20, 40, 44), 40, np.int16)
    for n, name in enumerate(NAMES):
        hu[4:16, 6:16, 4 + 10 * n : 11 + 10 * n] = HU_OF[name]
    return hu


def block_of(hu: np.ndarray, spacing_mm: float = 3.0):
    z, y, x = hu.shape
    ras = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    geometry = ImageGeometry((x, y, z), (spacing_mm,) * 3, (0.0, 0.0, 0.0), ras)
    return canonical_block(CTVolume(hu, geometry), (0, 0, 0), (x, y, z), spacing_mm)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("nnunet"))


@pytest.fixture(scope="module")
def model(model_folder: Path) -> NNUNetModel:
    return NNUNetModel(model_folder, "cpu")


def copy_of(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / MODEL_NAME))


# --- predicting -----------------------------------------------------------------------------------------------------


def test_labels_are_the_bins_of_hu(model: NNUNetModel) -> None:
    hu = blocks_of_hu()
    labels, notes = model.predict(block_of(hu), silent)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.digitize(hu, THRESHOLDS_HU))
    assert notes == []


def test_second_block_of_another_size_needs_no_reloading(model: NNUNetModel) -> None:
    hu = blocks_of_hu()[:, 5:30, :20]
    assert np.array_equal(model.predict(block_of(hu), silent)[0], np.digitize(hu, THRESHOLDS_HU))


def test_progress_rises_from_0_to_1_with_every_tile(model: NNUNetModel) -> None:
    told: list[tuple[str, float]] = []
    model.predict(block_of(blocks_of_hu()), lambda stage, fraction: told.append((stage, fraction)))
    # 20 x 40 x 44 voxels in tiles of 16 x 24 x 24, half overlapping: 2 x 3 x 3 tiles.
    assert [round(fraction * 18) for _, fraction in told] == list(range(19))
    assert {stage for stage, _ in told} == {"Finding vertebrae"}


def test_progress_of_two_folds_is_one_way_from_0_to_1(tmp_path: Path) -> None:
    folder = write_model(tmp_path, folds=("fold_0", "fold_1"))
    told: list[float] = []
    hu = blocks_of_hu()
    labels, _ = NNUNetModel(folder, "cpu").predict(block_of(hu), lambda _, fraction: told.append(fraction))
    assert [round(fraction * 36) for fraction in told] == list(range(37))
    assert np.array_equal(labels, np.digitize(hu, THRESHOLDS_HU))


def test_reported_fractions_lie_between_start_and_end_and_never_fall() -> None:
    from nnunetv2.inference import predict_from_raw_data as nnunet

    own = nnunet.tqdm
    told: list[float] = []
    with reporting_progress(lambda _, fraction: told.append(fraction), "Outlining L1", 0.4, 0.8):
        for _ in range(2):  # a window that is repeated because memory was full
            with nnunet.tqdm(desc=None, total=4, disable=True) as bar:
                for _ in range(4):
                    bar.update()
    assert told[:5] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8])
    assert told[5:] == pytest.approx([0.8] * 4)
    assert nnunet.tqdm is own


def test_cancel_stops_at_the_next_tile_and_leaves_no_thread_behind(model: NNUNetModel) -> None:
    before = set(threading.enumerate())
    seen = []

    def stop_at_third_tile(stage: str, fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.predict(block_of(blocks_of_hu()), stop_at_third_tile)
    assert len(seen) == 4
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert set(threading.enumerate()) - before == set()


def test_nothing_is_printed_and_torch_threads_are_as_before(model: NNUNetModel, capfd) -> None:
    import torch

    before = torch.get_num_threads()
    model.predict(block_of(blocks_of_hu()), silent)
    assert capfd.readouterr().out == ""
    assert torch.get_num_threads() == before


def test_prediction_starts_no_process(model: NNUNetModel, monkeypatch) -> None:
    import subprocess
    from multiprocessing import process

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(process.BaseProcess, "start", forbidden)
    monkeypatch.setattr(subprocess.Popen, "__init__", forbidden)
    model.predict(block_of(blocks_of_hu()), silent)


@pytest.mark.parametrize("cores", [1, 2, 4, 5, 16])
def test_a_computer_with_more_than_four_cores_keeps_one_free(monkeypatch, cores: int) -> None:
    from medconv.segmenters import nnunet_runtime

    monkeypatch.setattr(nnunet_runtime, "cores", lambda: cores)
    assert nnunet_runtime.cores_to_use() == (cores if cores <= 4 else cores - 1)


def test_unknown_and_missing_devices_are_named() -> None:
    import torch

    with pytest.raises(UsageError, match="no device 'gpu'"):
        choose_device("gpu")
    assert choose_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(MissingRequirement, match="no usable 'cuda'"):
            choose_device("cuda")


# --- full memories --------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended_gpu(model: NNUNetModel, monkeypatch):
    """The CPU passes for a GPU until the predictor is told to use the CPU; `full` chooses what does not fit."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as nnunet

    state = SimpleNamespace(full=set(), on_gpu=True, calls=[])
    own_tiles = nnunet.nnUNetPredictor._internal_predict_sliding_window_return_logits
    own_move = memory._move_to_cpu

    def tiles(self, data, slicers, do_on_device=True):
        where = ("results on GPU" if do_on_device else "network on GPU") if state.on_gpu else "CPU"
        state.calls.append(where)
        if where in state.full:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return own_tiles(self, data, slicers, do_on_device)

    def move(predictor) -> None:
        state.on_gpu = False
        own_move(predictor)

    monkeypatch.setattr(nnunet.nnUNetPredictor, "_internal_predict_sliding_window_return_logits", tiles)
    monkeypatch.setattr(memory, "runs_on_gpu", lambda _: state.on_gpu)
    monkeypatch.setattr(memory, "_move_to_cpu", move)
    own_predict = model._predictor.predict_single_npy_array

    def as_on_gpu(*args, **kwargs):
        model._predictor.perform_everything_on_device = True
        return own_predict(*args, **kwargs)

    monkeypatch.setattr(model._predictor, "predict_single_npy_array", as_on_gpu)
    return state


def test_full_gpu_puts_the_result_together_in_the_computers_memory(model: NNUNetModel, pretended_gpu) -> None:
    hu = blocks_of_hu()
    pretended_gpu.full = {"results on GPU"}
    labels, notes = model.predict(block_of(hu), silent)
    assert pretended_gpu.calls == ["results on GPU", "network on GPU"]
    assert [note.code for note in notes] == ["gpu_memory_low"]
    assert np.array_equal(labels, np.digitize(hu, THRESHOLDS_HU))


def test_gpu_too_small_for_a_tile_hands_over_to_the_cpu(model: NNUNetModel, pretended_gpu) -> None:
    hu = blocks_of_hu()
    pretended_gpu.full = {"results on GPU", "network on GPU"}
    labels, notes = model.predict(block_of(hu), silent)
    assert pretended_gpu.calls == ["results on GPU", "network on GPU", "CPU"]
    assert [note.code for note in notes] == ["gpu_memory_low", "gpu_memory_full"]
    assert "CPU" in notes[1].message
    assert np.array_equal(labels, np.digitize(hu, THRESHOLDS_HU))


def test_next_case_tries_the_gpu_again(model: NNUNetModel, pretended_gpu) -> None:
    pretended_gpu.full = {"results on GPU", "network on GPU"}
    model.predict(block_of(blocks_of_hu()), silent)
    pretended_gpu.full, pretended_gpu.on_gpu, pretended_gpu.calls = set(), True, []
    assert model.predict(block_of(blocks_of_hu()), silent)[1] == []
    assert pretended_gpu.calls == ["results on GPU"]


def test_an_error_that_is_not_memory_stays_what_it_is(model: NNUNetModel, monkeypatch) -> None:
    from nnunetv2.inference import predict_from_raw_data as nnunet

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(nnunet.nnUNetPredictor, "_internal_predict_sliding_window_return_logits", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        model.predict(block_of(blocks_of_hu()), silent)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 12.0 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 12884901888 bytes."),
    ],
)
def test_full_memory_of_the_computer_is_told_with_what_to_do(model: NNUNetModel, monkeypatch, error) -> None:
    from nnunetv2.inference import predict_from_raw_data as nnunet

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(nnunet.nnUNetPredictor, "_internal_predict_sliding_window_return_logits", full)
    with pytest.raises(MissingRequirement) as refused:
        model.predict(block_of(blocks_of_hu()), silent)
    assert refused.value.code == "out_of_memory"
    assert "Close other programs" in refused.value.remedy


# --- nnU-Net's own file interface, as TotalSegmentator calls it -----------------------------------------------------


def predict_files(folder: Path, source: Path, target: Path) -> np.ndarray:
    """What TotalSegmentator does: a folder with s01_0000.nii.gz in, a folder with s01.nii.gz out."""
    import nibabel
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=[0], checkpoint_name="checkpoint_final.pth")
    predictor.predict_from_files(
        str(source), str(target), save_probabilities=False, overwrite=True, num_processes_preprocessing=3,
        num_processes_segmentation_export=2, folder_with_segs_from_prev_stage=None, num_parts=1, part_id=0,
    )  # fmt: skip
    return np.asarray(nibabel.load(target / "s01.nii.gz").dataobj).transpose(2, 1, 0)  # type: ignore[attr-defined]


@pytest.fixture
def case_files(tmp_path: Path) -> tuple[Path, Path]:
    import nibabel

    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    nibabel.save(nifti_image(block_of(blocks_of_hu())), source / "s01_0000.nii.gz")
    return source, target


def test_prediction_from_files_runs_in_this_process_and_keeps_the_network_warm(
    model_folder: Path, case_files, monkeypatch
) -> None:
    from multiprocessing import process

    from medconv.segmenters import nnunet_loading

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(process.BaseProcess, "start", forbidden)
    loads = []
    own = nnunet_loading.load_checkpoint
    monkeypatch.setattr(nnunet_loading, "load_checkpoint", lambda path: loads.append(path) or own(path))
    warm, told = {}, []
    for _ in range(2):
        with sequential_prediction(warm=warm), reporting_progress(lambda *tell: told.append(tell), "Vertebrae"):
            labels = predict_files(model_folder, *case_files)
    assert np.array_equal(labels, np.digitize(blocks_of_hu(), THRESHOLDS_HU))
    assert len(loads) == 1
    assert told[-1] == ("Vertebrae", 1.0)


def test_nnunet_is_as_it_was_afterwards_also_after_an_error(model_folder: Path, case_files) -> None:
    from nnunetv2.inference import predict_from_raw_data as nnunet

    def state() -> list[object]:
        predictor = vars(nnunet.nnUNetPredictor)
        return [nnunet.tqdm, nnunet.Queue, nnunet.default_num_processes, sys.stdout, dict(predictor)]

    before = state()
    with pytest.raises(Cancelled), sequential_prediction(), reporting_progress(cancel_at_half, "Vertebrae"):
        predict_files(model_folder, *case_files)
    assert state() == before


def cancel_at_half(stage: str, fraction: float) -> None:
    if fraction >= 0.5:
        raise Cancelled


def test_files_are_loaded_safely_there_too(model_folder: Path, tmp_path: Path, case_files) -> None:
    folder = copy_of(model_folder, tmp_path)
    marker = plant_code(folder / "fold_0" / "checkpoint_final.pth", tmp_path)
    with pytest.raises(MissingRequirement) as refused, sequential_prediction():
        predict_files(folder, *case_files)
    assert refused.value.code == "weights_not_safe"
    assert not marker.exists()


# --- files that are wrong -------------------------------------------------------------------------------------------


class _Payload:
    """An object whose unpickling writes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self):
        return (Path.touch, (self._marker,))


def plant_code(checkpoint: Path, tmp_path: Path) -> Path:
    """Put code into a checkpoint that creates a file when it is opened carelessly; returns that file."""
    import torch

    marker = tmp_path / "code-was-run"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"logging": _Payload(marker)}, checkpoint)
    return marker


def test_checkpoint_with_code_is_refused_and_the_code_does_not_run(model_folder: Path, tmp_path: Path) -> None:
    import torch

    path = copy_of(model_folder, tmp_path) / "fold_0" / "checkpoint_final.pth"
    marker = plant_code(path, tmp_path)
    with pytest.raises(MissingRequirement) as refused:
        load_checkpoint(path)
    assert refused.value.code == "weights_not_safe"
    assert "was not opened" in refused.value.message
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the planted code would have run: the test is worth something"


def test_plain_pickle_with_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "code-was-run"
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(pickle.dumps(_Payload(marker)))
    with pytest.raises(MissingRequirement) as refused:
        load_checkpoint(path)
    assert refused.value.code in ("weights_not_safe", "weights_damaged")
    assert not marker.exists()


def test_checkpoint_as_numpy_1_wrote_it_is_read(model_folder: Path, tmp_path: Path) -> None:
    """The same log under numpy 1's module names, as in weights published before 2024."""
    import zipfile

    path = model_folder / "fold_0" / "checkpoint_final.pth"
    old = tmp_path / "checkpoint_final.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\n" in data
                data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            target.writestr(entry, data)
    checkpoint = load_checkpoint(old)
    assert checkpoint["logging"]["mean_fg_dice"] == [0.91]


def test_arrays_in_the_log_are_read(model_folder: Path, tmp_path: Path) -> None:
    """Some trainers log arrays of numbers beside plain ones."""
    own = load_checkpoint(model_folder / "fold_0" / "checkpoint_final.pth")
    path = tmp_path / "checkpoint_final.pth"
    write_checkpoint(path, {}, {}, own["network_weights"], logging={"dice_per_class": np.array([0.5, 0.7])})
    assert load_checkpoint(path)["logging"]["dice_per_class"].tolist() == [0.5, 0.7]


def test_torch_that_can_not_load_safely_is_not_used(model_folder: Path, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    with pytest.raises(MissingRequirement, match=r"PyTorch 2\.5\.1") as refused:
        load_checkpoint(model_folder / "fold_0" / "checkpoint_final.pth")
    assert refused.value.remedy == "Install PyTorch 2.6 or newer."


@pytest.mark.parametrize("package", ["torch", "nnunetv2"])
def test_missing_package_is_named_with_how_to_get_it(model_folder: Path, monkeypatch, package: str) -> None:
    import importlib.util

    own = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else own(name, *more))
    with pytest.raises(MissingRequirement, match=f"package {package} is not installed") as refused:
        NNUNetModel(model_folder, "cpu")
    assert refused.value.code == f"{package}_missing"
    assert "pip install" in refused.value.remedy


def test_model_of_nnunet_v1_is_recognised(tmp_path: Path) -> None:
    fold = tmp_path / "Task056_VerSe" / "nnUNetTrainerV2__nnUNetPlansv2.1" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "model_final_checkpoint.model.pkl").write_bytes(b"")
    with pytest.raises(MissingRequirement, match="nnU-Net v1") as refused:
        read_model_folder(tmp_path / "Task056_VerSe")
    assert refused.value.code == "nnunet_version_1"


def test_checkpoint_that_is_cut_off_is_called_damaged(model_folder: Path, tmp_path: Path) -> None:
    path = copy_of(model_folder, tmp_path) / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(MissingRequirement, match="damaged, cut off") as refused:
        load_checkpoint(path)
    assert refused.value.code == "weights_damaged"


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_file_of_another_format_is_called_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(content)
    with pytest.raises(MissingRequirement) as refused:
        load_checkpoint(path)
    assert refused.value.code == "weights_damaged"


def test_weights_that_are_no_nnunet_checkpoint_are_told_apart(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "checkpoint_final.pth"
    torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, path)
    with pytest.raises(MissingRequirement, match="no checkpoint of nnU-Net v2") as refused:
        load_checkpoint(path)
    assert refused.value.code == "weights_unreadable"


def test_weights_of_another_network_do_not_fit(model_folder: Path, tmp_path: Path) -> None:
    import torch

    folder = copy_of(model_folder, tmp_path)
    plans = json.loads((folder / "plans.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    write_checkpoint(folder / "fold_0" / "checkpoint_final.pth", plans, dataset, {"conv.weight": torch.zeros(3)})
    with pytest.raises(MissingRequirement, match="do not fit its plans") as refused:
        NNUNetModel(folder, "cpu")
    assert refused.value.code == "weights_do_not_fit"


def test_unknown_trainer_is_named(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path)
    checkpoint = load_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    arguments = (checkpoint["init_args"]["plans"], checkpoint["init_args"]["dataset_json"])
    write_checkpoint(
        folder / "fold_0" / "checkpoint_final.pth", *arguments, checkpoint["network_weights"], trainer_name="MyTrainer"
    )
    with pytest.raises(MissingRequirement, match="'MyTrainer'") as refused:
        NNUNetModel(folder, "cpu")
    assert refused.value.code == "nnunet_trainer_unknown"


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_missing_and_damaged_json_are_named(model_folder: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(model_folder, tmp_path)
    (folder / name).write_text((folder / name).read_text()[:-40])
    with pytest.raises(MissingRequirement, match=name) as refused:
        read_model_folder(folder)
    assert refused.value.code == "nnunet_file_damaged"
    (folder / name).unlink()
    with pytest.raises(MissingRequirement, match=f"no {name}") as refused:
        read_model_folder(folder)
    assert refused.value.code == "nnunet_file_missing"


def test_missing_fold_and_missing_checkpoint_are_named(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path)
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(MissingRequirement, match=r"no checkpoint_final.pth in fold_0") as refused:
        read_model_folder(folder)
    assert refused.value.code == "weights_missing"
    (folder / "fold_0").rmdir()
    with pytest.raises(MissingRequirement, match="no fold_0"):
        read_model_folder(folder)


def test_best_checkpoint_and_fold_all_will_do(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path)
    (folder / "fold_0").rename(folder / "fold_all")
    (folder / "fold_all" / "checkpoint_final.pth").rename(folder / "fold_all" / "checkpoint_best.pth")
    assert read_model_folder(folder).checkpoints == (folder / "fold_all" / "checkpoint_best.pth",)


def test_dataset_folder_leads_to_its_only_model_and_several_must_be_chosen_from(model_folder, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(model_folder.parent, tmp_path / "Dataset901_Bins"))
    assert read_model_folder(dataset).path == dataset / MODEL_NAME
    shutil.copytree(dataset / MODEL_NAME, dataset / "nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres")
    with pytest.raises(MissingRequirement, match="holds 2 models") as refused:
        read_model_folder(dataset)
    assert refused.value.code == "nnunet_folder_ambiguous"


def test_folder_without_a_model_says_what_to_choose(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match="no nnU-Net v2 model folder") as refused:
        read_model_folder(tmp_path)
    assert "fold_0" in refused.value.remedy
    with pytest.raises(MissingRequirement, match="no folder"):
        read_model_folder(tmp_path / "absent")


def changed(model_folder: Path, tmp_path: Path, name: str, change) -> Path:
    folder = copy_of(model_folder, tmp_path)
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))
    return folder


def test_2d_models_and_models_of_several_channels_are_refused(model_folder: Path, tmp_path: Path) -> None:
    flat = changed(
        model_folder, tmp_path / "a", "plans.json", lambda p: p.update(configurations={"2d": {"spacing": [1.0, 1.0]}})
    )
    with pytest.raises(MissingRequirement, match="its plans have: 2d") as refused:
        read_model_folder(flat)
    assert refused.value.code == "nnunet_configuration_missing"
    two = changed(model_folder, tmp_path / "b", "dataset.json", lambda d: d["channel_names"].update({"1": "PET"}))
    with pytest.raises(MissingRequirement, match="2 channels") as refused:
        read_model_folder(two)
    assert refused.value.code == "nnunet_dataset_unfit"


@pytest.mark.parametrize("place", ["network", "layer"])
def test_plans_that_ask_for_foreign_code_are_refused(model_folder: Path, tmp_path: Path, place: str) -> None:
    def point_elsewhere(plans) -> None:
        wanted = plans["configurations"]["3d_fullres"]["architecture"]
        if place == "network":
            wanted["network_class_name"] = "subprocess.Popen"
        else:
            wanted["arch_kwargs"]["nonlin"] = "os.system"

    with pytest.raises(MissingRequirement, match="no part of nnU-Net") as refused:
        read_model_folder(changed(model_folder, tmp_path, "plans.json", point_elsewhere))
    assert refused.value.code == "weights_not_safe"


@pytest.mark.parametrize("name", ["with spaces", "Wirbelsäule", "脊柱 模型"])
def test_any_folder_name_works(model_folder: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / name / MODEL_NAME))
    hu = blocks_of_hu()[:, :24, :24]
    labels, _ = NNUNetModel(str(folder), "cpu").predict(block_of(hu), silent)
    assert np.array_equal(labels, np.digitize(hu, THRESHOLDS_HU))


def test_both_generations_of_plans_give_a_network() -> None:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "tiny_models"
    if not folder.is_dir():
        pytest.skip("no small nnU-Net models on this machine")
    for name in ("Dataset297_TotalSegmentator_total_3mm_1559subj", "Dataset900_CTSpine1K_tiny"):
        labels, _ = NNUNetModel(folder / name, "cpu").predict(block_of(blocks_of_hu()), silent)
        assert labels.shape == (20, 40, 44)
