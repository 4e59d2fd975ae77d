"""CUDA in half precision: as it is, and as one captured graph.

Convolutions and the last layer hold their weights in float16, cast once; normalisations keep theirs in float32, as
cuDNN wants them. float16 rather than bfloat16: its 10 bits keep the logits eight times closer, every GPU that torch
still serves computes in it, and what leaves its range is no number, which `Engine` answers with the reference.

A pass of one crop on a GPU is some hundred small kernels, and starting them costs more than computing them. A captured
graph starts them as one. It is fixed to the addresses and the shape it was captured with: single crops, one after
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medconv.runtimes.backbone import Backbone
from medconv.runtimes.runtime import Runtime, Shape4, Subject

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP_PASSES = 3  # cuDNN chooses its algorithms in them; it may not while a graph is captured


def is_possible(name: str, kind: str) -> bool:
    import torch

    return kind == "cuda" and torch.cuda.is_available()


def open_runtime(name: str, subject: Subject) -> Runtime:
    import torch

    backbone = Backbone(subject.network, subject.input_shape)
    half = _in_half(backbone.plain()).to(subject.device, memory_format=torch.channels_last_3d)
    core = half if name == "cuda_amp" else _captured(half, backbone.shape, subject.device)

    def on_gpu(x: Tensor) -> Tensor:
        x = x.to(subject.device, torch.float16).contiguous(memory_format=torch.channels_last_3d)
        return core(x)

    # The crops go over in float16; texture and reading are computed in float32, before and after.
    return Runtime(name, subject, backbone.around(on_gpu), is_half=True)


def _in_half(network: Any) -> Any:
    from torch import nn

    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            module.half()
    return network


def _captured(half: Any, shape: Shape4, device: str) -> Any:
    """The pass of one crop as a CUDA graph with its own input and output."""
    import torch

    with torch.inference_mode(), torch.cuda.device(device):
        fixed_input = torch.zeros(1, *shape, device=device, dtype=torch.float16)
        fixed_input = fixed_input.contiguous(memory_format=torch.channels_last_3d)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP_PASSES):
                half(fixed_input)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # On the warmed stream: torch's own one for captures lies on the GPU that captured first in this process.
        with torch.cuda.graph(graph, stream=beside):
            fixed_output = half(fixed_input)

    def core(x: Tensor) -> Tensor:
        answers = []
        for crop in x.split(1):
            fixed_input.copy_(crop)
            graph.replay()
            answers.append(fixed_output.clone())
        return torch.cat(answers)

    return core
