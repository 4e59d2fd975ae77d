"""Losses for classes of unequal frequency. Pure functions first, then thin modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def logit_adjusted_cross_entropy(logits: Tensor, targets: Tensor, log_prior: Tensor, tau1: float = 1.0) -> Tensor:
    """CE(z + tau1·log π), the mean over the batch: the authors' "Bal-CE" as their code computes it.

    logits: (N, classes), the network's own. targets: (N,) class indices. log_prior: (classes,).
    With tau1 = 1 the trained z are class-balanced logits; with tau1 = 0 it is plain cross-entropy.
    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", Eq. 10.

    >>> z = torch.tensor([[1.0, 0.0, 0.0]]); prior = torch.tensor([0.5, 0.4, 0.1])
    >>> round(float(logit_adjusted_cross_entropy(z, torch.tensor([0]), prior.log())), 6)
    0.313262
    """
    return F.cross_entropy(logits + tau1 * log_prior, targets)


class BalancedCrossEntropy(nn.Module):
    """`logit_adjusted_cross_entropy` with the class frequencies of the training set; tau1 = 0 gives plain CE."""

    def __init__(self, class_prior: tuple[float, ...], tau1: float = 1.0) -> None:
        super().__init__()
        if min(class_prior) <= 0:
            raise ValueError(f"every class needs a frequency above 0, got {class_prior}")
        self.tau1 = tau1
        self.log_prior: Tensor
        self.register_buffer("log_prior", torch.tensor(class_prior).log())

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logit_adjusted_cross_entropy(logits, targets, self.log_prior, self.tau1)
