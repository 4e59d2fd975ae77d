"""The demonstration segmenter as an nnU-Net v2 model folder: dataset.json, plans.json, one checkpoint.

Format: nnunetv2 2.8 (plans with an "architecture" entry). The checkpoint holds tensors and plain values only, so that
`torch.load(weights_only=True)` reads it: loading it can't run code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medconv.training.vertebrae.vertebra_segmenter_data import LABEL_NAMES, SPACING_MM

MODEL_NAME = "medconv-sim-vertebrae"
TRAINER = "nnUNetTrainerNoMirroring"  # ribs have sides
CONFIGURATION = "3d_fullres"
READER = "NibabelIOWithReorient"
CHECKPOINT = "fold_0/checkpoint_final.pth"
PATCH_ZYX = (112, 48, 64)  # long enough along the spine to see ribs or sacrum from L1: 336 x 144 x 192 mm
FEATURES = (16, 16, 32, 64, 96)
NARROW_FEATURES = (8, 16, 32, 64, 96)  # while the last stage is not trained, see `vertebra_segmenter_network`
CONVOLUTIONS = ([1, 2, 2, 2, 2], [1, 1, 1, 1])  # per stage, down and up; few at full size, where they cost most


def dataset_document(cases: int) -> dict[str, Any]:
    """dataset.json"""
    return {
        "name": MODEL_NAME,
        "description": "Demonstration: trained on simulated CT only. Not for real CT.",
        "channel_names": {"0": "CT"},
        "labels": {name: index for index, name in enumerate(LABEL_NAMES)},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": READER,
    }


def plans_document(foreground: dict[str, float], median_shape: tuple[int, ...]) -> dict[str, Any]:
    """plans.json"""
    spacing = [SPACING_MM] * 3
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": list(PATCH_ZYX),
        "median_image_size_in_voxels": [float(n) for n in median_shape],
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "batch_dice": False,
        "architecture": _architecture(),
    }
    return {
        "dataset_name": MODEL_NAME,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": [int(n) for n in median_shape],
        "image_reader_writer": READER,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": foreground},
    }


def _architecture(features: tuple[int, ...] = FEATURES) -> dict[str, Any]:
    stages = len(features)
    down, up = CONVOLUTIONS
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": list(down),
            "n_conv_per_stage_decoder": list(up),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def build_network(features: tuple[int, ...] = FEATURES) -> nn.Module:
    """The network that nnU-Net builds from these plans, by nnU-Net's own function, with its outputs at all scales."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    entry = _architecture(features)
    network: nn.Module = get_network_from_plans(
        entry["network_class_name"], entry["arch_kwargs"], entry["_kw_requires_import"], 1, len(LABEL_NAMES),
        deep_supervision=True,
    )  # fmt: skip
    return network


def write_folder(out: Path, network: nn.Module, plans: dict[str, Any], dataset: dict[str, Any], steps: int) -> None:
    """Write the model folder; the checkpoint last and whole, so that a folder with a checkpoint is complete."""
    (out / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    for name, document in (("dataset.json", dataset), ("plans.json", plans)):
        (out / name).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    content = {
        "network_weights": _half(network),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": steps,
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": None,
    }
    partial = (out / CHECKPOINT).with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(out / CHECKPOINT)


def _half(network: nn.Module) -> dict[str, Tensor]:
    """Weights in half precision. The state dict lists many tensors twice; they stay one, or the file doubles."""
    kept: dict[int, Tensor] = {}
    weights = network.state_dict().items()
    return {k: kept.setdefault(v.data_ptr(), v.detach().half().contiguous().clone()) for k, v in weights}
