"""The network as runtimes want it: one grey channel, batch normalisation inside the convolutions, texture and reading
apart.

All of it is exact but for rounding. A grey crop replicated to three channels gives the same sums as one channel with
the stem's weights summed over the three. A batch normalisation in evaluation mode is a factor and an offset for each
channel, which the convolution before it can carry. Sums are taken in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medconv.runtimes.runtime import CannotRun, Shape4

if TYPE_CHECKING:
    from torch import Tensor, nn

REPLICATED = 3


@dataclass(frozen=True)
class FoldedConvolution:
    """A convolution with its batch normalisation, weight (out, in, z, y, x); `relu`: negative values become 0 after."""

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int
    relu: bool


@dataclass(frozen=True)
class FoldedBlock:
    """Convolutions one after another, plus the shortcut (None: the input itself), then ReLU."""

    convolutions: tuple[FoldedConvolution, ...]
    shortcut: FoldedConvolution | None


@dataclass(frozen=True)
class FoldedNetwork:
    """Stem, max pooling (3, stride 2, padding 1), blocks, mean over space, last layer."""

    stem: FoldedConvolution
    blocks: tuple[FoldedBlock, ...]
    fc_weight: Tensor
    fc_bias: Tensor


class Backbone:
    """A `ResNet3D` in three parts: what happens to crops before it, the plain network, and how its outputs are read.

    It holds no weights of its own; `plain` and `folded` make new ones, and whoever asks keeps what is needed.
    """

    def __init__(self, network: nn.Module, input_shape: Shape4) -> None:
        from medconv.network import ResNet3D

        if not isinstance(network, ResNet3D):
            raise CannotRun(f"only our own networks can be run in this way, this is a {type(network).__name__}")
        self._network = network
        self._texture, self._reading = network.texture, network.reading
        channels = network.conv1.in_channels // (2 if network.texture else 1)
        self._replicated = channels if channels == REPLICATED else 1
        self.shape: Shape4 = (network.conv1.in_channels // self._replicated, *input_shape[1:])

    def before(self, crops: Tensor) -> Tensor:
        """Crops (n, channels, z, y, x) as the plain network's input: one grey channel, and its texture."""
        import torch

        from medconv.network import local_spread

        if self._replicated > 1:
            crops = _grey(crops, self._replicated)
        if self._texture and crops.shape[1] < self.shape[0]:
            crops = torch.cat([crops, local_spread(crops)], dim=1)
        if tuple(crops.shape[1:]) != self.shape:
            raise CannotRun(f"opened for crops of {self.shape}, given {tuple(crops.shape[1:])}")
        return crops

    def after(self, outputs: Tensor) -> Tensor:
        """Logits from the last layer's outputs, (n, outputs)."""
        return outputs if self._reading is None else self._reading(outputs.float())

    def around(self, core: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Crops to logits, with `core` in the plain network's place."""
        return lambda crops: self.after(core(self.before(crops)))

    def plain(self) -> Any:
        """A copy on the CPU that begins with one channel (two with texture) and ends with the last layer's outputs."""
        import torch

        plain = copy.deepcopy(self._network).cpu().float().eval()
        plain.texture, plain.reading = False, None
        if self._replicated > 1:
            old = plain.conv1
            plain.conv1 = torch.nn.Conv3d(
                self.shape[0], old.out_channels, old.kernel_size, old.stride, old.padding, bias=False
            ).eval()
            plain.conv1.weight = torch.nn.Parameter(self._stem_weight().float(), requires_grad=False)
        return plain.requires_grad_(False)

    def folded(self) -> FoldedNetwork:
        """The plain network's weights with the batch normalisations folded in, on the CPU."""
        net: Any = self._network
        blocks = (block for stage in range(net.num_stages) for block in net.get_submodule(f"layer{stage + 1}"))
        return FoldedNetwork(
            stem=_fold(net.conv1, net.bn1, relu=True, weight=self._stem_weight()),
            blocks=tuple(_folded_block(block) for block in blocks),
            fc_weight=net.fc.weight.detach().float().cpu(),
            fc_bias=net.fc.bias.detach().float().cpu(),
        )

    def _stem_weight(self) -> Tensor:
        """The stem's weight in float64, summed over channels that are the same image."""
        network: Any = self._network
        return network.conv1.weight.detach().cpu().double().unflatten(1, (-1, self._replicated)).sum(2)


def _grey(crops: Tensor, replicated: int) -> Tensor:
    """One of each group of equal channels. Raises CannotRun where they differ."""
    groups = crops.unflatten(1, (-1, replicated))  # (n, groups, replicated, z, y, x)
    first = groups[:, :, 0]
    if any(not bool((groups[:, :, i] == first).all()) for i in range(1, replicated)):
        raise CannotRun("the channels are not one grey image repeated")
    return first


def _folded_block(block: Any) -> FoldedBlock:
    pairs = list(_pairs(block))
    last = len(pairs) - 1
    shortcut = None if block.downsample is None else _fold(block.downsample[0], block.downsample[1], relu=False)
    return FoldedBlock(tuple(_fold(c, b, relu=i < last) for i, (c, b) in enumerate(pairs)), shortcut)


def _pairs(block: Any) -> Iterator[tuple[Any, Any]]:
    for index in (1, 2, 3):
        if hasattr(block, f"conv{index}"):
            yield getattr(block, f"conv{index}"), getattr(block, f"bn{index}")


def _fold(convolution: Any, norm: Any, relu: bool, weight: Tensor | None = None) -> FoldedConvolution:
    """A convolution, with another weight if one is given, and its normalisation."""
    factor, offset, mean, variance = (
        values.detach().cpu().double() for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    factor = factor / (variance + norm.eps).sqrt()
    weight = convolution.weight.detach().cpu().double() if weight is None else weight
    folded = (weight * factor[:, None, None, None, None]).float()
    return FoldedConvolution(
        folded, (offset - mean * factor).float(), convolution.stride[0], convolution.padding[0], relu
    )
