"""The losses of `loss.py` as modules that know the training set's class counts, and what their logits then mean.

A network that reaches the least of a weighted, focal or margin loss does not give the posterior as its softmax. Each
module here says how to get it back, so that tau means the same for all: `to_logits` gives z with
z + tau1_train·log π = the training population's log posterior (decision 0005).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medconv.training.parts import loss
from medconv.types import InputRefused, UsageError


@dataclass(frozen=True)
class LossSettings:
    """Which loss, and its numbers; each loss reads only its own.

    name: one of LOSSES. tau1: of "balce". beta: Cui's, of "class_balanced" and of LDAM's deferred weights; 0.9999 is
    Cao's for 50,000 cases, with hundreds it nearly equals inverse frequency. gamma: of "focal". largest_margin, scale:
    of "ldam_drw" (the paper's 0.5 and 30 belong to logits that are cosines; ours are a plain linear layer's, so the
    margin is given in logits: our choice, not tuned). deferred_from: share of the epochs after which LDAM weighs
    classes (Cao: epoch 160 of 200).
    """

    name: str = "balce"
    tau1: float = 1.0
    beta: float = 0.9999
    gamma: float = 2.0
    largest_margin: float = 2.0
    scale: float = 1.0
    deferred_from: float = 0.8


class ClassLoss(nn.Module):
    """A loss on class logits. counts: (classes,) cases by class in the training set, as it is before any resampling.

    head: the name in `network.READINGS` that reads its outputs, None if none does (such a network can be evaluated
    but not packed for Slicer).
    """

    head: str | None = "classes"
    tau1_train = 0.0

    def __init__(self, settings: LossSettings, counts: Tensor) -> None:
        super().__init__()
        self.settings = settings
        self.log_prior: Tensor
        self.counts: Tensor
        self.register_buffer("counts", counts.float())
        self.register_buffer("log_prior", (counts / counts.sum()).float().log())

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Told before an epoch, and before logits of that epoch's weights are read: LDAM changes its weights."""

    def to_logits(self, outputs: Tensor) -> Tensor:
        """(N, classes) logits in the one meaning that tau knows."""
        return outputs

    def fixed_offset(self) -> Tensor:
        """What `to_logits` adds to every case's logits, (classes,): an export adds it to the last layer's bias."""
        return torch.zeros_like(self.log_prior)


class CrossEntropy(ClassLoss):
    """Plain cross-entropy: the training population's posterior itself."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)


class LogitAdjusted(ClassLoss):
    """Bal-CE as the authors' code has it."""

    def __init__(self, settings: LossSettings, counts: Tensor) -> None:
        super().__init__(settings, counts)
        self.tau1_train = settings.tau1

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss.logit_adjusted_cross_entropy(logits, targets, self.log_prior, self.settings.tau1)


class BalancedBinary(ClassLoss):
    """Bal-CE as the paper's Eq. III-B has it. Each σ(z_c) becomes the class-balanced posterior of class c."""

    head = "one_vs_rest"
    tau1_train = 1.0

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss.balanced_binary_cross_entropy(logits, targets, loss.inverse_frequency_weights(self.counts))

    def to_logits(self, outputs: Tensor) -> Tensor:
        return F.logsigmoid(outputs)


class ClassBalanced(ClassLoss):
    """Cui's effective-number weights on cross-entropy. z = log p + log w; `to_logits` makes w inverse frequency."""

    tau1_train = 1.0

    def weights(self) -> Tensor:
        return loss.effective_number_weights(self.counts, self.settings.beta)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss.weighted_cross_entropy(logits, targets, self.weights())

    def fixed_offset(self) -> Tensor:
        return -(self.weights().log() + self.log_prior)

    def to_logits(self, outputs: Tensor) -> Tensor:
        return outputs + self.fixed_offset()


class Focal(ClassLoss):
    """Focal loss; its distortion of the posterior is undone exactly."""

    head = None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss.focal(logits, targets, self.settings.gamma)

    def to_logits(self, outputs: Tensor) -> Tensor:
        return loss.focal_log_posterior(outputs, self.settings.gamma)


class LdamDeferred(ClassLoss):
    """LDAM, with Cui's weights in the last part of the training (deferred re-weighting, DRW)."""

    head = None
    tau1_train = 1.0
    deferred = False

    def start_epoch(self, epoch: int, epochs: int) -> None:
        self.deferred = epoch >= self.settings.deferred_from * epochs

    def weights(self) -> Tensor:
        if not self.deferred:
            return torch.ones_like(self.counts)
        return loss.effective_number_weights(self.counts, self.settings.beta)

    def margins(self) -> Tensor:
        return loss.ldam_margins(self.counts, self.settings.largest_margin)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss.ldam(logits, targets, self.margins(), self.weights(), self.settings.scale)

    def to_logits(self, outputs: Tensor) -> Tensor:
        log_q = loss.ldam_log_posterior(outputs, self.margins(), self.settings.scale)
        return log_q - self.weights().log() - self.log_prior


LOSSES: Mapping[str, Callable[[LossSettings, Tensor], ClassLoss]] = {
    "ce": CrossEntropy,
    "balce": LogitAdjusted,
    "balce_paper": BalancedBinary,
    "ldam_drw": LdamDeferred,
    "class_balanced": ClassBalanced,
    "focal": Focal,
}


def build(settings: LossSettings, class_counts: tuple[int, ...]) -> ClassLoss:
    """The loss of that name. Raises UsageError for an unknown one, InputRefused if a class has no training case."""
    if settings.name not in LOSSES:
        raise UsageError("unknown_loss", f"There is no loss '{settings.name}'.", f"Choose one of: {', '.join(LOSSES)}.")
    if min(class_counts) <= 0:
        raise InputRefused(
            "class_without_cases",
            f"The training set has {class_counts} cases of normal, osteopenia, osteoporosis.",
            "Every class needs at least one training case.",
        )
    return LOSSES[settings.name](settings, torch.tensor(class_counts, dtype=torch.float32))
