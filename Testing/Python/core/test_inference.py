"""Devices: the choice, and what happens when a GPU's memory is full, shown with a network that says it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medconv import inference
from medconv.config import Architecture
from medconv.devices import choose_device
from medconv.inference import LoadedModel
from medconv.types import InputRefused, MissingRequirement, UsageError

CROP = np.random.default_rng(0).random((1, 32, 32, 32), np.float32)


@pytest.fixture
def model(only_untrained):
    return LoadedModel.load("untrained", "cpu")


def test_logits_are_the_networks_own(model):
    logits, notes = model.run(CROP)
    with torch.inference_mode():
        expected = model._network(torch.from_numpy(CROP)[None])[0].numpy()
    assert list(logits) == list(model.card.class_order)
    assert np.array_equal(np.array(list(logits.values()), np.float32), expected)
    assert notes == []


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_fastest_device_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == expected


def test_a_device_that_is_not_there_is_said_not_replaced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingRequirement) as caught:
        choose_device("cuda")
    assert caught.value.code == "device_missing"
    with pytest.raises(UsageError):
        choose_device("tpu")


def test_missing_torch_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(inference.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingRequirement, match="PyTorch") as caught:
        LoadedModel.load("untrained")
    assert caught.value.code == "torch_missing"


class FullOnGpu(torch.nn.Module):
    """Raises CUDA's out-of-memory error until it is moved to the CPU."""

    moved = False

    def to(self, device):
        if device == "cpu":
            self.moved = True
        return self

    def forward(self, x):
        if not self.moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor([[1.0, 2.0, 3.0]])


def test_a_full_gpu_hands_over_to_the_cpu_with_a_notice(model, monkeypatch):
    full = LoadedModel(model.card, FullOnGpu(), "meta-gpu")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: self)
    logits, notes = full.run(CROP)
    assert list(logits.values()) == [1.0, 2.0, 3.0]
    assert [n.code for n in notes] == ["gpu_memory_full"]
    assert full.device == "cpu"
    assert full.run(CROP)[1] == []


def test_an_output_that_is_no_number_is_refused(model):
    class Nan(torch.nn.Module):
        def forward(self, x):
            return torch.full((1, 3), float("nan"))

    with pytest.raises(InputRefused) as caught:
        LoadedModel(model.card, Nan()).run(CROP)
    assert caught.value.code == "network_gave_no_number"


def test_a_slim_network_runs_on_one_thread_and_gives_the_others_back(model):
    seen = []

    class Counts(torch.nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return torch.zeros(1, 3)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        LoadedModel(model.card, Counts()).run(CROP)
        wide = replace(model.card, architecture=Architecture(width=64))
        LoadedModel(wide, Counts()).run(CROP)
        assert seen == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
