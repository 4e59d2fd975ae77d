"""Devices, full memory, failing runtimes: what `LoadedModel` answers and says, shown with networks that fail."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medconv import cli, inference, runtimes
from medconv.config import Architecture, Preprocessing
from medconv.devices import choose_device
from medconv.inference import LoadedModel
from medconv.runtimes import choice, memory, threads, trial
from medconv.runtimes.engine import Engine
from medconv.runtimes.runtime import CannotRun, Runtime, Subject
from medconv.types import InputRefused, MissingRequirement, UsageError
from medconv.weights import find_model, load_network

CROP = np.random.default_rng(0).random((1, 32, 32, 32), np.float32)
CROPS = np.stack([CROP * level for level in (1.0, 0.8, 0.6, 0.4, 0.2)])
SHAPE = (1, 32, 32, 32)


@pytest.fixture
def model(only_untrained):
    return LoadedModel.load("untrained", "cpu")


def test_logits_are_the_networks_own(model):
    logits, notes = model.run(CROP)
    with torch.inference_mode():
        expected = load_network(*find_model("untrained"))(torch.from_numpy(CROP)[None])[0].numpy()
    assert list(logits) == list(model.card.class_order)
    assert np.array_equal(np.array(list(logits.values()), np.float32), expected)
    assert notes == []


def test_a_slim_network_runs_by_the_reference_without_a_measurement(only_untrained, monkeypatch):
    monkeypatch.setattr(choice, "measure", lambda *args: pytest.fail("measured"))
    model = LoadedModel.load("untrained", "cpu", "auto")
    model.warm_up()
    assert (model.device, model.runtime) == ("cpu", "eager")


@pytest.mark.parametrize("name", ["openvino", "onednn"])
def test_a_named_runtime_answers_as_the_reference(only_untrained, model, name):
    if name not in runtimes.available("cpu"):
        pytest.skip(f"{name} is not installed")
    named = LoadedModel.load("untrained", "cpu", name)
    logits, notes = named.run_batch(CROPS)
    assert (named.runtime, notes) == (name, [])
    np.testing.assert_allclose(logits, model.run_batch(CROPS)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_fastest_device_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == expected


def test_a_device_that_is_not_there_is_said_not_replaced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for wanted in ("cuda", "cuda:0"):
        with pytest.raises(MissingRequirement) as caught:
            choose_device(wanted)
        assert caught.value.code == "device_missing"
    for wanted in ("tpu", "cuda:", "cuda:x", "cpu:1"):
        with pytest.raises(UsageError):
            choose_device(wanted)


def test_one_of_several_gpus_is_taken_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(MissingRequirement, match="cuda:2"):
        choose_device("cuda:2")


def test_training_makes_the_numbered_gpu_the_current_one(monkeypatch):
    from medconv.training.runs import precision
    from medconv.training.runs.run_settings import RunSettings

    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert precision.choose(RunSettings(amp="bf16"), "cuda:1") == "cuda"
    assert current == ["cuda:1"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a GPU of its own"):
        precision.choose(RunSettings(), "cuda:1")


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{}/ct.nii.gz", "--mask", "{}/mask.nii.gz", "--out", "{}/out"],
        ["batch", "{}", "--out", "{}/out"],
        ["train", "{}", "--out", "{}/out"],
        ["evaluate", "{}", "{}"],
        ["reproduce", "table3", "{}", "--out", "{}/out"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_the_same_devices_and_says_which(command, tmp_path, capsys):
    given = [argument.format(tmp_path) for argument in command]
    assert cli.main([*given, "--device", "tpu"]) == UsageError.exit_code
    assert "There is no device 'tpu'. Choose one of: auto, cpu, cuda, mps, cuda:N." in capsys.readouterr().err
    for device in ("cuda:1", "mps"):
        assert cli.main([*given, "--device", device]) != 0
        assert "There is no device" not in capsys.readouterr().err


def test_missing_torch_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(inference.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingRequirement, match="PyTorch") as caught:
        LoadedModel.load("untrained")
    assert caught.value.code == "torch_missing"


def test_an_unknown_runtime_is_refused_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(inference, "find_model", lambda name: pytest.fail("weights were looked for"))
    with pytest.raises(UsageError) as caught:
        LoadedModel.load(None, "cpu", "warp")
    assert caught.value.code == "unknown_runtime"


class FullOnGpu(torch.nn.Module):
    """Raises CUDA's out-of-memory error for more than `room` crops until it is moved to the CPU."""

    def __init__(self, room=0):
        super().__init__()
        self.room, self.moved, self.passes = room, False, []

    def to(self, device):
        self.moved = device == "cpu"
        return self

    def forward(self, x):
        self.passes.append(len(x))
        if not self.moved and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean(dim=(2, 3, 4)).repeat(1, 3)


@pytest.fixture
def tensors_stay(monkeypatch):
    """No GPU here: tensors are not moved to the made-up one."""
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: self)


def test_a_full_gpu_hands_over_to_the_cpu_with_a_notice(model, tensors_stay):
    full = LoadedModel(model.card, FullOnGpu(), "meta-gpu")
    logits, notes = full.run(CROP)
    assert list(logits.values()) == pytest.approx([CROP.mean()] * 3)
    assert [n.code for n in notes] == ["gpu_memory_full"]
    assert full.device == "cpu"
    assert full.run(CROP)[1] == []


def test_a_gpu_that_can_not_hold_the_weights_leaves_them_on_the_cpu(model, monkeypatch):
    class TooLarge(Constant):
        def to(self, device):
            if device != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self

    loaded = LoadedModel(model.card, TooLarge(), "cuda:1")
    logits, notes = loaded.run(CROP)
    assert (list(logits.values()), loaded.device) == ([1.0, 2.0, 3.0], "cpu")
    assert [n.code for n in notes] == ["gpu_memory_full"]
    assert "'cuda:1'" in notes[0].message


def test_a_gpu_that_holds_two_crops_gets_them_in_twos(model, tensors_stay):
    network = FullOnGpu(room=2)
    holds_two = LoadedModel(model.card, network, "meta-gpu")
    logits, notes = holds_two.run_batch(CROPS)
    assert network.passes == [5, 2, 2, 1]
    assert logits[:, 0] == pytest.approx(CROPS.mean(axis=(1, 2, 3, 4)))
    assert (holds_two.device, notes) == ("meta-gpu", [])
    holds_two.run_batch(CROPS)
    assert network.passes[4:] == [2, 2, 1], "it need not fail again to be known"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_a_full_computer_gets_smaller_passes_down_to_one(model, error):
    passes = []

    class Full(torch.nn.Module):
        def forward(self, x):
            passes.append(len(x))
            if len(x) > 1:
                raise error
            return torch.zeros(len(x), 3)

    loaded = LoadedModel(model.card, Full())
    assert loaded.run_batch(CROPS)[0].shape == (5, 3)
    assert passes == [5, 2, 1, 1, 1, 1, 1]


def test_a_computer_without_memory_for_one_crop_says_so(model):
    class Full(torch.nn.Module):
        def forward(self, x):
            raise MemoryError

    with pytest.raises(MemoryError, match="one crop"):
        LoadedModel(model.card, Full()).run(CROP)


def test_the_split_of_a_batch_moves_no_logit_beyond_rounding(model, monkeypatch):
    whole, _ = model.run_batch(CROPS)
    for crops_at_once in (1, 2, 3):
        monkeypatch.setattr(memory, "crops_at_once", lambda *args, n=crops_at_once: n)
        split, _ = LoadedModel.load("untrained", "cpu").run_batch(CROPS)
        np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)


def test_a_pass_is_as_large_as_its_estimate_allows():
    full_width = Architecture()
    at_64, at_96 = ((1, n, n, n) for n in (64, 96))
    # By hand: 64 channels, 64³ voxels: 2·64/8 + 39·64/64 + 1 = 56 floats a voxel = 58.7 MB; nine fit into 512 MiB.
    assert memory.bytes_of_crop(full_width, at_64) == 56 * 64**3 * 4
    assert memory.crops_at_once(full_width, at_64) == 9
    assert memory.crops_at_once(full_width, at_96) == 2
    assert memory.crops_at_once(full_width, (1, 400, 400, 400)) == 1
    assert memory.crops_at_once(Architecture(width=4), SHAPE) == memory.AT_MOST


def subject_of(network, device="cpu"):
    return Subject(Architecture(width=4), network, device, SHAPE)


class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.tensor([[1.0, 2.0, 3.0]]).repeat(len(x), 1)


def runtime_that(answer):
    return Runtime("onednn", subject_of(Constant()), answer)


def raises(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raises(ValueError("no such operator")), "ValueError"),
        (lambda x: torch.full((1, 3), torch.inf), "no number"),
    ],
)
def test_a_runtime_that_fails_later_is_replaced_with_a_note(answer, reason):
    engine = Engine(subject_of(Constant()), runtime_that(answer))
    logits, notes = engine(CROP[None])
    assert logits.tolist() == [[1.0, 2.0, 3.0]]
    assert [(n.code, str(n.severity)) for n in notes] == [("runtime_failed", "info")]
    assert "'onednn'" in notes[0].message
    assert reason in notes[0].message
    assert engine.name == "eager"
    assert engine(CROP[None])[1] == notes, "a later case rests on the reference as well"


def test_crops_that_a_runtime_was_not_opened_for_go_to_the_reference_without_a_word():
    answers = iter([raises(CannotRun("opened for other crops")), lambda x: torch.zeros(1, 3)])
    engine = Engine(subject_of(Constant()), runtime_that(lambda x: next(answers)(x)))
    assert (engine(CROP[None])[0].tolist(), engine.name) == ([[1.0, 2.0, 3.0]], "eager")
    assert (engine(CROP[None])[0].tolist(), engine.name) == ([[0.0, 0.0, 0.0]], "onednn")


def test_an_output_that_is_no_number_is_refused(model):
    class Nan(torch.nn.Module):
        def forward(self, x):
            return torch.full((1, 3), float("nan"))

    with pytest.raises(InputRefused) as caught:
        LoadedModel(model.card, Nan()).run(CROP)
    assert caught.value.code == "network_gave_no_number"


# Each has a ReLU of its own, or one place for its input.
OWN_CODE = [name for name in runtimes.available("cpu") if name not in ("eager", "compiled")]


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_crop_with_nan_gets_no_class_from_any_runtime(only_untrained, name):
    loaded = LoadedModel.load("untrained", "cpu", name)
    damaged = CROPS.copy()
    damaged[3, 0, 16, 16, 16] = np.nan
    with pytest.raises(InputRefused) as caught:
        loaded.run_batch(damaged)
    assert caught.value.code == "network_gave_no_number"
    assert loaded.run(CROP)[1] == [], "the runtime is not to blame"
    assert loaded.runtime == name


@pytest.mark.parametrize("name", ["eager", *OWN_CODE])
def test_several_threads_get_their_own_crops_answers(only_untrained, name):
    loaded = LoadedModel.load("untrained", "cpu", name)
    alone = [loaded.run_batch(crop[None])[0] for crop in CROPS]
    errors, together = [], threading.Barrier(len(CROPS))

    def ask(which):
        together.wait()
        for _ in range(10):
            errors.append(trial.largest_error(loaded.run_batch(CROPS[which][None])[0], alone[which]))

    asking = [threading.Thread(target=ask, args=(which,)) for which in range(len(CROPS))]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(errors) == 10 * len(CROPS)
    assert max(errors) < (trial.HALF_TOLERANCE if name in runtimes.HALF_PRECISION else trial.TOLERANCE)
    assert loaded.runtime == name


def test_a_slim_network_runs_on_one_thread_and_gives_the_others_back(model, monkeypatch):
    monkeypatch.delenv(threads.VARIABLE, raising=False)
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


@pytest.mark.parametrize(
    ("own", "allowed", "environment", "expected"),
    [
        (1, 1, {}, 1),
        (2, 2, {}, 2),
        (4, 4, {}, 3),
        (64, 64, {}, 16),
        (64, 1, {}, 1),  # torch sees the host's processors, the container has the time of one
        (64, 4, {}, 3),
        (2, 4, {}, 2),  # two physical cores with two threads each
        (4, 4, {"OMP_NUM_THREADS": "4"}, 4),
        (4, 4, {"MEDCONV_THREADS": "7"}, 7),
        (4, 4, {"MEDCONV_THREADS": "many"}, 3),
        (4, 4, {"MEDCONV_THREADS": "0"}, 3),
    ],
)
def test_a_wide_network_leaves_a_core_where_there_are_more_than_two(monkeypatch, own, allowed, environment, expected):
    for name in ("OMP_NUM_THREADS", "MEDCONV_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: own)
    monkeypatch.setattr(threads, "cores", lambda: allowed)
    assert threads.thread_count(Architecture(width=64)) == expected
    slim = threads.thread_count(Architecture(width=16))
    assert slim == (7 if environment.get("MEDCONV_THREADS") == "7" else 1)


LIBRARIES = """
import os, sys
import numpy as np
import torch
from medconv import runtimes
from medconv.config import Architecture
from medconv.network import build_network

architecture, shape = Architecture("resnet18", width=17), (1, 16, 16, 16)
crop = np.zeros((1, *shape), np.float32)
for name in runtimes.available("cpu"):
    if name == "compiled":
        continue
    network = build_network(architecture).eval()
    runtime, seen = runtimes.open_runtime(name, architecture, network, "cpu", shape), []
    plain = runtime._answer
    runtime._answer = lambda crops: seen.append(torch.get_num_threads()) or plain(crops)
    runtime(crop)
    print(name, runtime.threads, *seen)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system ties no process to a processor")
@pytest.mark.parametrize("how", ["one processor", "MEDCONV_THREADS"])
def test_one_thread_where_one_is_allowed_whatever_the_runtime(how):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    environment["PYTHONPATH"] = str(Path(inference.__file__).parents[1])
    if how == "MEDCONV_THREADS":
        environment[how] = "1"
    one = min(os.sched_getaffinity(0))
    answer = subprocess.run(
        [sys.executable, "-c", LIBRARIES], env=environment, capture_output=True, text=True, timeout=120, check=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, {one})) if how == "one processor" else None,
    )  # fmt: skip
    told = [line.split() for line in answer.stdout.splitlines()]
    assert [name for name, *_ in told] == [name for name in runtimes.available("cpu") if name != "compiled"]
    assert {tuple(counts) for _, *counts in told} == {("1", "1")}


def test_three_equal_channels_are_one_with_the_stems_weights_summed(untrained_card_with):
    card = untrained_card_with(
        architecture=Architecture(width=4, in_channels=3), preprocessing=Preprocessing((32, 32, 32), 3.0, channels=3)
    )
    assert inference.input_shape(card) == (3, 32, 32, 32)
    torch.manual_seed(3)
    network = inference_network(card)
    named = LoadedModel(card, network, "cpu", "onednn")
    replicated = CROPS.repeat(3, axis=1)
    expected, _ = LoadedModel(card, network).run_batch(replicated)
    logits, notes = named.run_batch(replicated)
    assert (named.runtime, notes) == ("onednn", [])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)

    coloured = replicated.copy()
    coloured[:, 1] *= 0.5
    expected, _ = LoadedModel(card, network).run_batch(coloured)
    logits, notes = named.run_batch(coloured)
    assert (named.runtime, notes) == ("eager", [])
    assert np.array_equal(logits, expected), "channels that differ are the reference's"


def inference_network(card):
    from medconv.network import build_network

    return build_network(card.architecture).eval()


@pytest.fixture
def untrained_card_with(model):
    return lambda **changes: replace(model.card, **changes)
