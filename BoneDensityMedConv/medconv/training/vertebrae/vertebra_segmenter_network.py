"""Training the U-Net cheaply: first without its last stage, which is then added so that it starts where that ended.

Which vertebra is which is seen at 6 mm; the last stage only draws the edges, and costs more than all others together.
Trained from nothing it needs as long as they do. Started as an interpolation of the stage below, it begins with that
stage's answer. For that it must be as wide, so the full-size stages are widened at the same time (the idea is that of
Net2Net, Chen 2016: a network grows without forgetting).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medconv.training.vertebrae.vertebra_segmenter_folder import NARROW_FEATURES, build_network


def with_fast_norm(network: nn.Module) -> nn.Module:
    """For batches of one: batch norm of the batch itself is instance norm, and spares torch's copies on a CPU."""

    def forward_of(norm: nn.InstanceNorm3d) -> Callable[[Tensor], Tensor]:
        return lambda x: F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)

    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.forward = forward_of(module)  # this network only
    return network.to(memory_format=torch.channels_last_3d)


def outputs_below_full_size(network: nn.Module, image: Tensor) -> list[Tensor]:
    """The deep supervision's outputs from half resolution down, finest first, without the costly last stage.

    Which vertebra is which is seen at 6 mm; the last stage only draws the edges, and is trained at the end.
    """
    encoder, decoder = cast(Any, network).encoder, cast(Any, network).decoder
    skips = encoder(image)
    x, outputs = skips[-1], []
    for stage in range(len(decoder.stages) - 1):
        x = decoder.transpconvs[stage](x)
        x = decoder.stages[stage](torch.cat((x, skips[-(stage + 2)]), 1))
        outputs.append(decoder.seg_layers[stage](x))
    return outputs[::-1]


def narrow_network() -> nn.Module:
    """The network of the training's first part."""
    return with_fast_norm(build_network(NARROW_FEATURES))


def full_network() -> nn.Module:
    """The network that is shipped."""
    return with_fast_norm(build_network())


def grown(narrow: nn.Module, images: Sequence[Tensor]) -> nn.Module:
    """The full network that gives the narrow one's half-resolution answer, interpolated. images: (1, 1, z, y, x)."""
    full = full_network()
    _copy_stages(cast(Any, narrow), cast(Any, full))
    mean, std = _feature_statistics(narrow, images)
    decoder = cast(Any, full).decoder
    up, stage = decoder.transpconvs[-1], decoder.stages[-1]
    conv = next(m for m in stage.modules() if isinstance(m, nn.Conv3d))
    norm = next(m for m in stage.modules() if isinstance(m, nn.InstanceNorm3d))
    width = up.weight.shape[1]
    with torch.no_grad():
        up.weight.copy_(torch.eye(width)[:, :, None, None, None].expand_as(up.weight))
        up.bias.zero_()
        conv.weight.mul_(0.1)
        conv.weight[:, :width].zero_()
        conv.weight[:, :width, 1, 1, 1] = torch.eye(width)
        conv.bias.zero_()
        norm.weight.copy_(std)  # undo the normalisation, so that the next layer sees what the half size layer saw
        norm.bias.copy_(mean)
        decoder.seg_layers[-1].weight.copy_(decoder.seg_layers[-2].weight)
        decoder.seg_layers[-1].bias.copy_(decoder.seg_layers[-2].bias)
    return full


def _copy_stages(narrow: Any, full: Any) -> None:
    """Everything but the last stage; the full-size features that are new count for nothing at first."""
    last = ("decoder.transpconvs.3.", "decoder.stages.3.", "decoder.seg_layers.3.")
    state = full.state_dict()
    with torch.no_grad():
        for name, value in narrow.state_dict().items():
            if any(part in name for part in last):
                continue
            target = state[name]
            if target.shape == value.shape:
                target.copy_(value)
            elif target.shape[0] == value.shape[0]:  # the layer that reads the full-size features
                target.zero_()
                target[:, : value.shape[1]] = value
            else:  # the layer that makes them
                target[: value.shape[0]] = value


def _feature_statistics(narrow: nn.Module, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and SD of each half-resolution feature, shape (C,)."""
    seen: list[Tensor] = []
    hook = cast(Any, narrow).decoder.stages[-2].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.inference_mode():
        for image in images:
            outputs_below_full_size(narrow, image)
    hook.remove()
    features = torch.cat([out.flatten(2)[0] for out in seen], dim=1)  # (C, voxels)
    return features.mean(1), features.std(1)
