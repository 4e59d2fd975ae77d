"""Ways to run the network: plain torch, and what is faster on a given machine (docs/decisions/0007).

The network's answer is defined by the reference, eager torch in float32. Every other runtime computes the same sums in
another order, by other code, and counts only as far as it agrees (`trial`). Which one is used is measured (`choice`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

from medconv.config import Architecture, ModelCard
from medconv.packages import how_to_install
from medconv.runtimes.runtime import CannotRun as CannotRun
from medconv.runtimes.runtime import Runtime as Runtime
from medconv.runtimes.runtime import Subject as Subject
from medconv.types import MissingRequirement, UsageError

if TYPE_CHECKING:
    from torch import nn

REFERENCE, AUTO, MEASURE = "eager", "auto", "measure"

# Name → what it is, in the order in which equals are preferred.
RUNTIMES: Mapping[str, str] = {
    REFERENCE: "plain PyTorch in float32: the reference",
    "openvino": "OpenVINO (extra 'fast'), float32",
    "onednn": "PyTorch's own oneDNN operators, called one by one with folded weights, float32",
    "bfloat16": "the same operators in bfloat16, where the processor computes in it",
    "jit": "TorchScript, frozen and fused, float32",
    "channels_last": "plain PyTorch with the channels innermost in memory, float32",
    "onnxruntime": "ONNX Runtime (extra 'fast'), float32",
    "compiled": "torch.compile, float32; needs a compiler and up to a minute at the first call",
    "cuda_amp": "CUDA in half precision (float16), channels innermost",
    "cuda_graph": "the same as one captured CUDA graph",
}
_MODULES: Mapping[str, str] = {
    REFERENCE: "torch_eager",
    "channels_last": "torch_eager",
    "bfloat16": "torch_onednn",
    "onednn": "torch_onednn",
    "jit": "torch_traced",
    "compiled": "torch_traced",
    "openvino": "open_vino",
    "onnxruntime": "onnx_runtime",
    "cuda_amp": "torch_cuda",
    "cuda_graph": "torch_cuda",
}
# What must be installed, apart from torch.
PACKAGES: Mapping[str, tuple[str, ...]] = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx")}
_ON_CPU = (REFERENCE, "openvino", "onednn", "bfloat16", "jit", "channels_last", "onnxruntime", "compiled")
_ON_CUDA = (REFERENCE, "cuda_amp", "cuda_graph", "compiled")
HALF_PRECISION = frozenset({"bfloat16", "cuda_amp", "cuda_graph"})


def available(device: str = "cpu") -> list[str]:
    """Runtimes that can be opened on a torch device ("cpu", "cuda", "cuda:1", "mps"), the reference first.

    Never raises, and imports no package but torch.
    """
    kind = device.split(":")[0]
    names = {"cpu": _ON_CPU, "cuda": _ON_CUDA}.get(kind, (REFERENCE,))
    return [name for name in names if _is_there(name, kind)]


def open_runtime(
    name: str,
    card_or_architecture: ModelCard | Architecture,
    network: nn.Module,
    device: str,
    input_shape: tuple[int, int, int, int],
) -> Runtime:
    """The network, in evaluation mode, ready to run in that way.

    input_shape: (channels, z, y, x) of the crops that are to come; other shapes may be refused with CannotRun.
    Raises UsageError (unknown name), MissingRequirement (a package or a processor's ability that isn't there) and
    CannotRun (this network, or anything that the runtime's own code raised).
    """
    check_name(name)
    if name not in available(device):
        raise _missing(name, device)
    card = card_or_architecture
    architecture = card.architecture if isinstance(card, ModelCard) else card
    subject = Subject(architecture, network, device, input_shape)
    opener = importlib.import_module(f"medconv.runtimes.{_MODULES[name]}")
    try:
        return opener.open_runtime(name, subject)
    except CannotRun:
        raise
    except Exception as error:
        raise CannotRun(f"{type(error).__name__}: {error}") from error


def check_name(name: str) -> None:
    """Raise UsageError if there is no such runtime."""
    if name not in RUNTIMES:
        names = ", ".join((AUTO, MEASURE, *RUNTIMES))
        raise UsageError("unknown_runtime", f"There is no runtime '{name}'.", f"Choose one of: {names}.")


def _is_there(name: str, kind: str) -> bool:
    try:
        if any(importlib.util.find_spec(package) is None for package in PACKAGES.get(name, ())):
            return False
        module = importlib.import_module(f"medconv.runtimes.{_MODULES[name]}")
        return bool(module.is_possible(name, kind))
    except Exception:  # noqa: BLE001 - a half-installed package is as good as none
        return False


def _missing(name: str, device: str) -> MissingRequirement:
    if name in PACKAGES:
        remedy = f"Choose another with --runtime, or install it. {how_to_install('fast')}"
    else:
        remedy = f"Runtimes that work here: auto, {', '.join(available(device))}."
    return MissingRequirement("runtime_missing", f"The runtime '{name}' is not there for device '{device}'.", remedy)
