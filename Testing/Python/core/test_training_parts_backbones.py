"""Backbones: every name of the paper's Table II builds and learns; names, sizes and costs by independent counts."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from medconv.config import Architecture
from medconv.network import build_network
from medconv.training.parts import backbones, vit
from medconv.training.parts.backbones import BACKBONES
from medconv.types import MissingRequirement, UsageError

CUBE = (32, 32, 32)
TIMM_NAMES = (
    "resnet10t", "resnet14t", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenetv2_100",
    "efficientnet_b0", "resnext50_32x4d",
)  # fmt: skip


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return backbones.build(name, input_size_zyx=options.pop("size", CUBE), **options)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_its_outputs_at_a_crop_of_unequal_sides(name: str) -> None:
    size = (36, 48, 40)
    network = on_meta(name, outputs=4, in_channels=3, size=size).eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert network(torch.empty(2, 3, *size, device="meta")).shape == (2, 4)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize(
    "name", ["resnet10t", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenetv2_100",
             "efficientnet_b0", "vit_small", "jointvit_small"],
)  # fmt: skip
def test_a_training_step_changes_every_part_of_a_backbone(name: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    width = 4 if BACKBONES[name].scales else 64
    network = backbones.build(name, width=width, outputs=3, input_size_zyx=CUBE)
    before = {key: value.clone() for key, value in network.named_parameters()}
    step = torch.optim.SGD(network.parameters(), lr=0.1)
    crops, classes = torch.rand(3, 1, *CUBE), torch.tensor([0, 1, 2])
    value = nn.functional.cross_entropy(network(crops), classes)
    value.backward()
    step.step()
    assert torch.isfinite(value)
    still = [key for key, now in network.named_parameters() if torch.equal(now, before[key])]
    # Where a block's last norm starts at zero (timm), what lies before it gets no gradient in the first step.
    zero_start = {"resnet10t"} & {name}
    assert not still or zero_start
    assert "fc.weight" not in still


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_names_and_sizes_are_those_of_timms_2d_network_with_kernels_as_deep_as_wide(name: str) -> None:
    import timm

    with torch.device("meta"):
        flat = timm.create_model(name, num_classes=3, in_chans=1).state_dict()
    deep = on_meta(name).state_dict()
    assert set(flat) == set(deep)
    assert {key: value.numel() for key, value in deep.items()} == {
        key: value.numel() * (value.shape[-1] if value.ndim == 4 else 1) for key, value in flat.items()
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet101", "resnet152"])
def test_our_resnets_take_timm_3ds_weights_strictly_and_give_equal_outputs(name: str) -> None:
    import timm_3d

    torch.manual_seed(1)
    with torch.device("meta"):
        theirs, ours = timm_3d.create_model(name, num_classes=3, in_chans=1), build_network(Architecture(name))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    state = {key: drawn(key, value) for key, value in theirs.state_dict().items()}
    for network in (theirs, ours):
        network.load_state_dict(state, strict=True, assign=True)
        network.eval()
    crops = torch.rand(1, 1, 32, 24, 40)
    with torch.inference_mode():
        outputs = ours(crops)
        assert torch.equal(outputs, theirs(crops))
    assert outputs.abs().max() > 1e-3


def drawn(key: str, like: torch.Tensor) -> torch.Tensor:
    """Random numbers that keep signals alive through 152 layers."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(like.shape, dtype=like.dtype)
    if like.ndim == 1:
        return torch.empty(like.shape).uniform_(0.5, 1.0)
    pool = torch.randn(100_003, generator=torch.Generator().manual_seed(like.numel()))
    many = pool.repeat(-(-like.numel() // len(pool)))[: like.numel()].view(like.shape)
    return many * (2.0 / like[0].numel()) ** 0.5


def test_what_can_be_packed_is_built_again_by_the_network_module() -> None:
    for name, spec in BACKBONES.items():
        found = backbones.architecture(name, width=8, in_channels=1, head="heteroscedastic")
        assert (found is not None) == spec.packable
        if found is not None:
            packed = build_network(found)
            trained = backbones.build(name, width=8, outputs=2, input_size_zyx=CUBE)
            packed.load_state_dict(trained.state_dict(), strict=True)
    assert [n for n, s in BACKBONES.items() if s.packable] == [
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"
    ]  # fmt: skip


def test_an_architecture_of_an_older_weight_file_still_reads() -> None:
    old = Architecture(**json.loads('{"name": "resnet50", "width": 4, "in_channels": 1, "num_classes": 3}'))
    assert old.head == "classes"
    assert build_network(old)(torch.zeros(2, 1, 32, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="unknown head 'tails'"):
        build_network(Architecture(head="tails"))


# --- cost ------------------------------------------------------------------------------------------------------------


def flops_by_hooks(network: nn.Module, crop: torch.Tensor) -> int:
    """Two for every multiply-add of convolutions and linear layers, from their shapes."""
    counted = []

    def convolution(layer: nn.Conv3d, _given: object, made: torch.Tensor) -> None:
        counted.append(2 * made.numel() * layer.weight[0].numel())

    def linear(layer: nn.Linear, given: tuple[torch.Tensor, ...], _made: object) -> None:
        counted.append(2 * given[0].numel() * layer.out_features)

    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(convolution)
        elif isinstance(layer, nn.Linear):
            layer.register_forward_hook(linear)
    network.eval()(crop)
    return sum(counted)


def test_costs_equal_a_count_from_the_layers_shapes() -> None:
    size = (36, 48, 40)
    names = ("resnet18", "mobilenetv2_100", "efficientnet_b0", "resnext50_32x4d")
    rows = {row.name: row for row in backbones.describe(size, names, width=8)}
    assert tuple(rows) == names
    for name in names:
        width = 8 if BACKBONES[name].scales else 64
        by_hand = flops_by_hooks(on_meta(name, width=width, size=size), torch.empty(1, 1, *size, device="meta"))
        assert rows[name].gflops == pytest.approx(by_hand / 1e9, rel=1e-6), name


def test_a_vits_cost_by_hand() -> None:
    (row,) = backbones.describe(CUBE, ["vit_small"])
    tokens, dim, mlp, depth, patch = 7**3 + 1, 192, 384, 6, 5  # 32 voxels in patches of 5 make 7
    layer = 2 * tokens * dim * (3 * dim + dim + 2 * mlp) + 2 * 2 * tokens * tokens * dim
    by_hand = depth * layer + 2 * (tokens - 1) * dim * patch**3 + 2 * dim * 3
    assert row.gflops == pytest.approx(by_hand / 1e9, rel=1e-9)
    assert row.ms is None


def test_the_table_has_a_line_for_each() -> None:
    row = backbones.BackboneFigures("resnet18", 33_161_539, 2.5412, 41.6)
    text = backbones.table([row, backbones.BackboneFigures("vit", 1, 0.0, None)])
    assert text.splitlines()[2:] == ["| resnet18 | 33.2 | 2.54 | 42 |", "| vit | 0.0 | 0.00 |  |"]


# --- the ViT ---------------------------------------------------------------------------------------------------------


def test_the_vit_is_jointvits_at_its_own_size() -> None:
    network = on_meta("jointvit", size=(224, 224, 224))
    assert (network.patch, network.grid_zyx) == (32, (7, 7, 7))
    size = vit.SIZES[BACKBONES["jointvit"].size]
    assert (size.dim, size.depth, size.heads, size.mlp, size.dropout) == (1024, 12, 8, 1024, 0.25)
    assert network.dropout.p == 0.25
    layers = network.encoder.layers
    assert (len(layers), layers[0].self_attn.num_heads, layers[0].linear1.out_features) == (12, 8, 1024)


def test_every_layer_of_a_vit_starts_with_numbers_of_its_own() -> None:
    torch.manual_seed(0)
    network = backbones.build("vit_small", input_size_zyx=CUBE)
    first, second = network.encoder.layers[:2]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)


def test_a_vit_sees_the_whole_crop_and_where_things_are() -> None:
    torch.manual_seed(0)
    network = backbones.build("vit_small", input_size_zyx=(10, 14, 11)).eval()
    assert (network.patch, network.grid_zyx) == (2, (5, 7, 6))
    crop = torch.zeros(1, 1, 10, 14, 11, requires_grad=True)
    network(crop).sum().backward()
    assert (crop.grad != 0).all()
    ends = torch.zeros(2, 1, 10, 14, 11)
    ends[0, 0, 0], ends[1, 0, -1] = 1.0, 1.0
    low, high = network(ends).detach()
    assert (low - high).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"\(10, 14, 11\)"):
        network(torch.zeros(1, 1, 10, 14, 12))


# --- names -----------------------------------------------------------------------------------------------------------


def test_timms_suffix_may_stand_and_unknown_names_are_told() -> None:
    assert backbones.find("resnet50.a1_in1k").name == "resnet50"
    assert {spec.paper_name.split(".")[0].lower() for spec in BACKBONES.values() if spec.paper_name} == {
        *TIMM_NAMES, "vit", "jointvit"
    }  # fmt: skip
    with pytest.raises(UsageError, match="no backbone 'resnet51'"):
        backbones.find("resnet51")
    with pytest.raises(UsageError, match="has one size only"):
        backbones.build("efficientnet_b0", width=16, input_size_zyx=CUBE)


def test_without_timm_3d_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm_3d", None)
    with pytest.raises(MissingRequirement) as told:
        backbones.build("resnet10t", input_size_zyx=CUBE)
    assert "pip install timm-3d" in told.value.remedy
    backbones.build("resnet18", width=4, input_size_zyx=CUBE)
