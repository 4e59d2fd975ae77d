"""A 3x3x3 convolution with fewer multiplications: Winograd's minimal filtering along z, oneDNN in the other two axes.

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks": m outputs of a 3-tap filter need m + 2
products instead of 3·m, on inputs and with weights that were transformed linearly. Along one axis of three that saves
half of a layer's multiplications, and each transform is one matrix product, because z is outermost in memory. The
interpolation points 0, ±1, ±1/2, ±2 keep rounding at direct convolution's level (a test holds that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medconv.runtimes.backbone import FoldedConvolution
from medconv.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

TAPS = 3
# Outputs of a tile → the points at which its polynomials are evaluated, beside infinity.
POINTS = {4: (0.0, 1.0, -1.0, 0.5, -0.5), 6: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)}
# Narrower layers and thinner volumes spend more on the transforms than they save.
LEAST_CHANNELS, LEAST_DEPTH = 64, 6


def pays(layer: FoldedConvolution, depth: int) -> bool:
    """True for the layers where it was faster than oneDNN's direct convolution; they all end in ReLU."""
    outputs, inputs, *kernel = layer.weight.shape
    fits = kernel == [TAPS] * 3 and layer.stride == 1 and layer.padding == 1 and layer.relu
    return bool(fits and min(outputs, inputs) >= LEAST_CHANNELS and depth >= LEAST_DEPTH)


def transforms(m: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Output (m, m + 2), weight (m + 2, 3) and input (m + 2, m + 2) transforms of one tile, by Toom and Cook.

    With them, output @ ((weight @ g) * (input @ d)) is the correlation of the m + 2 values d with the 3 taps g.
    """
    n = m + TAPS - 1

    def evaluate(terms: int) -> FloatArray:
        at_infinity = np.eye(terms)[-1:]  # the highest coefficient
        return np.vstack([np.vander(POINTS[m], terms, increasing=True), at_infinity])

    # Transposed Toom-Cook: interpolation becomes the input's transform, evaluation of m terms the output's.
    into = np.linalg.inv(evaluate(n)).T
    scale = 2.0 ** np.round(np.log2(np.abs(into).max(axis=1)))  # powers of two: exact, and inputs stay of one size
    return evaluate(m).T, evaluate(TAPS) * scale[:, None], into / scale[:, None]


def best_tile(depth: int) -> int:
    """The tile with the fewest products for a depth; of equals the smaller, whose rounding is better."""
    return min(POINTS, key=lambda m: ((m + TAPS - 1) * -(-depth // m), m))


class WinogradConvolution:
    """A 3x3x3 convolution with padding 1, bias and ReLU, for inputs of one size (n, channels, z, y, x)."""

    def __init__(self, layer: FoldedConvolution, size: tuple[int, int, int, int, int]) -> None:
        import torch

        _, channels, depth, height, width = size
        m = best_tile(depth)
        tiles = -(-depth // m)
        output, weight, into = transforms(m)
        self._products, self._tiles = m + TAPS - 1, tiles
        self._into = torch.from_numpy(_on_axis(into, m, depth, tiles)).float()  # (products·tiles, z)
        self._out = torch.from_numpy(_off_axis(output, m, depth, tiles)).float()  # (z, products·tiles)
        planes = torch.einsum("iz,oczyx->iocyx", torch.from_numpy(weight), layer.weight.double()).float()
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        shape = [tiles, channels, height, width]
        self._weights = [reorder(p.contiguous().to_mkldnn(), *_WHERE, shape) for p in planes]
        self._bias = layer.bias.repeat(height * width)[None]  # (1, y·x·channels)
        self.output_size = (size[0], layer.weight.shape[0], depth, height, width)

    def __call__(self, x: Tensor) -> Tensor:
        """ReLU(convolution) of x, (n, channels, z, y, x) with the channels innermost; likewise out."""
        import torch

        return torch.cat([self._single(crop) for crop in x.split(1)]) if len(x) > 1 else self._single(x)

    def _single(self, x: Tensor) -> Tensor:
        import torch

        _, channels, depth, height, width = x.shape
        planes = x.permute(0, 2, 3, 4, 1).reshape(depth, -1)  # (z, y·x·channels), a view
        inner = (self._into @ planes).view(self._products, self._tiles, height, width, channels)
        inner = inner.permute(0, 1, 4, 2, 3)  # (products, tiles, channels, y, x), channels innermost
        convolve: Any = torch.ops.mkldnn._convolution_pointwise.default
        parts = [convolve(p, w, None, *_WHERE, "none", [], "") for p, w in zip(inner, self._weights, strict=True)]
        found = torch.cat(parts).permute(0, 2, 3, 1).reshape(self._products * self._tiles, -1)
        y = torch.addmm(self._bias, self._out, found).relu_()  # (z, y·x·channels)
        return y.view(1, depth, height, width, -1).permute(0, 4, 1, 2, 3)


_WHERE = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups of each plane's 3x3 convolution


def _on_axis(into: FloatArray, m: int, depth: int, tiles: int) -> FloatArray:
    """The input's transform for a whole axis with one zero on either side: rows by product, then tile."""
    matrix = np.zeros((len(into), tiles, depth))
    for tile in range(tiles):
        for place in range(len(into)):
            z = tile * m + place - 1
            if 0 <= z < depth:
                matrix[:, tile, z] = into[:, place]
    return matrix.reshape(-1, depth)


def _off_axis(output: FloatArray, m: int, depth: int, tiles: int) -> FloatArray:
    """The output's transform for a whole axis; columns by product, then tile."""
    matrix = np.zeros((depth, output.shape[1], tiles))
    for z in range(depth):
        matrix[z, :, z // m] = output[z % m]
    return matrix.reshape(depth, -1)
