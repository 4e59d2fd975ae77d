"""What a network's outputs mean: how many there are, how they are trained, and what they say of class and T-score.

Every head gives logits z in the one meaning of decision 0005: z + tau1_train·log π is the training population's log
posterior, π its class frequencies before any resampling. Training on class-balanced samples takes log π out of the
posterior once more: tau1_train grows by 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medconv.network import LOG_VARIANCE_RANGE, READINGS, corn_log_posterior, first_three, normal_log_posterior
from medconv.training.parts import class_losses
from medconv.training.parts.class_losses import LossSettings
from medconv.training.parts.loss import expected, inverse_frequency_weights
from medconv.types import InputRefused, UsageError


@dataclass(frozen=True)
class HeadSettings:
    """name: one of HEADS. loss: of "classes" only. class_share: w of "joint", the weight of its class loss."""

    name: str = "classes"
    loss: LossSettings = field(default_factory=LossSettings)
    class_share: float = 0.5


@dataclass(frozen=True)
class Targets:
    """What is known of a batch. classes: (N,) indices. t_scores: (N,), NaN where only the class is known.

    soft: (N, classes) probabilities instead of `classes`, for instance of a known measurement error, or None.
    """

    classes: Tensor
    t_scores: Tensor
    soft: Tensor | None = None

    @property
    def of_class(self) -> Tensor:
        """Soft targets where there are any, otherwise class indices."""
        return self.classes if self.soft is None else self.soft

    @property
    def with_t(self) -> Tensor:
        """(N,) True where a T-score is known."""
        return torch.isfinite(self.t_scores)


class Head(nn.Module):
    """Base of the heads. `outputs`: the width of the network's last layer.

    reading: name in `network.READINGS` with which a network of this head can be packed for Slicer, None if it can't.
    """

    outputs: int
    reading: str | None
    tau1_train: float

    def __init__(self, outputs: int, reading: str | None, tau1_train: float, balanced_sampling: bool) -> None:
        super().__init__()
        self.outputs = outputs
        self.reading = reading
        self.tau1_train = tau1_train + (1.0 if balanced_sampling else 0.0)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """To be told before each epoch, and before reading logits of that epoch's weights."""

    def check(self, t_scores: Tensor) -> None:
        """Raise InputRefused if the training set, (n,) T-scores, lacks what this head learns from."""

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Mean loss of a batch; outputs (N, self.outputs)."""
        raise NotImplementedError

    def to_logits(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class logits (N, 3), and predicted T-scores (N,) or None."""
        raise NotImplementedError

    def bias_offset(self) -> Tensor | None:
        """(outputs,) to be added to the last layer's bias in an export, or None."""
        return None


class ClassHead(Head):
    """Three logits, trained with one of the class losses."""

    def __init__(self, settings: HeadSettings, class_counts: tuple[int, ...], balanced_sampling: bool) -> None:
        class_loss = class_losses.build(settings.loss, class_counts)
        super().__init__(len(class_counts), class_loss.head, class_loss.tau1_train, balanced_sampling)
        self.class_loss = class_loss

    def start_epoch(self, epoch: int, epochs: int) -> None:
        self.class_loss.start_epoch(epoch, epochs)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        value: Tensor = self.class_loss(outputs.float(), targets.of_class)
        return value

    def to_logits(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.class_loss.to_logits(outputs.float()), None

    def bias_offset(self) -> Tensor | None:
        return self.class_loss.fixed_offset()


class CornHead(Head):
    """Two conditional yes/no tasks in the classes' order: below normal? and, of those, osteoporosis?

    Source: Shi, Cao and Raschka 2023, "Deep neural networks for rank-consistent ordinal regression based on
    conditional probabilities", Eq. 6: the tasks' summed cross-entropies over the number of their cases.
    """

    def __init__(self, settings: HeadSettings, class_counts: tuple[int, ...], balanced_sampling: bool) -> None:
        super().__init__(READINGS["corn"][0], "corn", 0.0, balanced_sampling)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        # The tasks' cross-entropies of a case add up to −log p of its class, for probabilities as well.
        probabilities = targets.soft if targets.soft is not None else F.one_hot(targets.classes, 3)
        answers = len(outputs) + probabilities[:, 1:].sum()  # everyone has the first task, those below normal both
        return expected(-corn_log_posterior(outputs.float()), targets.of_class) * len(outputs) / answers

    def to_logits(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return corn_log_posterior(outputs.float()), None


class HeteroscedasticHead(Head):
    """Mean and log-variance of the T-score; classes are the normal distribution's parts between −1 and −2.5.

    Loss: the normal's negative log-likelihood of T (Nix and Weigend 1994). A case of which only the class is known
    counts with the probability of its interval, as in regression with censored values (Tobin 1958). The mean is
    that of the cases as they are sampled: class-balanced sampling draws it towards low T.
    """

    def __init__(self, settings: HeadSettings, class_counts: tuple[int, ...], balanced_sampling: bool) -> None:
        super().__init__(READINGS["heteroscedastic"][0], "heteroscedastic", 0.0, balanced_sampling)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        outputs = outputs.float()
        known = targets.with_t
        total = outputs.sum() * 0.0
        if known.any():
            mean, log_variance = outputs[known].unbind(dim=1)
            log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
            squares = (targets.t_scores[known] - mean) ** 2
            total = total + 0.5 * (log_variance + squares * torch.exp(-log_variance)).sum()
        if not known.all():
            log_p = normal_log_posterior(outputs[~known])
            total = total + expected(-log_p, targets.of_class[~known]) * len(log_p)
        return total / len(outputs)

    def to_logits(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return normal_log_posterior(outputs.float()), outputs[:, 0].float()


class JointHead(Head):
    """JointViT's supervision: three logits and a T-score from one last layer (two heads on the same token).

    Loss: w·CE with the batch's own inverse class frequencies + (1 − w)·MSE of T where it is known; w = 0.5 is our
    choice. Batches that lack a class, as small ones do, make "class-balanced" approximate.
    """

    def __init__(self, settings: HeadSettings, class_counts: tuple[int, ...], balanced_sampling: bool) -> None:
        super().__init__(READINGS["joint"][0], "joint", 1.0, False)  # a batch is balanced whatever was sampled
        if not 0.0 < settings.class_share < 1.0:
            raise UsageError(
                "class_share_range",
                f"The joint head's class share must lie between 0 and 1, got {settings.class_share:g}.",
                "The default is 0.5.",
            )
        self.share = settings.class_share

    def check(self, t_scores: Tensor) -> None:
        if not torch.isfinite(t_scores).any():
            raise InputRefused(
                "no_t_scores",
                "The joint head learns from T-scores, and no training case has one.",
                "Add a T-score column to the labels, or take the head 'classes' or 'corn'.",
            )

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        outputs = outputs.float()
        shares = F.one_hot(targets.classes, 3).float() if targets.soft is None else targets.soft
        weights = inverse_frequency_weights(shares.sum(dim=0).clamp_min(1e-6))
        value = self.share * expected(-F.log_softmax(outputs[:, :3], dim=1) * weights, targets.of_class)
        known = targets.with_t
        if known.any():
            value = value + (1.0 - self.share) * F.mse_loss(outputs[known, 3], targets.t_scores[known])
        return value

    def to_logits(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return first_three(outputs).float(), outputs[:, 3].float()


HEADS: Mapping[str, Callable[[HeadSettings, tuple[int, ...], bool], Head]] = {
    "classes": ClassHead,
    "corn": CornHead,
    "heteroscedastic": HeteroscedasticHead,
    "joint": JointHead,
}


def build(settings: HeadSettings, class_counts: tuple[int, ...], balanced_sampling: bool = False) -> Head:
    """The head of that name. Raises UsageError for an unknown one, InputRefused if a class has no training case.

    class_counts: training cases of normal, osteopenia, osteoporosis, before resampling. balanced_sampling: whether the
    training draws every class equally often (`sampling.is_balanced`).
    """
    if settings.name not in HEADS:
        raise UsageError("unknown_head", f"There is no head '{settings.name}'.", f"Choose one of: {', '.join(HEADS)}.")
    if min(class_counts) <= 0:
        raise InputRefused(
            "class_without_cases",
            f"The training set has {class_counts} cases of normal, osteopenia, osteoporosis.",
            "Every class needs at least one training case.",
        )
    return HEADS[settings.name](settings, class_counts, balanced_sampling)
