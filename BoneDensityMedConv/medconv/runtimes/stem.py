"""The stem where the crop shows something: outside L1 a masked crop is exactly 0, and the stem's answer is known.

The 7x7x7 convolution with stride 2 and the pooling after it take a seventh of a pass. Where all that an output sees is
0, the convolution leaves the bias, and zero padding at the crop's edge is no different. So the block around the bone is
computed, and everything else is filled in: the same values, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Stem and pooling together: an output p sees the inputs 4p − 5 to 4p + 5.
STRIDE, REACH = 4, 5
# Blocks come in steps of so many outputs: oneDNN makes a new program for each size it has not seen.
STEP = 2
# A block that is nearly all saves nothing.
NEARLY_ALL = 0.85


def sparse_stem(stem: Callable[[Tensor], Tensor], x: Tensor, bias: Tensor) -> Tensor:
    """ReLU(convolution) and pooling of x, (n, channels, z, y, x), as (n, width, z/4, y/4, x/4), channels innermost.

    stem: the convolution with padding 3 and ReLU for inputs of any size; bias: its bias, (width,).
    """
    import torch

    sizes = [_halved(_halved(n)) for n in x.shape[2:]]
    blocks = _blocks(x, sizes)
    if blocks is None:
        return pooled(stem(x))
    whole = bias.relu()[None, :, None, None, None].expand(len(x), -1, *sizes)
    whole = whole.contiguous(memory_format=torch.channels_last_3d)
    if not blocks:
        return whole
    cut = tuple(slice(STRIDE * first, STRIDE * last) for first, last in blocks)
    inside = pooled(stem(x[(slice(None), slice(None), *cut)].contiguous(memory_format=torch.channels_last_3d)))
    # The first output of a block lacks the input before it, which only zeros stand for: what it should be is filled in.
    skip = [1 if first else 0 for first, _ in blocks]
    into = tuple(slice(first + s, last) for (first, last), s in zip(blocks, skip, strict=True))
    whole[(slice(None), slice(None), *into)] = inside[(slice(None), slice(None), *(slice(s, None) for s in skip))]
    return whole


def _blocks(x: Tensor, sizes: list[int]) -> list[tuple[int, int]] | None:
    """Outputs (first, after the last) to compute along z, y, x; [] if x is 0 everywhere, None for the whole."""
    import torch

    seen = (x != 0).any(dim=1).any(dim=0)  # (z, y, x)
    found = []
    share = 1.0
    for axis, size in enumerate(sizes):
        places = torch.nonzero(seen.movedim(axis, 0).flatten(1).any(dim=1))
        if not len(places):
            return []
        low, high = int(places[0]), int(places[-1])
        first = max(0, -(-(low - REACH) // STRIDE) - 1)  # one more, which is thrown away
        last = min(size, (high + REACH) // STRIDE + 1)
        first = max(0, first - (last - first) % STEP)
        found.append((first, last))
        share *= (last - first) / size
    return None if share > NEARLY_ALL else found


def pooled(x: Tensor) -> Tensor:
    """The max pooling after the stem."""
    import torch.nn.functional as F

    return F.max_pool3d(x, 3, 2, 1)


def _halved(n: int) -> int:
    return (n - 1) // 2 + 1
