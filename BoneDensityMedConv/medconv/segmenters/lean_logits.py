"""nnU-Net's logits in less memory and time on the CPU, where a network has over a hundred outputs.

A tile's outputs become half precision before they are weighted and added up, as they are on a GPU; the sum is half
precision in nnU-Net anyway. The search for infinite values and for the largest output then goes channel by channel,
without another copy of them all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.segmenters.package_changes import replaced


@contextlib.contextmanager
def lean_logits() -> Iterator[None]:
    """While inside, nnU-Net's predictors on the CPU and their choice of labels work in this way."""
    from nnunetv2.inference import predict_from_raw_data as nnunet
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    predict, convert = (
        nnunet.nnUNetPredictor._internal_maybe_mirror_and_predict,
        LabelManager.convert_probabilities_to_segmentation,
    )

    def predict_half(self: Any, tile: Any) -> Any:
        outputs = predict(self, tile)
        return outputs.half() if outputs.device.type == "cpu" else outputs

    def convert_lean(self: Any, logits: Any) -> Any:
        if self.has_regions or len(logits) > 256 or len(logits) != self.num_segmentation_heads:
            return convert(self, logits)
        return largest_output(logits)

    with (
        replaced(nnunet, torch=_TorchByChannel()),
        replaced(nnunet.nnUNetPredictor, _internal_maybe_mirror_and_predict=predict_half),
        replaced(LabelManager, convert_probabilities_to_segmentation=convert_lean),
    ):
        yield


class _TorchByChannel:
    """torch, as nnU-Net's prediction module sees it: `any(isinf(logits))` needs no copy of the logits."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    def isinf(self, logits: Any) -> Any:
        """For each channel, whether any of its values is infinite."""
        import torch

        return torch.stack([torch.isinf(channel).any() for channel in logits])


def largest_output(logits: Any) -> NDArray[np.uint8]:
    """The channel of the largest value of logits (channel, z, y, x), the first of equal ones: argmax over channels."""
    import torch

    channels = torch.as_tensor(logits)
    best = channels[0].to(torch.float32, copy=True)
    label = torch.zeros(best.shape, dtype=torch.uint8)
    for number in range(1, len(channels)):
        value = channels[number].float()
        label.masked_fill_(value > best, number)
        torch.maximum(best, value, out=best)
    return np.asarray(label)
