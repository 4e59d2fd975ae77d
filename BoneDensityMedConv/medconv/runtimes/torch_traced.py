"""TorchScript (traced, frozen, fused) and torch.compile, on the plain backbone."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING, Any

from medconv.runtimes.backbone import Backbone
from medconv.runtimes.runtime import Runtime, Subject

if TYPE_CHECKING:
    from torch import Tensor


def is_possible(name: str, kind: str) -> bool:
    """torch.compile needs a C++ compiler for the CPU, Triton for CUDA."""
    if name != "compiled":
        return True
    if kind == "cuda":
        import torch

        return bool(torch.utils._triton.has_triton())
    return any(shutil.which(compiler) for compiler in ("g++", "clang++", "cl"))


def open_runtime(name: str, subject: Subject) -> Runtime:
    backbone = Backbone(subject.network, subject.input_shape)
    if name == "jit":
        return Runtime(name, subject, backbone.around(_traced(backbone)))
    return Runtime(name, subject, backbone.around(_compiled(backbone, subject.device)))


def _traced(backbone: Backbone) -> Any:
    """For any number of crops of one size; the first two passes still optimise."""
    import torch

    example = torch.zeros(1, *backbone.shape)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is announced as deprecated; it is there, and measured
        traced = torch.jit.freeze(torch.jit.trace(backbone.plain(), example, check_trace=False))
        return torch.jit.optimize_for_inference(traced)


def _compiled(backbone: Backbone, device: str) -> Any:
    """Compiles here, at the first pass, so that what fails fails at opening."""
    import torch

    network: Any = backbone.plain().to(device)
    with torch.inference_mode():
        compiled = torch.compile(network, dynamic=False, options={"freezing": device == "cpu"})
        compiled(torch.zeros(1, *backbone.shape, device=device))

    def core(x: Tensor) -> Tensor:
        return torch.cat([compiled(crop.to(device)) for crop in x.split(1)])

    return core
