"""The backbone equals timm_3d's resnet50: names, shapes and outputs."""

import sys
import types

import pytest
import torch

from medconv.config import Architecture
from medconv.network import build_network


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
    sys.modules["timm"].__version__ = "0"
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
