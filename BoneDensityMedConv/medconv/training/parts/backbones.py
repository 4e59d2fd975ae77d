"""The backbones of the paper's Table II by timm's names: our own 3D ResNets, timm_3d's networks, and a 3D ViT."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medconv.config import Architecture
from medconv.network import STAGES, ResNet3D
from medconv.packages import how_to_install
from medconv.training.parts.vit import SIZES, ViT3D
from medconv.types import MissingRequirement, UsageError

OWN, TIMM_3D, VIT = "own", "timm_3d", "vit"


@dataclass(frozen=True)
class BackboneSpec:
    """family: who builds it (OWN, TIMM_3D, VIT). paper_name: as Table II has it; "" for sizes that it lacks.

    size: name in `vit.SIZES` for the ViTs. Only OWN networks can be packed as weights for Slicer.
    """

    name: str
    family: str
    paper_name: str = ""
    size: str = ""

    @property
    def packable(self) -> bool:
        """True if `medconv.network` can build it from an `Architecture`."""
        return self.family == OWN

    @property
    def scales(self) -> bool:
        """True if `width` makes it slimmer."""
        return self.family == OWN


_ALL = (
    BackboneSpec("resnet10t", TIMM_3D, "resnet10t.c3_in1k"),
    BackboneSpec("resnet14t", TIMM_3D, "resnet14t.c3_in1k"),
    BackboneSpec("resnet18", OWN, "resnet18.a1_in1k"),
    BackboneSpec("resnet34", OWN, "resnet34.a1_in1k"),
    BackboneSpec("resnet50", OWN, "resnet50.a1_in1k"),
    BackboneSpec("resnet101", OWN, "resnet101.a1_in1k"),
    BackboneSpec("resnet152", OWN, "resnet152.tv_in1k"),
    BackboneSpec("mobilenetv2_100", TIMM_3D, "mobilenetv2_100.ra_in1k"),
    BackboneSpec("efficientnet_b0", TIMM_3D, "efficientnet_b0.ra_in1k"),
    BackboneSpec("resnext50_32x4d", TIMM_3D, "resnext50_32x4d.a1h_in1k"),
    BackboneSpec("vit", VIT, "ViT", "vit"),
    BackboneSpec("jointvit", VIT, "JointViT", "vit"),
    BackboneSpec("vit_base", VIT, "", "vit_base"),
    BackboneSpec("vit_small", VIT, "", "vit_small"),
    BackboneSpec("jointvit_small", VIT, "", "vit_small"),
)
BACKBONES: Mapping[str, BackboneSpec] = {spec.name: spec for spec in _ALL}


@dataclass(frozen=True)
class BackboneFigures:
    """Size and cost of one pass of one crop. gflops: two for every multiply-add; ms is None where not measured."""

    name: str
    parameters: int
    gflops: float
    ms: float | None


def find(name: str) -> BackboneSpec:
    """The backbone of that name; timm's suffix for the weights ("resnet50.a1_in1k") may stand. Raises UsageError."""
    plain = name.strip().lower().split(".")[0]
    if plain not in BACKBONES:
        raise UsageError(
            "unknown_backbone", f"There is no backbone '{name}'.", f"Choose one of: {', '.join(BACKBONES)}."
        )
    return BACKBONES[plain]


def build(
    name: str, *, width: int = 64, in_channels: int = 1, outputs: int = 3,
    input_size_zyx: tuple[int, int, int],
) -> nn.Module:  # fmt: skip
    """A network with fresh weights, from torch's global random state: input (N, C, z, y, x), output (N, outputs).

    width: channels after the stem of our own ResNets (64 is the original); the others have one size.
    Raises UsageError for an unknown name or a width that can't be had, MissingRequirement without timm_3d.
    """
    spec = find(name)
    if width != 64 and not spec.scales:
        own = ", ".join(other.name for other in _ALL if other.scales)
        raise UsageError(
            "width_fixed", f"'{spec.name}' has one size only, width {width} was asked for.", f"Width scales {own}."
        )
    if spec.family == OWN:
        block, depths = STAGES[spec.name]
        return ResNet3D(block, depths, width, in_channels, outputs)
    if spec.family == VIT:
        return ViT3D(SIZES[spec.size], in_channels, outputs, input_size_zyx)
    return _timm_3d().create_model(spec.name, pretrained=False, num_classes=outputs, in_chans=in_channels)


def architecture(name: str, *, width: int, in_channels: int, head: str) -> Architecture | None:
    """What a weight file says of such a network, for `network.build_network`; None if Slicer could not build it.

    head: name in `network.READINGS`.
    """
    spec = find(name)
    return Architecture(spec.name, width, in_channels, head=head) if spec.packable else None


def describe(
    input_size_zyx: tuple[int, int, int], names: Iterable[str] = tuple(BACKBONES), *, width: int = 64,
    in_channels: int = 1, timed: bool = False,
) -> list[BackboneFigures]:  # fmt: skip
    """Parameters and cost of backbones at one input size; `timed` also runs each, on this processor."""
    rows = []
    for spec in (find(name) for name in names):
        options: dict[str, Any] = {"width": width if spec.scales else 64, "in_channels": in_channels}
        with torch.device("meta"):
            network = build(spec.name, input_size_zyx=input_size_zyx, **options)
        parameters = sum(p.numel() for p in network.parameters())
        gflops = _flops(network, torch.empty(1, in_channels, *input_size_zyx, device="meta")) / 1e9
        ms = None
        if timed:
            real = build(spec.name, input_size_zyx=input_size_zyx, **options)
            ms = _milliseconds(real, torch.rand(1, in_channels, *input_size_zyx))
        rows.append(BackboneFigures(spec.name, parameters, gflops, ms))
    return rows


def table(rows: list[BackboneFigures]) -> str:
    """The figures as a Markdown table."""
    lines = ["| Backbone | Parameters (million) | GFLOPs | ms a pass |", "|---|---|---|---|"]
    for row in rows:
        ms = "" if row.ms is None else f"{row.ms:.0f}"
        lines.append(f"| {row.name} | {row.parameters / 1e6:.1f} | {row.gflops:.2f} | {ms} |")
    return "\n".join(lines)


def _flops(network: nn.Module, crop: torch.Tensor) -> int:
    """Counted on torch's meta device, without computing anything."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused layer hides its matrix products from the counter
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(crop)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def _milliseconds(network: nn.Module, crop: torch.Tensor, passes: int = 3) -> float:
    """The quickest of some passes, after one that is not counted: other programs only ever make it slower."""
    network.eval()
    seconds = []
    with torch.inference_mode():
        network(crop)
        for _ in range(passes):
            started = time.perf_counter()
            network(crop)
            seconds.append(time.perf_counter() - started)
    return 1000.0 * min(seconds)


def _timm_3d() -> Any:
    try:
        import timm_3d
    except ImportError as error:
        raise MissingRequirement(
            "timm_3d_missing",
            f"This backbone comes from the package timm-3d, which can't be loaded ({error}).",
            how_to_install(packages="timm-3d timm"),
        ) from error
    return timm_3d
