"""Optimisers against torch's own, hand-worked steps and the schedulefree package; each goes on exactly after a kill."""

from __future__ import annotations

import io
import math
import sys

import pytest
import torch
from torch import nn

from medconv.training.parts import optimisers
from medconv.training.parts.optimisers import NAMES, OptimiserSettings, learning_rate_factor, make_optimiser
from medconv.types import MissingRequirement, UsageError

X = torch.linspace(-1.0, 1.0, 24).view(6, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def run(optimiser: optimisers.Optimiser, network: nn.Module, steps: int) -> list[float]:
    def closure() -> torch.Tensor:
        value = nn.functional.cross_entropy(network(X), Y)
        optimiser.backward(value)
        return value

    network.train()
    optimiser.train_mode()
    return [optimiser.step(closure) for _ in range(steps)]


def test_adamw_is_torchs_with_warm_up_and_half_a_cosine() -> None:
    ours, theirs = small_network(), small_network()
    settings = OptimiserSettings(learning_rate=0.01, weight_decay=0.1, warm_up_steps=3)
    losses = run(make_optimiser(settings, ours.parameters(), total_steps=10), ours, 10)
    adamw = torch.optim.AdamW(theirs.parameters(), weight_decay=0.1)
    factors = [1 / 3, 2 / 3, 1.0] + [0.5 * (1 + math.cos(math.pi * i / 7)) for i in range(7)]
    for step, factor in enumerate(factors):
        adamw.param_groups[0]["lr"] = 0.01 * factor
        value = nn.functional.cross_entropy(theirs(X), Y)
        assert losses[step] == pytest.approx(float(value.detach()), rel=1e-6)
        adamw.zero_grad()
        value.backward()
        adamw.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_learning_rate_rises_then_falls_as_half_a_cosine() -> None:
    assert [learning_rate_factor(s, 110, 10) for s in (0, 10, 60)] == pytest.approx([0.1, 1.0, 0.5])
    assert learning_rate_factor(110, 110, 10) == pytest.approx(0.0, abs=1e-12)


# --- SAM -------------------------------------------------------------------------------------------------------------


def test_sams_step_by_hand() -> None:
    # f(w) = w1² + 3·w2² at (3, 1): gradient (6, 6), uphill by 0.5/√72·(6, 6) = (0.353553, 0.353553) to (3.353553,
    # 1.353553), gradient there (6.707107, 8.121320).
    w = nn.Parameter(torch.tensor([3.0, 1.0], dtype=torch.float64))
    settings = OptimiserSettings("sam", learning_rate=0.1, weight_decay=0.0, warm_up_steps=0, sam_rho=0.5)
    optimiser = make_optimiser(settings, [w], total_steps=100)
    seen, places = [], []

    def closure() -> torch.Tensor:
        places.append(w.detach().clone())
        value = w[0] ** 2 + 3 * w[1] ** 2
        optimiser.backward(value)
        seen.append(w.grad.clone())
        return value

    assert optimiser.step(closure) == pytest.approx(12.0)
    assert places[1].tolist() == pytest.approx([3.353553, 1.353553], abs=1e-6)
    assert seen[1].tolist() == pytest.approx([6.707107, 8.121320], abs=1e-5)
    # Adam's first step has the learning rate's length along each axis, from where SAM started.
    assert w.tolist() == pytest.approx([2.9, 0.9], abs=1e-6)


def test_sam_prefers_the_gradient_of_the_worst_neighbour_and_leaves_batch_norm_alone() -> None:
    network, plain = small_network(), small_network()
    settings = OptimiserSettings("sam", warm_up_steps=0)
    run(make_optimiser(settings, network.parameters(), total_steps=9, network=network), network, 1)
    run(make_optimiser(OptimiserSettings(warm_up_steps=0), plain.parameters(), total_steps=9), plain, 1)
    assert torch.equal(network[1].running_mean, plain[1].running_mean)
    assert int(network[1].num_batches_tracked) == int(plain[1].num_batches_tracked) == 1
    assert network[1].momentum == 0.1


def test_sam_stands_still_where_the_loss_is_flat() -> None:
    w = nn.Parameter(torch.ones(2))
    optimiser = make_optimiser(OptimiserSettings("sam", weight_decay=0.0), [w], total_steps=5)

    def closure() -> torch.Tensor:
        value = (w * 0.0).sum()
        optimiser.backward(value)
        return value

    optimiser.step(closure)
    assert w.tolist() == [1.0, 1.0]


# --- schedule-free ---------------------------------------------------------------------------------------------------


def test_schedule_free_is_the_packages_and_evaluates_its_average() -> None:
    import schedulefree

    ours, theirs = small_network(), small_network()
    settings = OptimiserSettings("schedule_free", learning_rate=0.02, weight_decay=0.01, warm_up_steps=4)
    optimiser = make_optimiser(settings, ours.parameters(), total_steps=20)
    assert [optimiser.learning_rate, optimiser.needs_batch_norm_refresh] == [pytest.approx(0.005), True]
    run(optimiser, ours, 8)
    direct = schedulefree.AdamWScheduleFree(theirs.parameters(), lr=0.02, weight_decay=0.01, warmup_steps=4)
    direct.train()
    for _ in range(8):
        direct.zero_grad()
        nn.functional.cross_entropy(theirs(X), Y).backward()
        direct.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    training = ours[0].weight.detach().clone()
    optimiser.eval_mode()
    direct.eval()
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert not torch.allclose(ours[0].weight, training)
    optimiser.train_mode()
    torch.testing.assert_close(ours[0].weight.detach(), training)


def test_without_its_package_schedule_free_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(MissingRequirement) as told:
        make_optimiser(OptimiserSettings("schedule_free"), small_network().parameters(), total_steps=1)
    assert told.value.remedy.endswith('pip install "bonedensity-medconv[train]"')


# --- for all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_to_the_identical_weights(name: str) -> None:
    settings = OptimiserSettings(name, learning_rate=0.01, warm_up_steps=3, clip_norm=1.0)

    def epoch(optimiser: optimisers.Optimiser, network: nn.Module) -> None:
        run(optimiser, network, 4)
        optimiser.eval_mode()

    whole = small_network()
    optimiser = make_optimiser(settings, whole.parameters(), total_steps=8, network=whole)
    epoch(optimiser, whole)
    file = io.BytesIO()
    torch.save({"network": whole.state_dict(), "optimiser": optimiser.state_dict()}, file)
    epoch(optimiser, whole)

    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = small_network()
    again = make_optimiser(settings, resumed.parameters(), total_steps=8, network=resumed)
    resumed.load_state_dict(state["network"])
    again.load_state_dict(state["optimiser"])
    assert again.steps == 4
    epoch(again, resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=1))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_two_parts_gives_the_step_of_the_whole(name: str) -> None:
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        network = nn.Linear(4, 3).double()
        optimiser = make_optimiser(OptimiserSettings(name, 0.01), network.parameters(), total_steps=5)
        optimiser.train_mode()

        def closure(optimiser=optimiser, network=network, parts=parts) -> float:
            total = 0.0
            for x, y in zip(X.double().chunk(parts), Y.chunk(parts), strict=True):
                value = nn.functional.cross_entropy(network(x), y) / parts
                optimiser.backward(value)
                total += float(value.detach())
            return total

        found.append([optimiser.step(closure) for _ in range(3)] + network.weight.flatten().tolist())
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize("name", ["adamw", "sam"])
def test_an_overflow_of_half_precision_skips_the_step_and_lowers_the_scale(name: str) -> None:
    network, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    plain.load_state_dict(network.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = make_optimiser(OptimiserSettings(name), network.parameters(), total_steps=5, scaler=scaler)
    unscaled = make_optimiser(OptimiserSettings(name), plain.parameters(), total_steps=5)

    def closure(optimiser: optimisers.Optimiser, model: nn.Module, factor: float = 1.0) -> float:
        optimiser.backward(nn.functional.cross_entropy(model(X), Y) * factor)
        return 0.0

    scaled.step(lambda: closure(scaled, network, math.inf))
    assert torch.equal(network.weight, plain.weight)
    assert scaler.get_scale() == 512.0
    scaled.step(lambda: closure(scaled, network))
    unscaled.steps = 1  # at the same place of the schedule
    unscaled.step(lambda: closure(unscaled, plain))
    torch.testing.assert_close(network.weight, plain.weight, rtol=1e-5, atol=1e-7)


def test_clipping_shortens_the_gradient_to_its_length() -> None:
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimiser = make_optimiser(OptimiserSettings(clip_norm=1.0), [w], total_steps=5)
    lengths = []
    optimiser._base.register_step_pre_hook(lambda *_: lengths.append(float(w.grad.norm())))

    def closure() -> torch.Tensor:
        value = (w**2).sum()
        optimiser.backward(value)
        return value

    optimiser.step(closure)
    assert lengths == pytest.approx([1.0], rel=1e-5)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UsageError, match="no optimiser 'lion'"):
        make_optimiser(OptimiserSettings("lion"), [], total_steps=1)


# --- averages --------------------------------------------------------------------------------------------------------


def test_the_average_of_weights_by_hand_with_buffers_too() -> None:
    network = nn.BatchNorm1d(1)
    average = optimisers.weight_average(network, 0.9)
    for value in (1.0, 2.0, 4.0):
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(10 * value)
        average.update_parameters(network)
    # The first is taken whole; 0.9·1 + 0.1·2 = 1.1; 0.9·1.1 + 0.1·4 = 1.39.
    assert float(average.module.weight.detach()) == pytest.approx(1.39)
    assert float(average.module.running_mean) == pytest.approx(13.9)
    with pytest.raises(UsageError, match="between 0 and 1"):
        optimisers.weight_average(network, 1.0)


def test_batch_norm_is_gathered_anew() -> None:
    network = small_network()
    run(make_optimiser(OptimiserSettings(), network.parameters(), total_steps=5), network, 5)
    optimisers.refresh_batch_norm(network, [X[:3], X[3:]])
    hidden = network[0](X).detach()
    halves = torch.stack([hidden[:3].mean(dim=0), hidden[3:].mean(dim=0)])
    torch.testing.assert_close(network[1].running_mean, halves.mean(dim=0), rtol=1e-5, atol=1e-6)
