"""Device, number format and memory: what decides whether a batch fits and how fast it is, and little else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from medconv.devices import choose_device
from medconv.training.runs.run_log import Listener
from medconv.training.runs.run_settings import RunSettings
from medconv.types import MedConvError, UsageError

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose(settings: RunSettings, device: str) -> str:
    """The torch device: "cpu", "mps" or "cuda", which is the current GPU from now on, whatever its number.

    Raises UsageError for a number format that it can't train in, MissingRequirement.
    """
    chosen = choose_device(device)
    if chosen.startswith("cuda:"):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                "gpu_per_process",
                f"torchrun gives each process a GPU of its own; --device {device} names one for all.",
                "Use --device cuda; CUDA_VISIBLE_DEVICES says which GPUs there are.",
            )
        torch.cuda.set_device(chosen)
        chosen = "cuda"
    if settings.amp in FORMATS and chosen != "cuda":
        # On a CPU with bf16 instructions torch 2.13's 3D convolutions gave other losses, or none, from the same seed.
        raise UsageError(
            "amp_not_here",
            f"Training in {settings.amp} needs a CUDA device, not '{chosen}'.",
            "Use --amp auto (float32 here) or off.",
        )
    if settings.amp == "fp16" and settings.optimiser == "sam":
        raise UsageError(
            "amp_not_here",
            "Sharpness-aware minimisation takes two gradients a step, whose loss scales fp16 would mix.",
            "Use --amp bf16 or off with --optimiser sam.",
        )
    return chosen


def format_of(settings: RunSettings, device: str) -> str:
    """ "off", "bf16" or "fp16": what "auto" means on a device."""
    if settings.amp != "auto":
        return settings.amp
    if device != "cuda":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported() or settings.optimiser == "sam" else "fp16"


def autocast_and_scaler(
    settings: RunSettings, device: str
) -> tuple[Callable[[], AbstractContextManager[Any]], torch.amp.GradScaler]:
    """A context for the forward pass, and the loss scaler that fp16 needs (and that others pass through)."""
    chosen = format_of(settings, device)
    scaler = torch.amp.GradScaler("cuda" if device == "cuda" else "cpu", enabled=chosen == "fp16")
    if chosen == "off":
        return nullcontext, scaler
    return (lambda: torch.autocast(device, dtype=FORMATS[chosen])), scaler


@contextmanager
def deterministic() -> Iterator[None]:
    """cuDNN's deterministic kernels for the length of the block."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def part_size(batch_size: int, accumulate: int, processes: int) -> int:
    """Patients in one part of a batch, over all processes. Raises UsageError if it can't be shared equally."""
    part = batch_size // accumulate
    if part % processes or part // processes < 1 or part < 2:
        raise UsageError(
            "batch_not_divisible",
            f"A batch of {batch_size} in {accumulate} parts can't be shared equally by {processes} processes.",
            f"Choose a --batch-size that is a multiple of {accumulate * processes}.",
        )
    return part


def out_of_memory(error: BaseException) -> bool:
    """True for a full GPU, and for a full main memory as torch's CPU allocator tells it."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def smaller_parts(batch_size: int, accumulate: int, processes: int, listener: Listener) -> int:
    """Twice as many parts for a batch that did not fit. Raises MedConvError if it can't be split further.

    With several processes, the one whose memory is full cannot ask the others to start again.
    """
    wanted = accumulate * 2
    splits = batch_size % wanted == 0 and batch_size // wanted >= 2
    if not splits or processes > 1:
        remedy = f"--accumulate {wanted}" if splits else "a smaller --batch-size"
        raise MedConvError(
            "memory_full",
            f"The memory is full with a batch of {batch_size} patients in {accumulate} part(s).",
            f"Start again in another folder with {remedy}, a smaller crop or --width, or --amp bf16.",
        )
    listener.told(
        f"The memory is full: from this epoch on a batch of {batch_size} is computed in {wanted} parts of "
        f"{batch_size // wanted} patients, which is all that batch norm sees at a time."
    )
    return wanted
