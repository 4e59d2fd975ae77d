"""CUDA in half precision: as it is, and as one captured graph.

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
    network: Any = backbone.plain().to(subject.device, memory_format=torch.channels_last_3d)

    def half(x: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=torch.float16):
            return network(x)

    core = half if name == "cuda_amp" else _captured(half, backbone.shape, subject.device)

    def on_gpu(x: Tensor) -> Tensor:
        x = x.to(subject.device).contiguous(memory_format=torch.channels_last_3d)
        return core(x).float()

    return Runtime(name, subject, backbone.around(on_gpu), is_half=True)


def _captured(half: Any, shape: Shape4, device: str) -> Any:
    """The pass of one crop as a CUDA graph with its own input and output."""
    import torch

    with torch.inference_mode(), torch.cuda.device(device):
        fixed_input = torch.zeros(1, *shape, device=device).contiguous(memory_format=torch.channels_last_3d)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP_PASSES):
                half(fixed_input)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Autocast's copies of the weights must be the graph's own, not ones that are freed after it.
        with torch.cuda.graph(graph):
            fixed_output = half(fixed_input)

    def core(x: Tensor) -> Tensor:
        answers = []
        for crop in x.split(1):
            fixed_input.copy_(crop)
            graph.replay()
            answers.append(fixed_output.clone())
        return torch.cat(answers)

    return core
