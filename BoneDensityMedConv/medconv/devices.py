"""Which processor a network runs on. Torch is imported inside the function only."""

from __future__ import annotations

from medconv.types import MissingRequirement, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(wanted: str = "auto") -> str:
    """The torch device for a request: 'auto' takes CUDA, then Apple's MPS, then the CPU.

    Raises UsageError for an unknown name, MissingRequirement for a device that isn't there.
    """
    if wanted not in DEVICES:
        raise UsageError("unknown_device", f"There is no device '{wanted}'.", f"Choose one of: {', '.join(DEVICES)}.")
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in present.items() if there)
    if not present[wanted]:
        raise MissingRequirement(
            "device_missing",
            f"This computer has no usable '{wanted}' device.",
            "Use device auto (or cpu), or install the matching driver and PyTorch build.",
        )
    return wanted
