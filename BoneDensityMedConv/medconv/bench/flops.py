"""What a pass has to compute and to move: counted by torch, and worked out layer by layer for the roofline.

Roofline (Williams, Waterman and Patterson 2009): a layer takes at least its operations over the arithmetic peak, and at
least its bytes over the memory bandwidth. Bytes here are a layer's input, weights and output once, in float32, as if no
layer left anything in a cache and batch norm and ReLU cost nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product: floating-point operations (two a multiply-add), and bytes in, out and held."""

    name: str
    flops: float
    bytes: float


def counted(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of one pass of an input of that shape (N, C, z, y, x), by torch's own counter.

    Nothing is computed. Attention is taken apart into its products: the counter doesn't know the CPU's fused kernel.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    empty = copy.deepcopy(network).to("meta").eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused layer hides its matrix products from the counter
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            empty(torch.empty(shape, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())


def layers(network: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """The convolutions and fully connected layers of one pass, in order; without attention's own products."""
    import torch
    from torch import nn

    found: list[Layer] = []
    empty = copy.deepcopy(network).to("meta").eval()

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            per_output = weight[0].numel()  # multiply-adds of one output value
            held = sum(p.numel() for p in module.parameters())
            moved = inputs[0].numel() + held + output.numel()
            found.append(Layer(name, 2.0 * per_output * output.numel(), FLOAT_BYTES * float(moved)))

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in empty.named_modules()
        if isinstance(module, nn.Conv3d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            empty(torch.empty(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def roofline_s(costs: Sequence[Layer], flops_a_second: float, bytes_a_second: float) -> float:
    """The least time of all layers one after another, each bound by arithmetic or by memory."""
    return sum(max(cost.flops / flops_a_second, cost.bytes / bytes_a_second) for cost in costs)


def memory_bound_share(costs: Sequence[Layer], flops_a_second: float, bytes_a_second: float) -> float:
    """The share of that time that falls to layers bound by memory."""
    bound = [c.bytes / bytes_a_second for c in costs if c.bytes / bytes_a_second > c.flops / flops_a_second]
    return sum(bound) / roofline_s(costs, flops_a_second, bytes_a_second)
