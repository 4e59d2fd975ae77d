"""Runtimes: each gives the reference's logits, for our networks of either kind, whatever the crop and the head.

The reference is the network itself in plain torch; single steps are held against float64 sums and hand-made matrices.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from contextlib import contextmanager, nullcontext
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medconv import runtimes
from medconv.config import Architecture
from medconv.network import READINGS, build_network
from medconv.runtimes import stem, torch_cuda, torch_eager, torch_onednn, trial, winograd
from medconv.runtimes.backbone import Backbone, FoldedConvolution
from medconv.runtimes.runtime import CannotRun, Subject
from medconv.types import MissingRequirement, UsageError

# torch.compile takes most of a minute; what it shares with the others is tested with them.
HERE = [name for name in runtimes.available("cpu") if name not in ("eager", "compiled")]
SLIM_TEXTURE = Architecture("resnet50", width=16, texture=True)
# Of the full width only what treats it differently, and OpenVINO: the others take long to open.
OPEN_QUICKLY = {"onednn", "bfloat16", "openvino"}
NETWORKS = {
    "resnet18, slim": (Architecture("resnet18", width=16), (1, 32, 36, 28)),
    "resnet18, full": (Architecture("resnet18", width=64), (1, 32, 40, 24)),
    "resnet50, slim, with texture": (SLIM_TEXTURE, (1, 36, 48, 40)),
    "resnet50, full": (Architecture("resnet50", width=64), (1, 33, 32, 30)),
}


def network_of(architecture: Architecture, seed: int = 0) -> torch.nn.Module:
    """Random weights with batch normalisations that do something, so that folding them wrongly shows."""
    torch.manual_seed(seed)
    network = build_network(architecture).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


def logits_of(network: torch.nn.Module, crops: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(crops)).double().numpy()


@lru_cache(maxsize=2)
def made(which: str):
    """A network of the table with trial crops and the reference's logits for them."""
    architecture, shape = NETWORKS[which]
    network = network_of(architecture)
    crops = trial.trial_crops(shape, 2)
    return architecture, network, shape, crops, logits_of(network, crops)


@pytest.mark.parametrize(
    ("which", "name"),
    [(which, name) for which in NETWORKS for name in HERE if "full" not in which or name in OPEN_QUICKLY],
)
def test_every_runtime_here_gives_the_references_logits(which, name):
    architecture, network, shape, crops, expected = made(which)
    runtime = runtimes.open_runtime(name, architecture, network, "cpu", shape)
    both, first = runtime(crops), runtime(crops[:1])
    assert both.dtype == np.float64
    assert runtime.name == name
    assert runtime.is_half == (name in runtimes.HALF_PRECISION)
    assert trial.is_correct(both, expected, runtime.is_half), trial.largest_error(both, expected)
    assert trial.is_correct(first, expected[:1], runtime.is_half), "the same crop alone"


@pytest.mark.parametrize("name", HERE)
def test_the_network_itself_is_left_as_it_was(name):
    network = network_of(SLIM_TEXTURE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    runtimes.open_runtime(name, SLIM_TEXTURE, network, "cpu", (1, 16, 16, 16))
    after = network.state_dict()
    assert network.texture
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("head", READINGS)
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_heads_are_read_as_the_network_reads_them(head, scale):
    architecture = Architecture("resnet18", width=8, head=head, logit_scale=scale)
    network = network_of(architecture, seed=len(head))
    crops = trial.trial_crops((1, 16, 20, 16), 3)
    for name in {"onednn", "openvino"} & set(HERE):
        runtime = runtimes.open_runtime(name, architecture, network, "cpu", (1, 16, 20, 16))
        assert trial.is_correct(runtime(crops), logits_of(network, crops), is_half=False), name


@pytest.mark.parametrize("name", sorted({"onednn", "openvino"} & set(HERE)))
def test_a_crop_that_brings_its_own_texture_keeps_it(name):
    network = network_of(SLIM_TEXTURE)
    crops = np.random.default_rng(1).random((2, 2, 16, 16, 16), np.float32)  # grey, and an unevenness of its own
    runtime = runtimes.open_runtime(name, SLIM_TEXTURE, network, "cpu", (1, 16, 16, 16))
    assert trial.is_correct(runtime(crops), logits_of(network, crops), is_half=False)


@pytest.mark.parametrize("name", HERE)
def test_crops_of_another_size_are_sent_back(name):
    runtime = runtimes.open_runtime(name, SLIM_TEXTURE, network_of(SLIM_TEXTURE), "cpu", (1, 16, 16, 16))
    with pytest.raises(CannotRun, match="16, 16, 16"):
        runtime(np.zeros((1, 1, 16, 16, 20), np.float32))


@pytest.mark.parametrize("texture", [False, True])
def test_one_channel_stands_for_three_equal_ones(texture):
    architecture = Architecture("resnet18", width=8, in_channels=3, texture=texture)
    network = network_of(architecture)
    backbone = Backbone(network, (3, 16, 16, 16))
    # By hand: the stem sees grey (and texture) once, with the three weights' sum.
    weight = network.conv1.weight.detach()
    assert backbone.plain().conv1.in_channels == (2 if texture else 1)
    torch.testing.assert_close(backbone.plain().conv1.weight[:, 0], weight[:, 0] + weight[:, 1] + weight[:, 2])
    crops = trial.trial_crops((3, 16, 16, 16), 2)
    runtime = runtimes.open_runtime("onednn", architecture, network, "cpu", (3, 16, 16, 16))
    assert trial.is_correct(runtime(crops), logits_of(network, crops), is_half=False)
    crops[0, 2, 8, 8, 8] += 0.01
    with pytest.raises(CannotRun, match="grey"):
        runtime(crops)


def test_a_network_that_is_not_ours_stays_with_the_reference():
    network = torch.nn.Conv3d(1, 3, 1)
    for name in HERE:
        with pytest.raises(CannotRun, match="Conv3d"):
            runtimes.open_runtime(name, Architecture(), network, "cpu", (1, 8, 8, 8))


def test_folding_a_normalisation_changes_no_output():
    network = network_of(Architecture("resnet18", width=8))
    folded = Backbone(network, (1, 16, 16, 16)).folded().stem
    x = torch.rand(1, 1, 16, 16, 16, dtype=torch.float64)
    doubled = network_of(Architecture("resnet18", width=8)).double()
    expected = doubled.bn1(doubled.conv1(x))
    found = F.conv3d(x, folded.weight.double(), folded.bias.double(), stride=2, padding=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("m", winograd.POINTS)
def test_winograds_transforms_filter_as_the_definition_does(m):
    output, weight, into = winograd.transforms(m)
    random = np.random.default_rng(m)
    values, taps = random.standard_normal(m + 2), random.standard_normal(3)
    by_hand = [sum(values[i + k] * taps[k] for k in range(3)) for i in range(m)]
    np.testing.assert_allclose(output @ ((weight @ taps) * (into @ values)), by_hand, atol=1e-12)


def test_the_tile_is_the_one_with_the_fewest_products():
    # Products for depth 24: four tiles of 6 take 32, six tiles of 4 take 36. Depth 16: 24 by either, so the smaller.
    assert [winograd.best_tile(depth) for depth in (24, 16, 12, 8, 6)] == [6, 4, 6, 4, 6]


@pytest.mark.parametrize("size", [(2, 64, 8, 5, 7), (1, 64, 6, 4, 4), (1, 64, 13, 6, 3), (1, 64, 24, 4, 4)])
def test_winograds_convolution_rounds_no_worse_than_a_plain_one(size):
    torch.manual_seed(size[2])
    weight, bias = torch.randn(72, 64, 3, 3, 3) / 42, torch.randn(72)
    layer = FoldedConvolution(weight, bias, stride=1, padding=1, relu=True)
    assert winograd.pays(layer, size[2])
    x = torch.rand(size).contiguous(memory_format=torch.channels_last_3d)
    exact = F.conv3d(x.double(), weight.double(), bias.double(), padding=1).relu()
    with torch.inference_mode():
        found = winograd.WinogradConvolution(layer, size)(x)
    assert found.shape == exact.shape
    assert float((found - exact).abs().max()) < 1e-5 * float(exact.abs().max())


BLOCKS = {
    "in the middle": (slice(9, 17), slice(12, 20), slice(8, 14)),
    "one voxel": (slice(20, 21), slice(3, 4), slice(30, 31)),
    "at the corner": (slice(0, 5), slice(0, 6), slice(0, 4)),
    "at the far corner": (slice(28, 32), slice(30, 36), slice(27, 33)),
    "from end to end": (slice(0, 32), slice(15, 18), slice(0, 33)),
    "everywhere": (slice(None), slice(None), slice(None)),
    "nowhere": (slice(0, 0), slice(0, 0), slice(0, 0)),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_the_stem_around_the_bone_is_the_whole_stem(block):
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 1, 7, 7, 7, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    x = torch.zeros(2, 1, 32, 36, 33, dtype=torch.float64)
    x[1][(0, *BLOCKS[block])] = 1 + torch.rand(x[1][(0, *BLOCKS[block])].shape, dtype=torch.float64)
    computed = []

    def whole_stem(part):
        computed.append(part[0].numel())
        return F.conv3d(part, weight, bias, stride=2, padding=3).relu()

    found = stem.sparse_stem(whole_stem, x, bias)
    expected = F.max_pool3d(F.conv3d(x, weight, bias, stride=2, padding=3).relu(), 3, 2, 1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    share = sum(computed) / x[0].numel()
    assert share == {"everywhere": 1.0, "nowhere": 0.0}.get(block, share)
    assert share < 0.7 or block == "everywhere"


def test_trial_crops_look_like_masked_bone_and_are_always_the_same():
    crops = trial.trial_crops((3, 24, 32, 28), 2)
    assert crops.shape == (2, 3, 24, 32, 28)
    assert (crops.min(), crops.dtype) == (0.0, np.float32)
    assert crops.max() <= 1.0
    assert np.array_equal(crops[:, 0], crops[:, 2])
    assert 0.5 < float((crops == 0).mean()) < 0.95, "most of a masked crop is outside"
    assert not crops[:, :, 0].any(), "the edge is outside L1"
    assert crops[0][crops[0] > 0].mean() > crops[1][crops[1] > 0].mean()
    assert np.array_equal(crops, trial.trial_crops((3, 24, 32, 28), 2))


@pytest.mark.parametrize(
    ("answer", "half", "expected"),
    [
        (1.0 + 1.9e-4, False, True),  # the tolerance is 1e-4 · (1 + 1)
        (1.0 + 2.1e-4, False, False),
        (1.0 + 0.039, True, True),
        (1.0 + 0.041, True, False),
        (np.nan, True, False),
        (np.inf, True, False),
    ],
)
def test_tolerance_is_relative_to_one_plus_the_logit(answer, half, expected):
    assert trial.is_correct(np.array([[answer]]), np.array([[1.0]]), half) is expected


def test_unknown_and_missing_runtimes_are_named_with_a_remedy(monkeypatch):
    with pytest.raises(UsageError, match="warp"):
        runtimes.open_runtime("warp", Architecture(), network_of(SLIM_TEXTURE), "cpu", (1, 8, 8, 8))
    found = runtimes.importlib.util.find_spec
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    assert "openvino" not in runtimes.available("cpu")
    with pytest.raises(MissingRequirement) as caught:
        runtimes.open_runtime("openvino", SLIM_TEXTURE, network_of(SLIM_TEXTURE), "cpu", (1, 8, 8, 8))
    assert 'pip install "bonedensity-medconv[fast]"' in caught.value.remedy


def test_what_can_run_depends_on_the_device(monkeypatch):
    assert runtimes.available("mps") == ["eager"]
    assert runtimes.available("something new") == ["eager"]
    assert runtimes.available("cuda:1")[0] == "eager"
    assert "cuda_amp" not in runtimes.available("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {"cuda_amp", "cuda_graph"} <= set(runtimes.available("cuda:1"))
    assert set(runtimes.available("cpu")) <= set(runtimes.RUNTIMES)


def test_operators_that_torch_no_longer_has_take_their_runtimes_away(monkeypatch):
    torch_onednn._operators_work.cache_clear()
    monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv3d_weight")
    try:
        assert not {"onednn", "bfloat16"} & set(runtimes.available("cpu"))
    finally:
        torch_onednn._operators_work.cache_clear()


def test_the_half_precision_of_a_gpu_computes_the_same_network():
    # The same float16 arithmetic, on the CPU.
    architecture, shape = NETWORKS["resnet18, slim"]
    network = network_of(architecture)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    crops = trial.trial_crops(shape, 2)
    runtime = torch_cuda.open_runtime("cuda_amp", Subject(architecture, network, "cpu", shape))
    logits = runtime(crops)
    assert runtime.is_half
    assert 1e-6 < trial.largest_error(logits, logits_of(network, crops)) < trial.HALF_TOLERANCE
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items()), (
        "not the reference's"
    )


def test_the_reference_has_all_digits_of_float32_whatever_the_process_has_set(monkeypatch):
    convolutions = torch.backends.cudnn.conv
    seen = []

    class Network(torch.nn.Module):
        def to(self, *_a, **_k):
            return self

        def forward(self, x):
            seen.append(convolutions.fp32_precision)
            return x.mean(dim=(2, 3, 4)).repeat(1, 3)

    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: self)  # no GPU here
    crops = np.zeros((1, 1, 4, 4, 4), np.float32)
    runtime = torch_eager.open_runtime("eager", Subject(Architecture(), Network(), "cuda:1", crops.shape[1:]))
    usual = convolutions.fp32_precision
    try:
        for own in ("ieee", "tf32"):  # after the first, torch's older settings raise an error when they are read
            convolutions.fp32_precision = own
            runtime(crops)
            assert convolutions.fp32_precision == own
    finally:
        convolutions.fp32_precision = usual
    assert seen == ["ieee", "ieee"]


def test_a_captured_graph_is_fed_crop_by_crop(monkeypatch):
    passes, output = [], torch.zeros(1, 3)

    def half(x):  # writes to one place, as what is captured does
        passes.append(x)
        return output.copy_(x.mean() * torch.ones(1, 3))

    class Graph:
        def replay(self):
            half(passes[-1])

    class Stream:
        waited = False

        def wait_stream(self, other):
            self.waited = True

    @contextmanager
    def capture(graph, stream):
        assert stream.waited, "the stream that was warmed up, on the same GPU"
        passes.append("capture")
        yield

    for name, fake in {
        "CUDAGraph": Graph, "Stream": Stream, "current_stream": Stream, "graph": capture,
        "stream": lambda stream: nullcontext(), "device": lambda device: nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    core = torch_cuda._captured(half, (1, 4, 4, 4), "cpu")
    assert [p if isinstance(p, str) else "pass" for p in passes] == ["pass"] * 3 + ["capture", "pass"]
    crops = torch.rand(3, 1, 4, 4, 4).half()
    with torch.inference_mode():  # as every runtime is called
        torch.testing.assert_close(core(crops)[:, 0], crops.mean(dim=(1, 2, 3, 4)).float())
    assert len({id(p) for p in passes if not isinstance(p, str)}) == 1, "always the same memory"


QUIET = """
    import socket, sys, types

    asked = []

    class Telemetry(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            asked.append(name)
            return lambda *a, **k: self

    for name in ("openvino_telemetry", "openvino_telemetry.main"):
        sys.modules[name] = Telemetry(name)

    class NoSocket(socket.socket):
        def connect(self, address):
            asked.append(str(address))
            raise OSError("no network in this test")

        connect_ex = connect

    socket.socket = NoSocket
    import numpy as np
    from medconv import runtimes
    heavy = ("openvino", "onnxruntime", "onnx")
    there = runtimes.available("cpu")
    assert not set(heavy) & set(sys.modules), "asking what is there imports nothing"
    from medconv.config import Architecture
    from medconv.network import build_network

    architecture = Architecture("resnet18", width=4)
    before = len(asked)
    for name in ("openvino", "onnxruntime"):
        if name in there:
            network = build_network(architecture).eval()
            runtime = runtimes.open_runtime(name, architecture, network, "cpu", (1, 16, 16, 16))
            assert np.isfinite(runtime(np.zeros((1, 1, 16, 16, 16), np.float32))).all()
            print(name)
    assert asked == [], asked
"""


def test_nothing_is_sent_by_any_runtime_and_no_telemetry_is_asked(repository):
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(QUIET)],
        capture_output=True, text=True, timeout=120, cwd=repository / "BoneDensityMedConv",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert set(answer.stdout.split()) == {"openvino", "onnxruntime"} & set(HERE)
