"""The networks that are compared: the authors' configuration, ours with the same weights, and transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import Architecture
from medconv.packages import how_to_install
from medconv.runtimes import trial
from medconv.types import Index3, MissingRequirement

if TYPE_CHECKING:
    from torch import Tensor, nn

AUTHORS = "timm_3d resnet50 eager, three channels"
CALIBRATION = (2, 48)  # cases and edge of the input that sets the batch norms
OTHER_NORMS, LAST_NORM = (0.5, 1.0), (0.1, 0.3)
SEED = 0


def authors_network() -> nn.Module:
    """ResNet-50 of three channels as the authors build it (timm_3d), with random weights whose logits are not extreme.

    Raises MissingRequirement without timm_3d.
    """
    import torch

    try:
        import timm_3d
    except ImportError as error:
        raise MissingRequirement(
            "timm_3d_missing",
            f"The package timm-3d can't be loaded ({error}).",
            how_to_install(packages="timm-3d timm"),
        ) from error
    torch.manual_seed(SEED)
    network: nn.Module = timm_3d.create_model("resnet50", pretrained=False, num_classes=3, in_chans=3)
    return calibrated(network, 3)


def own_network(in_channels: int = 1) -> nn.Module:
    """Our ResNet-50 of full width with random weights, where there is no timm_3d to take them from."""
    import torch

    from medconv.network import build_network

    torch.manual_seed(SEED)
    return calibrated(build_network(Architecture(in_channels=in_channels)), in_channels)


def calibrated(network: nn.Module, channels: int) -> nn.Module:
    """Batch norms that have seen an input: nothing overflows, and no branch is off as in timm's fresh ones.

    A block's last norm adds little to its shortcut, as in trained networks; with random weights that add as much as
    the shortcut every rounding grows from block to block, and the runtimes' logits seem to differ.
    """
    import torch
    from torch import nn

    cases, edge = CALIBRATION
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, *(LAST_NORM if name.endswith(".bn3") else OTHER_NORMS))
            module.momentum = None  # a plain mean: one batch sets it
    with torch.no_grad():
        network.train()(grey(cases, (edge, edge, edge), channels))
    return network.eval()


def grey_twin(network: nn.Module) -> nn.Module:
    """Our one-channel ResNet-50 that gives a grey crop the same logits: the stem's weights summed over its channels."""
    from medconv.network import build_network

    state = dict(network.state_dict())
    state["conv1.weight"] = state["conv1.weight"].sum(dim=1, keepdim=True)
    twin = build_network(Architecture())
    twin.load_state_dict(state, strict=True)
    return twin.eval()


def grey(cases: int, size_zyx: Index3, channels: int) -> Tensor:
    """Crops as the network sees them, grey bone and 0 around it, equal channels: (cases, channels, z, y, x)."""
    import torch

    return torch.from_numpy(trial.trial_crops((channels, *size_zyx), cases))


def eager(network: nn.Module, crops: Tensor) -> Tensor:
    """A pass in plain torch."""
    import torch

    with torch.inference_mode():
        logits: Tensor = network(crops)
    return logits


def largest_difference(found: NDArray[Any], reference: NDArray[Any]) -> float:
    """The largest difference of two sets of logits, over 1 + |logit|, as the runtimes' tolerance counts it."""
    return float(np.max(np.abs(found - reference) / (1.0 + np.abs(reference))))


def said(size_zyx: Index3) -> str:
    """(64, 64, 64) as 64³, (48, 64, 64) as 64 x 64 x 48 (x, y, z)."""
    z, y, x = size_zyx
    return f"{x}³" if x == y == z else f"{x} x {y} x {z}"
