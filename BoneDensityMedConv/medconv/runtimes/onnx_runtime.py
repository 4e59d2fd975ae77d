"""ONNX Runtime: the graph is built node by node from the folded weights and handed over in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medconv.runtimes.backbone import Backbone, FoldedConvolution, FoldedNetwork
from medconv.runtimes.runtime import Runtime, Shape4, Subject

if TYPE_CHECKING:
    from torch import Tensor

OPSET, IR_VERSION = 17, 9  # what ONNX Runtime 1.20 reads


def is_possible(name: str, kind: str) -> bool:
    return True


def open_runtime(name: str, subject: Subject) -> Runtime:
    import onnxruntime
    import torch

    backbone = Backbone(subject.network, subject.input_shape)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = subject.threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would keep a core busy
    options.log_severity_level = 3
    onnxruntime.disable_telemetry_events()  # Windows builds would tell Microsoft of each session
    graph = _graph(backbone.folded(), backbone.shape)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def core(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"crop": x.numpy()})[0])

    return Runtime(name, subject, backbone.around(core))


def _graph(network: FoldedNetwork, shape: Shape4) -> bytes:
    """An ONNX model; up to 2 GB, the limit of its format: a ResNet-152 in 3D has 0.47."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def node(kind: str, *inputs: str, **settings: Any) -> str:
        name = f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **settings))
        return name

    def constant(values: Tensor) -> str:
        weights.append(numpy_helper.from_array(values.contiguous().numpy(), f"w{len(weights)}"))
        return str(weights[-1].name)

    def convolution(x: str, layer: FoldedConvolution) -> str:
        where = {"pads": [layer.padding] * 6, "strides": [layer.stride] * 3}
        y = node("Conv", x, constant(layer.weight), constant(layer.bias), **where)
        return node("Relu", y) if layer.relu else y

    x = convolution("crop", network.stem)
    x = node("MaxPool", x, kernel_shape=[3] * 3, strides=[2] * 3, pads=[1] * 6)
    for block in network.blocks:
        shortcut = x if block.shortcut is None else convolution(x, block.shortcut)
        for layer in block.convolutions:
            x = convolution(x, layer)
        x = node("Relu", node("Add", x, shortcut))
    x = node("Flatten", node("GlobalAveragePool", x))
    outputs = node("Gemm", x, constant(network.fc_weight), constant(network.fc_bias), transB=1)
    graph = helper.make_graph(
        nodes,
        "medconv",
        [helper.make_tensor_value_info("crop", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(outputs, TensorProto.FLOAT, ["n", len(network.fc_bias)])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())
