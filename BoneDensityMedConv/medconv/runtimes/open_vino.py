"""OpenVINO: the graph is built node by node from the folded weights.

Neither its converters nor ONNX are asked: they take longer than the compiling itself, and with the package
openvino-telemetry installed `convert_model` sends usage statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medconv.runtimes.backbone import Backbone, FoldedConvolution, FoldedNetwork
from medconv.runtimes.runtime import Runtime, Shape4, Subject

if TYPE_CHECKING:
    from torch import Tensor

NDHW_ONES = [1, 1, 1]


def is_possible(name: str, kind: str) -> bool:
    return True


def open_runtime(name: str, subject: Subject) -> Runtime:
    backbone = Backbone(subject.network, subject.input_shape)
    return Runtime(name, subject, backbone.around(_Compiled(backbone.folded(), backbone.shape, subject.threads)))


class _Compiled:
    """The plain network, compiled for single crops: on a few cores a crop at a time is as fast as several."""

    def __init__(self, network: FoldedNetwork, shape: Shape4, threads: int) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # tied to a core, a thread waits there for Slicer, or a second process of ours
            "INFERENCE_PRECISION_HINT": "f32",  # else processors with bfloat16 round to it without a word
            "EXECUTION_MODE_HINT": "ACCURACY",
        }
        model = openvino.Core().compile_model(_graph(network, shape), "CPU", settings)
        self._request = model.create_infer_request()

    def __call__(self, x: Tensor) -> Tensor:
        import torch

        answers = [self._request.infer([crop.numpy()])[0].copy() for crop in x.split(1)]
        return torch.cat([torch.from_numpy(answer) for answer in answers])


def _graph(network: FoldedNetwork, shape: Shape4) -> Any:
    import numpy as np
    from openvino import Model, op, opset8

    def convolution(x: Any, layer: FoldedConvolution) -> Any:
        pads, strides = [layer.padding] * 3, [layer.stride] * 3
        weight, bias = constant(layer.weight), constant(layer.bias.reshape(1, -1, 1, 1, 1))
        y = opset8.add(opset8.convolution(x, weight, strides, pads, pads, NDHW_ONES), bias)
        return opset8.relu(y) if layer.relu else y

    def constant(values: Tensor) -> Any:
        # Shared: the node keeps the array; copying is hundred times slower than it should be (2026.4).
        return op.Constant(values.contiguous().numpy(), shared_memory=True)

    crop = opset8.parameter([1, *shape], dtype=np.float32, name="crop")
    x = convolution(crop, network.stem)
    two, one, three = [2] * 3, [1] * 3, [3] * 3
    x = opset8.max_pool(x, two, NDHW_ONES, one, one, three).output(0)
    for block in network.blocks:
        shortcut = x if block.shortcut is None else convolution(x, block.shortcut)
        for layer in block.convolutions:
            x = convolution(x, layer)
        x = opset8.relu(opset8.add(x, shortcut))
    x = opset8.reduce_mean(x, np.array([2, 3, 4], np.int64), keep_dims=False)
    x = opset8.add(opset8.matmul(x, constant(network.fc_weight), False, True), constant(network.fc_bias))
    return Model([x], [crop], "medconv")
