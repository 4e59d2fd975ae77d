"""The oneDNN operators that torch's own compiler calls, called one by one: fused, on folded weights, without compiling.

In eager mode torch gives most convolutions of a single crop to its own `slow_conv3d`. Here each convolution runs in
oneDNN, on weights that were put into oneDNN's order once, with ReLU and the shortcut's addition inside. In float32 that
runs at the speed of matrix products, so that only fewer products help further: `stem`, `winograd`. In bfloat16 the
processor does twice as many; Winograd's transforms would lose too many of its digits.
The operators are torch's, but not promised to stay: `is_possible` tries one, and there is the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from medconv.runtimes import winograd
from medconv.runtimes.backbone import Backbone, FoldedConvolution, FoldedNetwork
from medconv.runtimes.runtime import Runtime, Shape4, Subject
from medconv.runtimes.stem import sparse_stem
from medconv.runtimes.winograd import WinogradConvolution

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape5 = tuple[int, int, int, int, int]


def is_possible(name: str, kind: str) -> bool:
    """bfloat16 only where the processor computes in it; emulated it is slower by far."""
    import torch

    if name == "bfloat16":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch 2.6 and later
        if supported is None or not supported():
            return False
    return _operators_work()


@cache
def _operators_work() -> bool:
    """True if a small convolution, alone and with an addition, gives what torch's own gives."""
    import torch
    import torch.nn.functional as F

    if not torch.backends.mkldnn.is_available():
        return False
    with torch.inference_mode():
        x = torch.linspace(-1, 1, 64).reshape(1, 1, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
        weight, bias = torch.linspace(-1, 1, 27).reshape(1, 1, 3, 3, 3), torch.tensor([0.1])
        layer = _Convolution(FoldedConvolution(weight, bias, 1, 1, relu=True), (1, 1, 4, 4, 4), torch.float32)
        expected = F.conv3d(x, weight, bias, padding=1)
        good = torch.allclose(layer(x), expected.relu(), atol=1e-5)
        return good and torch.allclose(layer.add_to(x.clone(), x), (expected + x).relu(), atol=1e-5)


def open_runtime(name: str, subject: Subject) -> Runtime:
    """ "onednn" or "bfloat16" for crops of one size, any number of them at once."""
    import torch

    backbone = Backbone(subject.network, subject.input_shape)
    half = name == "bfloat16"
    walk = _Walk(backbone.folded(), backbone.shape, torch.bfloat16 if half else torch.float32)
    return Runtime(name, subject, backbone.around(walk), is_half=half)


class _Convolution:
    """One convolution in oneDNN's order of weights, for inputs (n, channels, z, y, x) with the channels innermost."""

    def __init__(self, layer: FoldedConvolution, size: Shape5, dtype: torch.dtype) -> None:
        import torch

        self._where = ([layer.padding] * 3, [layer.stride] * 3, [1, 1, 1], 1)
        reorder: Any = torch._C._nn.mkldnn_reorder_conv3d_weight
        self._weight = reorder(layer.weight.to(dtype).to_mkldnn(), *self._where, list(size))
        self._bias = layer.bias.to(dtype)
        self._after = "relu" if layer.relu else "none"
        kernel = layer.weight.shape[2]
        space = [(n + 2 * layer.padding - kernel) // layer.stride + 1 for n in size[2:]]
        self.output_size: Any = (size[0], layer.weight.shape[0], *space)

    def __call__(self, x: Tensor) -> Tensor:
        import torch

        operator: Any = torch.ops.mkldnn._convolution_pointwise.default
        return operator(x, self._weight, self._bias, *self._where, self._after, [], "")

    def add_to(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """ReLU(shortcut + convolution), written over `shortcut`."""
        import torch

        operator: Any = torch.ops.mkldnn._convolution_pointwise_.binary
        return operator(shortcut, x, self._weight, self._bias, *self._where, "add", 1.0, "relu", [], "")


class _Block:
    """Convolutions one after another; the last adds the shortcut."""

    def __init__(
        self, layers: list[Callable[[Tensor], Tensor]], last: _Convolution, shortcut: _Convolution | None
    ) -> None:
        self._layers, self._last, self._shortcut = layers, last, shortcut

    def __call__(self, x: Tensor) -> Tensor:
        shortcut = x if self._shortcut is None else self._shortcut(x)
        for layer in self._layers:
            x = layer(x)
        return self._last.add_to(shortcut, x)  # where x is the shortcut itself, nobody needs it any more


class _Walk:
    """The plain network, layer by layer."""

    def __init__(self, network: FoldedNetwork, shape: Shape4, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._stem = _Convolution(network.stem, (1, *shape), dtype)
        self._stem_bias = network.stem.bias.to(dtype)
        n, width, *space = self._stem.output_size
        size: Any = (n, width, *((s - 1) // 2 + 1 for s in space))
        self._blocks = []
        for block in network.blocks:
            shortcut = None if block.shortcut is None else _Convolution(block.shortcut, size, dtype)
            layers = []
            for layer in block.convolutions:
                layers.append(self._convolution(layer, size))
                size = layers[-1].output_size
            self._blocks.append(_Block(layers[:-1], layers[-1], shortcut))
        self._fc_weight, self._fc_bias = network.fc_weight, network.fc_bias

    def _convolution(self, layer: FoldedConvolution, size: Shape5) -> Any:
        import torch

        if self._dtype == torch.float32 and winograd.pays(layer, size[2]):
            return WinogradConvolution(layer, size)
        return _Convolution(layer, size, self._dtype)

    def __call__(self, x: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        x = x.to(self._dtype).contiguous(memory_format=torch.channels_last_3d)
        x = sparse_stem(self._stem, x, self._stem_bias)
        for block in self._blocks:  # from (n, width, z/4, y/4, x/4)
            x = block(x)
        return F.linear(x.float().mean(dim=(2, 3, 4)), self._fc_weight, self._fc_bias)  # (n, outputs)
