"""Plain torch: the reference, and the same with the channels innermost in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medconv.runtimes.backbone import Backbone
from medconv.runtimes.runtime import Runtime, Subject

if TYPE_CHECKING:
    from torch import Tensor


def is_possible(name: str, kind: str) -> bool:
    return True


def open_runtime(name: str, subject: Subject) -> Runtime:
    """The reference as it is; "channels_last" on the plain backbone."""
    return _reference(subject) if name == "eager" else _innermost(name, subject)


def _reference(subject: Subject) -> Runtime:
    import torch

    network = subject.network.to(subject.device).eval()

    def answer(crops: Tensor) -> Tensor:
        # A GPU's float32 convolutions may be rounded to TF32 (10 bits) otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return network(crops.to(subject.device))

    return Runtime("eager", subject, answer)


def _innermost(name: str, subject: Subject) -> Runtime:
    import torch

    backbone = Backbone(subject.network, subject.input_shape)
    network: Any = backbone.plain().to(memory_format=torch.channels_last_3d)
    return Runtime(
        name, subject, backbone.around(lambda x: network(x.contiguous(memory_format=torch.channels_last_3d)))
    )
