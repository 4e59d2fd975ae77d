"""How weights are changed: AdamW with a cosine, SAM around it, schedule-free AdamW; one interface for the loop.

AdamW with learning rate 1e-3 and weight decay 0.01, and cosine decay, are the authors' settings. A loop says:

    optimiser.train_mode()
    value = optimiser.step(closure)   # closure: forward and optimiser.backward(loss), over all parts of the batch
    optimiser.eval_mode()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from medconv.packages import how_to_install
from medconv.types import MissingRequirement, UsageError

ADAMW, SAM, SCHEDULE_FREE = "adamw", "sam", "schedule_free"
NAMES = (ADAMW, SAM, SCHEDULE_FREE)


@dataclass(frozen=True)
class OptimiserSettings:
    """name: one of NAMES. sam_rho: how far SAM climbs before it takes the gradient (Foret: 0.05).

    clip_norm: the gradient is shortened to this length, None leaves it.
    """

    name: str = ADAMW
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up_steps: int = 100
    sam_rho: float = 0.05
    clip_norm: float | None = None


def learning_rate_factor(step: int, total: int, warm_up: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(total - warm_up, 1)))


class Optimiser:
    """One step after another; `state_dict` holds all that the next step depends on, besides the weights."""

    def __init__(
        self, settings: OptimiserSettings, parameters: Iterable[Tensor], total_steps: int,
        network: nn.Module | None = None, scaler: torch.amp.GradScaler | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.parameters = [p for p in parameters if p.requires_grad]
        self.total_steps = total_steps
        self.steps = 0
        self._warm_up = min(settings.warm_up_steps, total_steps)
        self._network = network
        self._scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self._schedule_free = settings.name == SCHEDULE_FREE
        make = _schedule_free if self._schedule_free else _adamw
        self._base = make(self.parameters, settings, self._warm_up)

    @property
    def learning_rate(self) -> float:
        """Of the next step; schedule-free AdamW warms up by itself and then keeps its rate."""
        if self._schedule_free:
            return self.settings.learning_rate * min(1.0, (self.steps + 1) / max(self._warm_up, 1))
        return self.settings.learning_rate * learning_rate_factor(self.steps, self.total_steps, self._warm_up)

    @property
    def needs_batch_norm_refresh(self) -> bool:
        """True if the weights that are evaluated are not those that BatchNorm's running figures were gathered with."""
        return self._schedule_free

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled where half precision needs it. Calls add up until the step."""
        self._scaler.scale(loss).backward()

    def zero_grad(self) -> None:
        """Forget the gradients; `step` does so by itself."""
        self._base.zero_grad(set_to_none=True)

    def step(self, closure: Callable[[], Tensor | float]) -> float:
        """One change of the weights; returns the loss before it.

        closure: computes the batch's loss, calls `backward` (or scales with the same scaler), returns the loss. SAM
        calls it twice.
        """
        if not self._schedule_free:
            for group in self._base.param_groups:
                group["lr"] = self.learning_rate
        self.zero_grad()
        loss = _number(closure())
        if self.settings.name == SAM:
            self._gradient_uphill(closure)
        self._scaler.unscale_(self._base)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self._scaler.step(self._base)
        self._scaler.update()
        self.zero_grad()
        self.steps += 1
        return loss

    def train_mode(self) -> None:
        """Before training: schedule-free AdamW puts the weights it takes gradients at into the network."""
        if self._schedule_free:
            self._base.train()

    def eval_mode(self) -> None:
        """Before evaluation or export: schedule-free AdamW puts its average into the network."""
        if self._schedule_free:
            self._base.eval()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; take the network's weights in the same mode (train or eval)."""
        return {"base": self._base.state_dict(), "steps": self.steps, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; the network's weights are loaded by the caller."""
        self._base.load_state_dict(state["base"])
        self._scaler.load_state_dict(state["scaler"])
        self.steps = state["steps"]

    def _gradient_uphill(self, closure: Callable[[], Tensor | float]) -> None:
        """Replace the gradient by that at the weights' worst neighbour (Foret et al. 2021, Algorithm 1, p = 2)."""
        with_gradient = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in with_gradient]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        if not torch.isfinite(length) or length == 0:  # flat, or half precision overflowed: the scaler skips the step
            return
        before = [p.detach().clone() for p in with_gradient]
        with torch.no_grad():
            for parameter, gradient in zip(with_gradient, gradients, strict=True):
                parameter.add_(gradient, alpha=self.settings.sam_rho / float(length))
        self.zero_grad()
        with _batch_norm_unmoved(self._network) if self._network is not None else nullcontext():
            closure()
        with torch.no_grad():
            for parameter, kept in zip(with_gradient, before, strict=True):
                parameter.copy_(kept)  # a copy, not a subtraction: to the last bit


def make_optimiser(
    settings: OptimiserSettings, parameters: Iterable[Tensor], *, total_steps: int,
    network: nn.Module | None = None, scaler: torch.amp.GradScaler | None = None,
) -> Optimiser:  # fmt: skip
    """The optimiser of that name.

    total_steps: of the whole run, for the cosine. network: SAM's second pass leaves its BatchNorm figures alone.
    scaler: for half precision on CUDA. Raises UsageError for an unknown name, MissingRequirement without schedulefree.
    """
    if settings.name not in NAMES:
        raise UsageError(
            "unknown_optimiser", f"There is no optimiser '{settings.name}'.", f"Choose one of: {', '.join(NAMES)}."
        )
    return Optimiser(settings, parameters, total_steps, network, scaler)


def weight_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers; call `update_parameters(network)` after each step.

    The first call takes the weights whole. Its state_dict goes into the checkpoint; `average.module` is the averaged
    network (whose BatchNorm counters mean nothing: torch averages them as whole numbers).
    """
    if not 0.0 < decay < 1.0:
        raise UsageError("ema_decay", f"The average's decay must lie between 0 and 1, got {decay:g}.", "Usual: 0.999.")
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def refresh_batch_norm(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Gather BatchNorm's means and variances anew from some training batches, at the weights as they are now."""
    update_bn(inputs, network)


def _number(loss: Tensor | float) -> float:
    return float(loss.detach()) if isinstance(loss, Tensor) else loss


@contextmanager
def _batch_norm_unmoved(network: nn.Module) -> Iterator[None]:
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    counts = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None:
                layer.num_batches_tracked.copy_(count)


def _adamw(parameters: list[Tensor], settings: OptimiserSettings, warm_up: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _schedule_free(parameters: list[Tensor], settings: OptimiserSettings, warm_up: int) -> Any:
    """Defazio et al. 2024, "The road less scheduled"; the paper's text credits it to others."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise MissingRequirement(
            "schedulefree_missing",
            "The optimiser 'schedule_free' needs the package schedulefree.",
            how_to_install("train"),
        ) from error
    return AdamWScheduleFree(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, warmup_steps=warm_up
    )
