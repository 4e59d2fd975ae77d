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
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
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
IDLE_SD = 0.05  # of the weights of added channels
# Stages of a U-Net's decoder start with a convolution over what came up and what was kept beside it.
TWO_INPUTS = re.compile(r"decoder\.stages\.\d+\.convs\.0\.")


@dataclass(frozen=True)
class _Source:
    """The network to be written: `plans` and `weights` fit each other, and may have more channels than `folder`'s."""

    folder: ModelFolder
    plans: dict[str, Any]
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
    plans = _old_plans(folder.plans, widen)
    weights = _embedded(checkpoint["network_weights"], plans, len(folder.label_names))
    loaded = _Source(folder, plans, weights, int(checkpoint.get("current_epoch") or 0))
    for dataset in (TOTAL_3MM, TOTAL_6MM):
        _write(out, dataset, class_map["total"], loaded)
    for dataset in (ORGANS, VERTEBRAE_1_5MM, RIBS):
        _write(out, dataset, class_map_5_parts[map_taskid_to_partname_ct[dataset.task_id]], loaded)
    for name in EMPTY:
        (out / name).mkdir(parents=True, exist_ok=True)


def _write(out: Path, dataset: WeightsDataset, classes: Mapping[int, str], source: _Source) -> None:
    import torch

    labels = {"background": 0} | {name: number for number, name in sorted(classes.items())}
    document = dict(source.folder.dataset) | {"name": dataset.folder, "labels": labels}
    document[STAND_IN_KEY] = source.folder.dataset_name
    plans = source.plans | {"dataset_name": dataset.folder}
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


def _old_plans(plans: Mapping[str, Any], widen: int) -> dict[str, Any]:
    """The plans in the format of 2023, in which TotalSegmentator's weights come.

    That doubles the channels from stage to stage up to a limit; where the network has fewer, it is given more. A
    network that can't be described so keeps the present format.
    """
    configuration = dict(plans["configurations"]["3d_fullres"])
    architecture = configuration.pop("architecture")
    kwargs = architecture["arch_kwargs"]
    features = [count * widen for count in kwargs["features_per_stage"]]
    doubled = [min(features[0] * 2**stage, features[-1]) for stage in range(len(features))]
    enough = all(new >= old for new, old in zip(doubled, features, strict=True))
    if architecture["network_class_name"].endswith(".PlainConvUNet") and enough and kwargs["norm_op"]:
        configuration |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": features[0],
            "unet_max_num_features": features[-1],
            "n_conv_per_stage_encoder": kwargs["n_conv_per_stage"],
            "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [sum(stride[axis] > 1 for stride in kwargs["strides"]) for axis in range(3)],
            "pool_op_kernel_sizes": kwargs["strides"],
            "conv_kernel_sizes": kwargs["kernel_sizes"],
        }
    else:
        configuration["architecture"] = architecture | {"arch_kwargs": kwargs | {"features_per_stage": features}}
    return dict(plans) | {"configurations": {"3d_fullres": configuration}}


def _embedded(weights: Mapping[str, Tensor], plans: dict[str, Any], heads: int) -> dict[str, Tensor]:
    """The weights in the network of `plans`, which has as many channels or more; its output stays the same.

    State dicts name many tensors twice; they stay one.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    with warnings.catch_warnings():  # the package says about every network of 2023 that its plans are old
        warnings.simplefilter("ignore")
        configuration = PlansManager(deepcopy(plans)).get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, 1, heads, allow_init=False, deep_supervision=False,
    )  # fmt: skip
    made: dict[int, Tensor] = {}
    return {
        key: made.setdefault(weights[key].data_ptr(), _embedded_tensor(key, weights[key], target.shape))
        for key, target in network.state_dict().items()
    }


def _embedded_tensor(key: str, value: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor at the start of a larger one: nothing leads from the added channels to those that were there."""
    import torch

    if tuple(value.shape) == tuple(shape):
        return value
    if value.ndim == 1:
        idle = 1.0 if ".norm." in key and key.endswith("weight") else 0.0
        return torch.cat([value, value.new_full((shape[0] - len(value),), idle)])
    into, onto = (0, 1) if ".transpconvs." in key else (1, 0)  # the axes of input and output channels
    groups = 2 if TWO_INPUTS.search(key) else 1
    had, has = value.shape[into] // groups, shape[into] // groups
    used = torch.tensor([group * has + channel for group in range(groups) for channel in range(had)])
    generator = torch.Generator().manual_seed(0)
    wide = torch.empty(tuple(shape)).normal_(0.0, IDLE_SD, generator=generator).to(value.dtype)
    wide.narrow(onto, 0, value.shape[onto]).zero_().index_copy_(into, used, value)
    return wide


if __name__ == "__main__":
    write_stand_in(Path(sys.argv[1]))
