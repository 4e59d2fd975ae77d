"""The demonstration network in exactly TotalSegmentator's folder formats, so that the real package runs with it.

For tests and the bench, on a machine without TotalSegmentator's own weights: `python -m medconv.segmenters.stand_in
FOLDER`. It shows that everything around the networks works, and what it costs; it says nothing about how well
TotalSegmentator's own weights find vertebrae. Its data sets carry `medconv_stand_in`, by which results made with them
are marked as a demonstration.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medconv.segmenters.demonstration import find_demonstration_folder
from medconv.segmenters.nnunet_folder import ModelFolder, read_model_folder
from medconv.segmenters.safe_checkpoint import load_checkpoint
from medconv.segmenters.totalsegmentator import STAND_IN_KEY
from medconv.segmenters.weights_store import CHECKPOINT, TOTAL_3MM, VERTEBRAE_1_5MM, WeightsDataset
from medconv.vertebrae import plain_name

if TYPE_CHECKING:
    from torch import Tensor

# What else the package's plain command asks for: 298 to cut the image, the other parts because they must exist.
TOTAL_6MM = WeightsDataset(298, "Dataset298_TotalSegmentator_total_6mm_1559subj", TOTAL_3MM.trainer)
ORGANS = WeightsDataset(291, "Dataset291_TotalSegmentator_part1_organs_1559subj", VERTEBRAE_1_5MM.trainer)
RIBS = WeightsDataset(295, "Dataset295_TotalSegmentator_part5_ribs_1559subj", VERTEBRAE_1_5MM.trainer)
EMPTY = (
    "Dataset293_TotalSegmentator_part3_cardiac_1559subj",
    "Dataset294_TotalSegmentator_part4_muscles_1559subj",
)
NEVER = -30.0  # bias of an output that was not trained
# Stages of a U-Net's decoder start with a convolution over what came up and what was kept beside it.
TWO_INPUTS = re.compile(r"decoder\.stages\.\d+\.convs\.0\.")


@dataclass(frozen=True)
class _Source:
    folder: ModelFolder
    weights: Mapping[str, Tensor]
    epochs: int


def write_stand_in(out: Path, source: Path | None = None, widen: int = 1) -> None:
    """Write the data sets that TotalSegmentator's task "total" needs into `out`, its weights folder.

    source: an nnU-Net v2 model folder; by default the demonstration network.
    widen: how many times as many channels the networks shall have; the added ones cost time and memory and change
    nothing, so that the bench can run networks as large as TotalSegmentator's own. Needs torch and totalsegmentator.
    """
    from totalsegmentator.map_to_binary import class_map, class_map_5_parts, map_taskid_to_partname_ct

    folder = read_model_folder(source or find_demonstration_folder())
    checkpoint = load_checkpoint(folder.checkpoints[0])
    loaded = _Source(folder, checkpoint["network_weights"], int(checkpoint.get("current_epoch") or 0))
    weights = _widened(loaded.weights, widen) if widen > 1 else loaded.weights
    loaded = _Source(folder, weights, loaded.epochs)
    for dataset in (TOTAL_3MM, TOTAL_6MM):
        _write(out, dataset, class_map["total"], loaded, widen)
    for dataset in (ORGANS, VERTEBRAE_1_5MM, RIBS):
        _write(out, dataset, class_map_5_parts[map_taskid_to_partname_ct[dataset.task_id]], loaded, widen)
    for name in EMPTY:
        (out / name).mkdir(parents=True, exist_ok=True)


def _write(out: Path, dataset: WeightsDataset, classes: Mapping[int, str], source: _Source, widen: int) -> None:
    import torch

    labels = {"background": 0} | {name: number for number, name in sorted(classes.items())}
    document = dict(source.folder.dataset) | {"name": dataset.folder, "labels": labels}
    document[STAND_IN_KEY] = source.folder.dataset_name
    plans = _old_plans(dict(source.folder.plans), widen) | {"dataset_name": dataset.folder}
    content = {
        "network_weights": _with_heads(source, labels),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": source.epochs,
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": document},
        "trainer_name": dataset.trainer,
        "inference_allowed_mirroring_axes": None,
    }
    model = dataset.model_folder(out)
    (model / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    (model / "dataset.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    (model / "plans.json").write_text(json.dumps(plans, indent=1) + "\n", "utf-8")
    torch.save(content, model / CHECKPOINT)


def _with_heads(source: _Source, labels: Mapping[str, int]) -> dict[str, Tensor]:
    """The weights with one output per label: the network's own for what it knows, one that never wins for the rest."""
    import torch

    own = {plain_name(name): int(number) for name, number in source.folder.label_names.items()}
    rows = [(number, own[plain_name(name)]) for name, number in labels.items() if plain_name(name) in own]
    to, of = (list(column) for column in zip(*rows, strict=True))
    out = {}
    for key, value in source.weights.items():
        if ".seg_layers." in key:
            fill = NEVER if value.ndim == 1 else 0.0
            heads = torch.full((len(labels), *value.shape[1:]), fill, dtype=value.dtype)
            heads[to] = value[of]
            value = heads
        out[key] = value
    return out


def _old_plans(plans: dict[str, Any], widen: int) -> dict[str, Any]:
    """The plans in the format of 2023, in which TotalSegmentator's weights come.

    Where that can't describe the network, the present format stays, with the channels widened.
    """
    configuration = dict(plans["configurations"]["3d_fullres"])
    architecture = configuration.pop("architecture")
    kwargs = architecture["arch_kwargs"]
    features = list(kwargs["features_per_stage"])
    usual = [min(features[0] * 2**stage, features[-1]) for stage in range(len(features))]
    if not architecture["network_class_name"].endswith(".PlainConvUNet") or features != usual or not kwargs["norm_op"]:
        kwargs = kwargs | {"features_per_stage": [count * widen for count in features]}
        configuration["architecture"] = architecture | {"arch_kwargs": kwargs}
        return plans | {"configurations": {"3d_fullres": configuration}}
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": features[0] * widen,
        "unet_max_num_features": features[-1] * widen,
        "n_conv_per_stage_encoder": kwargs["n_conv_per_stage"],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [sum(stride[axis] > 1 for stride in kwargs["strides"]) for axis in range(3)],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }
    return plans | {"configurations": {"3d_fullres": configuration}}


def _widened(weights: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """A network with `times` as many channels and the same output: nothing leads from the added channels to the others.

    State dicts name many tensors twice; they stay one.
    """
    made: dict[int, Tensor] = {}
    return {
        key: made.setdefault(value.data_ptr(), _widened_tensor(key, value, times)) for key, value in weights.items()
    }


def _widened_tensor(key: str, value: Tensor, times: int) -> Tensor:
    import torch

    is_head, is_up = ".seg_layers." in key, ".transpconvs." in key
    if value.ndim == 1:
        idle = 1.0 if ".norm." in key and key.endswith("weight") else 0.0
        return value if is_head else torch.cat([value, value.new_full((len(value) * (times - 1),), idle)])
    into, onto = (0, 1) if is_up else (1, 0)  # the axes of input and output channels
    inputs, outputs = value.shape[into], value.shape[onto]
    groups = 2 if TWO_INPUTS.search(key) else 1
    width = inputs // groups
    used = [group * width * times + channel for group in range(groups) for channel in range(width)]
    used = [0] if inputs == 1 else used
    shape = list(value.shape)
    shape[into], shape[onto] = (1 if inputs == 1 else inputs * times), (outputs if is_head else outputs * times)
    wide = torch.empty(shape).normal_(0.0, 0.05, generator=torch.Generator().manual_seed(0)).to(value.dtype)
    wide.narrow(onto, 0, outputs).zero_()
    wide.narrow(onto, 0, outputs).index_copy_(into, torch.tensor(used), value)
    return wide


if __name__ == "__main__":
    write_stand_in(Path(sys.argv[1]))
