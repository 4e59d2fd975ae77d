"""Which processor a network runs on, and the option that names it. Torch is imported inside the function only."""

from __future__ import annotations

import re
from typing import Any

from medconv.types import MissingRequirement, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
NUMBERED = re.compile(r"cuda:\d{1,3}")


def add_device(p: Any, default: str = "auto") -> None:
    """The option --device of a command (an argparse parser or group); its run checks the name."""
    p.add_argument(
        "--device", metavar="NAME", default=default, help=f"auto, cpu, cuda, cuda:N or mps (default {default})"
    )


def choose_device(wanted: str = "auto") -> str:
    """The torch device for a request: 'auto' takes CUDA, then Apple's MPS, then the CPU.

    'cuda' is the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES decides), 'cuda:1' the second.
    Raises UsageError for an unknown name, MissingRequirement for a device that isn't there.
    """
    check_device(wanted)
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in present.items() if there)
    kind, _, number = wanted.partition(":")
    if not present[kind] or (number and int(number) >= torch.cuda.device_count()):
        raise MissingRequirement(
            "device_missing",
            f"This computer has no usable '{wanted}' device.",
            "Use device auto (or cpu), or install the matching driver and PyTorch build.",
        )
    return wanted


def check_device(wanted: str) -> str:
    """The name itself; raises UsageError if no device is ever called so."""
    if wanted not in DEVICES and not NUMBERED.fullmatch(wanted):
        names = f"{', '.join(DEVICES)}, cuda:N"
        raise UsageError("unknown_device", f"There is no device '{wanted}'.", f"Choose one of: {names}.")
    return wanted
