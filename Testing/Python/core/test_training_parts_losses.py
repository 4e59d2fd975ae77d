"""Losses and heads against numpy, scipy, and the definition itself: a trained optimum read back as the posterior."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special, stats

from medconv import network, tscore
from medconv.training.parts import class_losses, heads, loss
from medconv.training.parts.class_losses import LossSettings
from medconv.training.parts.heads import HeadSettings, Targets
from medconv.types import InputRefused, UsageError

COUNTS = (181, 110, 20)
PRIOR = np.array(COUNTS) / sum(COUNTS)
RNG = np.random.default_rng(3)
Z = RNG.normal(0.0, 2.0, (12, 3))
CLASSES = RNG.integers(0, 3, 12)
SOFT = RNG.dirichlet((1.0, 1.0, 1.0), 12)
WEIGHTS = np.array([0.4, 0.7, 3.0])
MARGINS = np.array([0.5, 0.8, 2.0])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def one_case(name: str, z: np.ndarray, y: int) -> float:
    """The loss of one case of class y, written from the publication, without torch."""
    if name == "weighted":
        return -WEIGHTS[y] * math.log(softmax(z)[y])
    if name == "binary":
        yes = np.eye(3)[y]
        return -WEIGHTS[y] * float(np.sum(yes * np.log(sigmoid(z)) + (1 - yes) * np.log(1 - sigmoid(z))))
    if name == "ldam":
        rivals = sum(math.exp(1.5 * z[j]) for j in range(3) if j != y)
        own = math.exp(1.5 * (z[y] - MARGINS[y]))
        return -WEIGHTS[y] * math.log(own / (own + rivals))
    p = softmax(z)[y]
    return -((1.0 - p) ** 2.0) * math.log(p)


FUNCTIONS = {
    "weighted": lambda z, t: loss.weighted_cross_entropy(z, t, torch.tensor(WEIGHTS)),
    "binary": lambda z, t: loss.balanced_binary_cross_entropy(z, t, torch.tensor(WEIGHTS)),
    "ldam": lambda z, t: loss.ldam(z, t, torch.tensor(MARGINS), torch.tensor(WEIGHTS), 1.5),
    "focal": lambda z, t: loss.focal(z, t, 2.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_loss_equals_its_publication_for_classes_and_for_probabilities(name: str) -> None:
    z = torch.tensor(Z)
    by_hand = np.mean([one_case(name, row, y) for row, y in zip(Z, CLASSES, strict=True)])
    assert float(FUNCTIONS[name](z, torch.tensor(CLASSES))) == pytest.approx(by_hand, rel=1e-12)
    expected = np.mean([sum(s[y] * one_case(name, row, y) for y in range(3)) for row, s in zip(Z, SOFT, strict=True)])
    assert float(FUNCTIONS[name](z, torch.tensor(SOFT))) == pytest.approx(expected, rel=1e-12)


def test_the_examples_in_the_docstrings_are_right() -> None:
    assert doctest.testmod(loss).attempted >= 10
    assert doctest.testmod(loss).failed == 0


def test_focal_without_gamma_and_ldam_without_margin_are_cross_entropy() -> None:
    z, y = torch.tensor(Z), torch.tensor(CLASSES)
    plain = float(F.cross_entropy(z, y))
    assert float(loss.focal(z, y, 0.0)) == pytest.approx(plain, rel=1e-12)
    assert float(loss.ldam(z, y, torch.zeros(3))) == pytest.approx(plain, rel=1e-12)


def test_weights_lie_between_equal_and_inverse_frequency() -> None:
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    torch.testing.assert_close(loss.effective_number_weights(counts, 0.0), torch.ones(3, dtype=torch.float64))
    nearly = loss.effective_number_weights(counts, 1.0 - 1e-9)
    inverse = loss.inverse_frequency_weights(counts)
    torch.testing.assert_close(nearly / nearly[0], inverse / inverse[0], rtol=1e-5, atol=0)
    assert float((inverse * counts).sum() / counts.sum()) == pytest.approx(1.0)
    # By hand, β = 0.99: 0.99^181 = 0.162158, 0.99^110 = 0.331033, 0.99^20 = 0.817907; (1 − β)/(1 − β^n) is 0.0119354,
    # 0.0149484, 0.0549170, and scaled to sum to 3:
    assert loss.effective_number_weights(counts, 0.99).tolist() == pytest.approx([0.43773, 0.54823, 2.01404], rel=1e-4)


# --- one meaning of logits: what the least expected loss says, read back ---------------------------------------------


def minimum(head: heads.Head, posterior: np.ndarray) -> torch.Tensor:
    """Outputs with the least loss when every row's class is distributed as `posterior`, by Newton-like descent."""
    outputs = torch.zeros(len(posterior), head.outputs, requires_grad=True)
    outputs.data[:, 0] = -1.5 if head.reading == "heteroscedastic" else 0.0
    known = Targets(torch.zeros(len(posterior), dtype=torch.int64), torch.full((len(posterior),), torch.nan),
                    torch.tensor(posterior, dtype=torch.float32))  # fmt: skip
    descent = torch.optim.LBFGS([outputs], max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12,
                                line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> torch.Tensor:
        descent.zero_grad()
        value = head.loss(outputs, known) * len(posterior)
        value.backward()
        return value

    for _ in range(3):
        descent.step(closure)
    return outputs.detach()


# Posteriors whose mean is the prior, as those of a whole training set.
FAR = np.array([[0.06, 0.02, -0.08], [-0.2, 0.15, 0.05], [0.3, -0.25, -0.05]]) * 0.8
POSTERIORS = np.concatenate([PRIOR + FAR, PRIOR - FAR])
POSTERIORS = np.where(POSTERIORS < 0.01, 0.01, POSTERIORS)
POSTERIORS /= POSTERIORS.sum(axis=1, keepdims=True)
CASES = [("classes", name, epoch) for name in class_losses.LOSSES for epoch in (0, 9)] + [
    ("corn", "ce", 0), ("heteroscedastic", "ce", 0),
]  # fmt: skip


@pytest.mark.parametrize("balanced", [False, True], ids=["natural", "balanced sampling"])
@pytest.mark.parametrize(("name", "loss_name", "epoch"), CASES)
def test_logits_plus_tau1_log_prior_are_the_training_populations_log_posterior(
    name: str, loss_name: str, epoch: int, balanced: bool
) -> None:
    settings = HeadSettings(name, LossSettings(loss_name, tau1=0.7, beta=0.99, largest_margin=1.5))
    head = heads.build(settings, COUNTS, balanced)
    head.start_epoch(epoch, 10)
    seen = POSTERIORS / PRIOR if balanced else POSTERIORS  # what a class-balanced sample would show
    seen = seen / seen.sum(axis=1, keepdims=True)
    if name == "heteroscedastic":  # only a normal's parts can be had
        mean, sd = np.array([-2.9, -1.7, -0.4]), np.array([0.6, 1.1, 0.8])
        cut = stats.norm.cdf((np.array([[-1.0], [-2.5]]) - mean) / sd)
        seen = np.stack([1 - cut[0], cut[0] - cut[1], cut[1]], axis=1)
    wanted = np.log(seen * PRIOR) if balanced else np.log(seen)
    logits, _ = head.to_logits(minimum(head, seen))
    read = logits.numpy().astype(np.float64) + head.tau1_train * np.log(PRIOR)
    np.testing.assert_allclose(softmax(read), softmax(wanted), atol=2e-3)


def test_the_joint_heads_logits_are_class_balanced() -> None:
    head = heads.build(HeadSettings("joint"), COUNTS)
    own = POSTERIORS.mean(axis=0)  # the head weighs by the batch's own frequencies
    logits, _ = head.to_logits(minimum(head, POSTERIORS))
    assert head.tau1_train == 1.0
    np.testing.assert_allclose(softmax(logits.numpy() + np.log(own)), POSTERIORS, atol=2e-3)


def test_an_offset_that_an_export_adds_to_the_bias_gives_the_same_logits() -> None:
    head = heads.build(HeadSettings("classes", LossSettings("class_balanced", beta=0.98)), COUNTS)
    outputs = torch.tensor(Z, dtype=torch.float32)
    torch.testing.assert_close(outputs + head.bias_offset(), head.to_logits(outputs)[0])
    assert head.bias_offset().abs().max() > 0.1


@pytest.mark.parametrize("name", ["focal", "ldam_drw"])
def test_what_slicer_could_not_read_says_so(name: str) -> None:
    assert heads.build(HeadSettings("classes", LossSettings(name)), COUNTS).reading is None


@pytest.mark.parametrize("name", [*heads.HEADS, "one_vs_rest"])
def test_a_packed_network_reads_its_outputs_as_the_head_does(name: str) -> None:
    paper = name == "one_vs_rest"
    settings = HeadSettings("classes" if paper else name, LossSettings("balce_paper" if paper else "ce"))
    head = heads.build(settings, COUNTS)
    assert head.reading == name
    count, reading = network.READINGS[name]
    assert count == head.outputs
    outputs = torch.tensor(RNG.normal(size=(5, count)), dtype=torch.float32)
    read = outputs if reading is None else reading(outputs)
    torch.testing.assert_close(read, head.to_logits(outputs)[0])


# --- CORN ------------------------------------------------------------------------------------------------------------


def test_corn_is_the_mean_over_both_tasks_and_their_cases() -> None:
    outputs = RNG.normal(size=(12, 2))
    total, answers = 0.0, 0
    for task in range(2):  # task k asks, of those in class k or beyond, whether they are beyond k
        for row, y in zip(outputs, CLASSES, strict=True):
            if y >= task:
                p = sigmoid(row[task])
                total -= math.log(p if y > task else 1.0 - p)
                answers += 1
    head = heads.build(HeadSettings("corn"), COUNTS)
    known = Targets(torch.tensor(CLASSES), torch.full((12,), torch.nan))
    assert float(head.loss(torch.tensor(outputs), known)) == pytest.approx(total / answers, rel=1e-5)
    p = np.exp(network.corn_log_posterior(torch.tensor(outputs)).numpy())
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_allclose(p[:, 2], sigmoid(outputs[:, 0]) * sigmoid(outputs[:, 1]))


# --- mean and variance of T ------------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_who() -> None:
    assert (network.OSTEOPENIA_BELOW, network.OSTEOPOROSIS_UP_TO) == (tscore.NORMAL_FROM, tscore.OSTEOPOROSIS_UP_TO)


def test_class_probabilities_are_the_normals_parts() -> None:
    mean, log_variance = RNG.uniform(-4, 2, 200), RNG.uniform(-2, 2, 200)
    log_p = network.normal_log_posterior(torch.tensor(np.stack([mean, log_variance], axis=1))).numpy()
    normal = stats.norm(mean, np.exp(log_variance / 2))
    wanted = np.stack([normal.sf(-1.0), normal.cdf(-1.0) - normal.cdf(-2.5), normal.cdf(-2.5)], axis=1)
    np.testing.assert_allclose(np.exp(log_p), wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("mean", "nearest"), [(60.0, -1.0), (-60.0, -2.5)])
def test_far_out_in_the_tails_log_probabilities_and_gradients_stay_finite(mean: float, nearest: float) -> None:
    outputs = torch.tensor([[mean, 0.0]], dtype=torch.float64, requires_grad=True)
    log_p = network.normal_log_posterior(outputs)
    # Beyond 50 spreads the interval's probability is that of its near end: the far end adds nothing.
    assert float(log_p[0, 1].detach()) == pytest.approx(special.log_ndtr(-abs(nearest - mean)), rel=1e-9)
    log_p.sum().backward()
    assert torch.isfinite(outputs.grad).all()
    narrow = torch.tensor([[3000.0, -40.0], [-3000.0, 90.0]], requires_grad=True)
    network.normal_log_posterior(narrow).sum().backward()
    assert torch.isfinite(narrow.grad).all()


def test_known_t_scores_count_as_a_normals_likelihood_and_mere_classes_as_their_interval() -> None:
    head = heads.build(HeadSettings("heteroscedastic"), COUNTS)
    outputs = torch.tensor(RNG.normal(size=(4, 2)), dtype=torch.float32)
    t = torch.tensor([-3.0, -1.2, 0.4, -2.0])
    known = Targets(torch.tensor([2, 1, 0, 1]), t)
    wanted = F.gaussian_nll_loss(outputs[:, 0], t, outputs[:, 1].exp())
    assert float(head.loss(outputs, known)) == pytest.approx(float(wanted), rel=1e-5)
    without = Targets(known.classes, torch.tensor([-3.0, torch.nan, 0.4, torch.nan]))
    log_p = network.normal_log_posterior(outputs)
    two = F.gaussian_nll_loss(outputs[::2, 0], t[::2], outputs[::2, 1].exp(), reduction="sum")
    mixed = (two - log_p[1, 1] - log_p[3, 1]) / 4
    assert float(head.loss(outputs, without)) == pytest.approx(float(mixed), rel=1e-5)
    assert head.to_logits(outputs)[1].tolist() == pytest.approx(outputs[:, 0].tolist())


# --- JointViT's head -------------------------------------------------------------------------------------------------


def test_the_joint_loss_by_hand_with_one_t_score_missing() -> None:
    head = heads.build(HeadSettings("joint", class_share=0.6), COUNTS)
    outputs = torch.tensor(RNG.normal(size=(4, 4)), dtype=torch.float32)
    known = Targets(torch.tensor([0, 0, 1, 2]), torch.tensor([0.5, torch.nan, -1.5, -3.0]))
    weights = np.array([4 / (3 * 2), 4 / (3 * 2), 4 / 3, 4 / 3])  # two normal, one of each other
    p = softmax(outputs[:, :3].numpy())[np.arange(4), known.classes.numpy()]
    squares = (outputs[[0, 2, 3], 3].numpy() - np.array([0.5, -1.5, -3.0])) ** 2
    wanted = 0.6 * np.mean(-weights * np.log(p)) + 0.4 * squares.mean()
    assert float(head.loss(outputs, known)) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(InputRefused, match="no training case has one"):
        head.check(torch.full((5,), torch.nan))
    head.check(known.t_scores)


def test_unknown_names_and_empty_classes_are_told() -> None:
    with pytest.raises(UsageError, match="no head 'softmax'"):
        heads.build(HeadSettings("softmax"), COUNTS)
    with pytest.raises(UsageError, match="no loss 'hinge'"):
        heads.build(HeadSettings("classes", LossSettings("hinge")), COUNTS)
    with pytest.raises(InputRefused, match="training set has"):
        heads.build(HeadSettings("corn"), (10, 0, 3))
    with pytest.raises(UsageError, match="between 0 and 1"):
        heads.build(HeadSettings("joint", class_share=1.0), COUNTS)
