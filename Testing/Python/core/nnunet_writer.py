"""A complete nnU-Net v2 model folder whose network does exactly what its test says: it bins HU.

The weights of a small U-Net are set by hand so that the label of a voxel is the number of thresholds that its HU (after
the folder's own CT normalisation) exceeds; `shift_x` makes it look at the neighbour at that side along the array's x
axis, so that a wrong orientation shows. Loaded and run by the real nnU-Net, with its own sliding window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medconv.vertebrae import is_vertebra

PATCH_ZYX = (16, 24, 24)
NAMES = ("L2", "L1", "T12", "sacrum")
THRESHOLDS_HU = (450.0, 650.0, 850.0, 1050.0)
# In the middle between two thresholds: what these structures read in a CT made for this network.
HU_OF = {"L2": 550, "L1": 750, "T12": 950, "sacrum": 1150}
NORMALISATION = {"percentile_00_5": -1000.0, "percentile_99_5": 2000.0, "mean": -1000.0, "std": 1000.0}
MODEL_NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def write_model(
    folder: Path,
    *,
    names: Sequence[str] = NAMES,
    thresholds_hu: Sequence[float] = THRESHOLDS_HU,
    spacing_mm: float = 3.0,
    reader: str = "NibabelIOWithReorient",
    patch_zyx: Sequence[int] = PATCH_ZYX,
    shift_x: int = 0,
    folds: Sequence[str] = ("fold_0",),
    dataset_name: str = "Dataset901_Bins",
) -> Path:
    """Write DatasetXXX/nnUNetTrainer__…/ with plans.json, dataset.json and checkpoints; returns the model folder."""
    model = folder / dataset_name / MODEL_NAME
    plans = make_plans(dataset_name, spacing_mm, reader, patch_zyx)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0}
        | {f"vertebrae_{name}" if is_vertebra(name) else name: n + 1 for n, name in enumerate(names)},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    state = binning_weights(plans, dataset, thresholds_hu, shift_x)
    for fold in folds:
        (model / fold).mkdir(parents=True)
        write_checkpoint(model / fold / "checkpoint_final.pth", plans, dataset, state)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))
    return model


def write_checkpoint(path: Path, plans: dict[str, Any], dataset: dict[str, Any], state: dict[str, Any], **more) -> None:
    """A checkpoint with all that nnU-Net's own training puts into it, numpy numbers in its log included."""
    import torch

    log = {"mean_fg_dice": [np.float64(0.91)], "train_losses": [np.float32(-0.8)], "epoch_end_timestamps": [1.5]}
    checkpoint = {
        "network_weights": state,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": log,
        "_best_ema": np.float64(0.9),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }  # fmt: skip
    torch.save(checkpoint | more, path)


def make_plans(dataset_name: str, spacing_mm: float, reader: str, patch_zyx: Sequence[int]) -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": dataset_name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing_mm] * 3,
        "original_median_shape_after_transp": [64, 64, 64],
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": NORMALISATION},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch_zyx),
                "median_image_size_in_voxels": [64.0, 64.0, 64.0],
                "spacing": [spacing_mm] * 3,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
                "batch_dice": False,
                "architecture": architecture(),
            }
        },
    }


def architecture() -> dict[str, Any]:
    """Two stages without normalisation layers, so that HU stay what they are."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [2, 2],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": None,
            "norm_op_kwargs": None,
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def binning_weights(
    plans: dict[str, Any], dataset: dict[str, Any], thresholds_hu: Sequence[float], shift_x: int
) -> dict[str, Any]:
    """The network's weights: pass the (shifted) HU through the skip connection, then one straight line per label.

    Label k has the logit k·x − (t1 + … + tk): the largest one is that of the highest threshold below x.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    kind = plans["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        kind["network_class_name"], kind["arch_kwargs"], kind["_kw_requires_import"], 1, len(dataset["labels"]),
        allow_init=False, deep_supervision=False,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.encoder.stages[0][0].convs[0].conv.weight[0, 0, 1, 1, 1 + shift_x] = 1.0
        convolution = network.decoder.stages[0].convs[0].conv  # takes (upsampled, skipped) channels
        convolution.weight[0, convolution.in_channels // 2, 1, 1, 1] = 1.0
        scaled = (np.asarray(thresholds_hu) - NORMALISATION["mean"]) / NORMALISATION["std"]
        head = network.decoder.seg_layers[-1]
        for label in range(len(scaled) + 1):
            head.weight[label, 0] = 10.0 * label
            head.bias[label] = -10.0 * float(scaled[:label].sum())
    return network.state_dict()
