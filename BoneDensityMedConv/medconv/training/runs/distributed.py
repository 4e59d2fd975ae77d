"""Several processes train as one: the same batches, one loss over the whole batch, batch norm over the whole batch.

`torchrun` starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process and nothing
here does anything. Process r of W computes the r-th part of a batch. The loss is computed on the whole batch's outputs
in every process, so that losses which weigh by the batch's own class counts are what they are in one process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medconv.types import MedConvError, MissingRequirement, UsageError

T = TypeVar("T")
# A process that waits longer for another in a step takes it for dead; one that was killed is noticed at once.
STEP_TIMEOUT = timedelta(minutes=30)
_BUFFERS_STAY: dict[str, Any] = {
    # The option's name changed in torch 2.12.
    "forward_sync_buffers" if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}  # fmt: skip
SETUP_TIMEOUT = timedelta(hours=48)  # while the first process prepares the data


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True in the one process that writes and speaks."""
        return self.rank == 0

    def own(self, whole: int) -> slice:
        """Which of `whole` rows are this process's, in equal contiguous parts. Raises UsageError if they are not."""
        if whole % self.count:
            raise UsageError(
                "batch_not_divisible",
                f"A part of {whole} patients of a batch can't be shared equally by {self.count} processes.",
                f"Choose a batch size that is a multiple of {self.count} times --accumulate.",
            )
        part = whole // self.count
        return slice(self.rank * part, (self.rank + 1) * part)

    def whole_batch(self, outputs: Tensor) -> Tensor:
        """Outputs (n/W, k) of every process, in order, shape (n, k); only this process's part carries a gradient.

        The gradient of the loss is this process's share of the whole; `backward` puts the shares together.
        """
        if self.count == 1:
            return outputs
        parts = [torch.empty_like(outputs) for _ in range(self.count)]
        dist.all_gather(parts, outputs.detach().contiguous())
        parts[self.rank] = outputs
        return torch.cat(parts)

    def gather(self, value: T) -> list[T]:
        """`value` of every process, in order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable[[], T], group: Any = None) -> T:
        """What `make` gives in the first process, for all of them.

        What it raises there is told there; the others end quietly with the same exit code.
        """
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = make()
            except BaseException as error:
                failed = error.exit_code if isinstance(error, MedConvError) else 1
                dist.broadcast_object_list([None, failed], src=0, group=group)
                raise
        dist.broadcast_object_list(told, src=0, group=group)
        if told[1] is not None:
            raise SystemExit(told[1])
        return told[0]

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its batch norms over the whole batch and its gradients averaged over the processes."""
        if self.count == 1:
            return network
        on_cuda = next(network.parameters()).is_cuda
        if on_cuda and not any(_has_activation(module) for module in network.modules()):
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            share_batch_norm(network)
        return DistributedDataParallel(
            network, device_ids=[torch.cuda.current_device()] if on_cuda else None, **_BUFFERS_STAY
        )


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, joined for the length of the block; one process without torchrun.

    device: "cuda" (each process takes the GPU of its LOCAL_RANK, over nccl) or another (over gloo).
    Raises MissingRequirement if there are fewer GPUs than processes on this machine.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes()
        return
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise MissingRequirement(
                "too_few_gpus",
                f"This machine has {torch.cuda.device_count()} GPUs, but process {local + 1} asks for one of its own.",
                "Start torchrun with --nproc-per-node as many as there are GPUs.",
            )
        torch.cuda.set_device(local)
    # 1x1x1 kernels have the same order in memory under two descriptions.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=STEP_TIMEOUT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def after_first(processes: Processes, read: Callable[[], T]) -> T:
    """`read` in the first process while the others wait, for hours if need be; then in the others as well.

    For what is prepared on a disk that all see when it is read for the first time.
    """
    if processes.count == 1:
        return read()
    patient = dist.new_group(backend="gloo", timeout=SETUP_TIMEOUT)
    found: list[T] = []
    processes.from_first(lambda: found.append(read()), patient)
    return found[0] if processes.first else read()


def process_lost(error: BaseException) -> bool:
    """True if a collective call failed because another process is gone or silent."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce(sum) whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class SharedBatchNorm3d(nn.BatchNorm3d):
    """Batch norm over the batches of all processes, on any device: torch's SyncBatchNorm knows GPUs only.

    Mean first, then the mean square about it: the difference of two large sums would lose digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = (0, 2, 3, 4)
        count = x.numel() / x.shape[1] * dist.get_world_size()
        # Sums in double precision, as in torch's own batch norm on the CPU.
        mean: Tensor = _SumOverProcesses.apply(x.sum(axes, dtype=torch.float64)) / count  # (C,)
        centred = x - mean.to(x.dtype)[:, None, None, None]
        squares: Tensor = _SumOverProcesses.apply(centred.square().sum(axes, dtype=torch.float64))  # (C,)
        self._follow(mean.detach(), squares.detach() / (count - 1))
        scale = torch.rsqrt(squares / count + self.eps).to(x.dtype) * self.weight  # (C,)
        return centred * scale[:, None, None, None] + self.bias[:, None, None, None]

    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), share)


class SharedBatchNormAct3d(SharedBatchNorm3d):
    """The same for timm's batch norm that holds its activation, which torch's own conversion would lose."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def share_batch_norm(network: nn.Module) -> None:
    """Turn every 3D batch norm of a network into a shared one; parameters and names stay."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d) and not isinstance(module, SharedBatchNorm3d):
            module.__class__ = SharedBatchNormAct3d if _has_activation(module) else SharedBatchNorm3d


def _has_activation(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm3d) and hasattr(module, "act")
