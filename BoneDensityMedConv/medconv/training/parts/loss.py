"""Losses for classes of unequal frequency. Pure functions first, then thin modules (`class_losses.py` has the others).

Everywhere: logits (N, classes), the network's own; targets (N,) class indices or (N, classes) probabilities, whose loss
is the expected one; the result is the mean over the batch. Weights and margins are (classes,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def logit_adjusted_cross_entropy(logits: Tensor, targets: Tensor, log_prior: Tensor, tau1: float = 1.0) -> Tensor:
    """CE(z + tau1·log π), the mean over the batch: the authors' "Bal-CE" as their code computes it.

    With tau1 = 1 the trained z are class-balanced logits; with tau1 = 0 it is plain cross-entropy.
    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", Eq. 10.

    >>> z = torch.tensor([[1.0, 0.0, 0.0]]); prior = torch.tensor([0.5, 0.4, 0.1])
    >>> round(float(logit_adjusted_cross_entropy(z, torch.tensor([0]), prior.log())), 6)
    0.313262
    """
    return F.cross_entropy(logits + tau1 * log_prior, targets)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
    """w_y · CE(z, y). Divided by N, not by the sum of the batch's weights: a batch's make-up changes no case's loss.

    >>> z = torch.zeros(2, 3); w = torch.tensor([1.0, 1.0, 4.0])
    >>> round(float(weighted_cross_entropy(z, torch.tensor([0, 2]), w)), 6)  # (1 + 4)/2 · ln 3
    2.746531
    """
    return expected(-F.log_softmax(logits, dim=1) * class_weights, targets)


def balanced_binary_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
    """The paper's Eq. III-B: −w·(y log ŷ + (1 − y) log(1 − ŷ)), with ŷ = σ(z), summed over the three classes.

    Our reading: three one-versus-rest answers a case, and w is the weight of the case's own class. (A weight that
    belonged to the answer's class instead would change no optimum, so it could not balance anything.)

    >>> z = torch.zeros(1, 3); w = torch.tensor([1.0, 1.0, 2.0])
    >>> round(float(balanced_binary_cross_entropy(z, torch.tensor([2]), w)), 6)  # 2 · 3 · ln 2
    4.158883
    """
    no = -F.logsigmoid(-logits)  # (N, classes)
    # −log σ(z) − (−log σ(−z)) = −z: what changes where the class is the right one.
    per_class = no.sum(dim=1, keepdim=True) - logits
    return expected(per_class * class_weights, targets)


def ldam(
    logits: Tensor, targets: Tensor, margins: Tensor, class_weights: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Cross-entropy in which the right class must win by its margin: CE(s·(z − Δ_y·[class y]), y).

    Source: Cao et al. 2019, "Learning imbalanced datasets with label-distribution-aware margin loss", Eq. 13.

    >>> z = torch.tensor([[1.0, 0.0, 0.0]]); d = torch.tensor([1.0, 0.0, 0.0])
    >>> round(float(ldam(z, torch.tensor([0]), d)), 6)  # ln 3
    1.098612
    """
    per_class = -torch.diagonal(F.log_softmax(_with_margins(logits, margins, scale), dim=2), dim1=1, dim2=2)
    return expected(per_class if class_weights is None else per_class * class_weights, targets)


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """−(1 − p_y)^γ · log p_y: cases that are already right count little. γ = 0 is cross-entropy.

    Source: Lin et al. 2017, "Focal loss for dense object detection", Eq. 4, with softmax for its sigmoid.

    >>> z = torch.zeros(1, 3)
    >>> round(float(focal(z, torch.tensor([1]), 2.0)), 6)  # (2/3)² · ln 3
    0.488272
    """
    log_p = F.log_softmax(logits, dim=1)
    return expected(-torch.exp(gamma * _log_of_the_others(log_p)) * log_p, targets)


def expected(per_class: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of the loss that each case has for its class, or on average over its probabilities.

    per_class: (N, classes), the loss that a case would have if it were of that class.
    """
    if targets.ndim == 2:
        return (per_class * targets).sum(dim=1).mean()
    return per_class.gather(1, targets[:, None]).mean()


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """n / (K·n_c): over the training set their mean is 1.

    >>> inverse_frequency_weights(torch.tensor([4.0, 2.0, 2.0]))
    tensor([0.6667, 1.3333, 1.3333])
    """
    return counts.sum() / (len(counts) * counts)


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """(1 − β)/(1 − β^n_c), scaled to sum to the number of classes. β = 0 weighs alike, β → 1 inversely to frequency.

    Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", Eq. 2 and section 4.

    >>> effective_number_weights(torch.tensor([1.0, 2.0]), 0.5)  # 1 and 2/3
    tensor([1.2000, 0.8000])
    """
    weights = (1.0 - beta) / (1.0 - torch.pow(beta, counts))
    return weights * (len(counts) / weights.sum())


def ldam_margins(counts: Tensor, largest: float) -> Tensor:
    """Margins ∝ n_c^(−1/4), the rarest class's being `largest` (Cao et al. 2019, Eq. 12).

    >>> ldam_margins(torch.tensor([160.0, 160.0, 10.0]), 2.0)
    tensor([1., 1., 2.])
    """
    raw = counts**-0.25
    return raw * (largest / raw.max())


def ldam_log_posterior(logits: Tensor, margins: Tensor, scale: float = 1.0) -> Tensor:
    """log p (up to a constant) of the posterior for which these logits have the least expected LDAM loss.

    Setting the risk's gradient to zero makes p the stationary distribution of the matrix whose row y is the softmax
    with y's margin. That matrix has a closed answer: p_c ∝ q_c·(1 − q_c·(1 − e^(−s·Δ_c))) with q = softmax(s·z).
    """
    log_q = F.log_softmax(scale * logits, dim=1)
    return log_q + torch.log1p(torch.exp(log_q) * torch.expm1(-scale * margins))


def focal_log_posterior(logits: Tensor, gamma: float) -> Tensor:
    """log p (up to a constant) of the posterior for which softmax(logits) has the least expected focal loss.

    Focal loss pulls probabilities together; Charoenphakdee et al. 2021, "On focal loss for class-posterior probability
    estimation", Theorem 11, undoes it: p_c ∝ v_c / ((1 − v_c)^γ − γ·(1 − v_c)^(γ − 1)·v_c·log v_c).
    """
    log_v = F.log_softmax(logits.double(), dim=1)
    log_rest = _log_of_the_others(log_v)  # log(1 − v), exact however near v is to 1
    inner = torch.exp(log_rest) - gamma * torch.exp(log_v) * log_v
    log_phi = (gamma - 1.0) * log_rest + torch.log(inner.clamp_min(torch.finfo(torch.float64).tiny))
    return (log_v - log_phi).to(logits.dtype)


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


def _with_margins(logits: Tensor, margins: Tensor, scale: float) -> Tensor:
    """(N, classes, classes): row y holds s·z with y's margin taken off class y."""
    return scale * (logits[:, None, :] - torch.diag(margins))


def _log_of_the_others(log_p: Tensor) -> Tensor:
    """log of the sum of the other classes' probabilities, (N, classes)."""
    others = log_p[:, None, :].masked_fill(torch.eye(log_p.shape[1], dtype=torch.bool, device=log_p.device), -torch.inf)
    return torch.logsumexp(others, dim=2)
