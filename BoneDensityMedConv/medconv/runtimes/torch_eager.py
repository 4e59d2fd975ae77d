"""Plain torch: the reference, and the same with the channels innermost in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    network = subject.network.to(subject.device).eval()

    def answer(crops: Tensor) -> Tensor:
        with _all_of_float32(subject.device):
            return network(crops.to(subject.device))

    return Runtime("eager", subject, answer)


def _innermost(name: str, subject: Subject) -> Runtime:
    import torch

    backbone = Backbone(subject.network, subject.input_shape)
    network: Any = backbone.plain().to(memory_format=torch.channels_last_3d)
    return Runtime(
        name, subject, backbone.around(lambda x: network(x.contiguous(memory_format=torch.channels_last_3d)))
    )


@contextmanager
def _all_of_float32(device: str) -> Iterator[None]:
    """A GPU's convolutions with all digits of float32 inside, not rounded to TF32's 10 bits; then as it was before."""
    import torch

    if not device.startswith("cuda"):
        yield
        return
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if convolutions is None:  # before torch 2.9
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
        return
    # By this setting alone: `cudnn.flags` raises once somebody in the process has set another one of its kind.
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
