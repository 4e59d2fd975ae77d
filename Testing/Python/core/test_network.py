"""The backbone equals timm_3d's resnet50: names, shapes and outputs."""

import sys
import types

import numpy as np
import pytest
import torch

from medconv.config import Architecture
from medconv.network import build_network, local_spread


@pytest.fixture(scope="module")
def timm_3d():
    """timm_3d without what only its image loaders and model hub use: torchvision is empty, timm has just a version."""

    class AnyName(type):
        def __getattr__(cls, name: str) -> str:
            if name.startswith("__"):
                raise AttributeError(name)
            return name

    class Empty(types.ModuleType):
        __path__: tuple[str, ...] = ()

        def __getattr__(self, name: str):
            if name.startswith("__"):
                raise AttributeError(name)
            return AnyName(name, (), {})

    names = [
        "timm",
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.ops",
        "torchvision.ops.misc",
        "torchvision.datasets",
        "torchvision.models",
        "torchvision.models.feature_extraction",
    ]
    saved = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = Empty(name)
        if "." in name:
            parent, child = name.rsplit(".", 1)
            setattr(sys.modules[parent], child, sys.modules[name])
    sys.modules["timm"].__version__ = "0"  # type: ignore[attr-defined]
    import timm_3d

    yield timm_3d
    for name, module in saved.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


@pytest.mark.parametrize("channels", [1, 3])
def test_names_shapes_and_outputs_equal_timm_3d(timm_3d, channels):
    torch.manual_seed(1)
    theirs = timm_3d.create_model("resnet50.a1_in1k", pretrained=False, num_classes=3, in_chans=channels).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    ours = build_network(Architecture(in_channels=channels)).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, channels, 48, 40, 64)
    with torch.inference_mode():
        assert torch.equal(ours(x), theirs(x))


def test_width_slims_the_network_by_its_square():
    count = {w: sum(p.numel() for p in build_network(Architecture(width=w)).parameters()) for w in (16, 64)}
    assert 15 < count[64] / count[16] < 16.5
    assert count[16] < 3_000_000


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="resnet51"):
        build_network(Architecture(name="resnet51"))


def test_local_spread_is_the_sd_of_neighbours_within_l1() -> None:
    rng = np.random.default_rng(4)
    crop = np.zeros((7, 8, 9), np.float32)
    crop[1:6, 2:7, 2:8] = 0.3 + 0.02 * rng.standard_normal((5, 5, 6), dtype=np.float32)
    spread = local_spread(torch.from_numpy(crop)[None, None])[0, 0].numpy()
    for z, y, x in ((3, 4, 5), (1, 2, 2), (5, 6, 7)):  # inside, and at corners of L1
        around = crop[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert spread[z, y, x] == pytest.approx(around[around > 0].std() / 0.08, rel=1e-3)
    assert spread[0, 0, 0] == 0.0  # outside L1
    assert spread.max() <= 1.0


def test_a_network_with_texture_takes_the_same_crop_and_has_a_wider_stem() -> None:
    network = build_network(Architecture(width=4, texture=True)).eval()
    assert network.conv1.weight.shape[1] == 2
    crop = torch.rand(2, 1, 24, 24, 24)
    assert network(crop).shape == (2, 3)
