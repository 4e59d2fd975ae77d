"""MedConv's backbone: a 3D ResNet-50 with the parameter names of timm (and timm_3d) `resnet50.a1_in1k`.

He et al. 2016, "Deep residual learning", with the stride in the 3x3x3 convolution of a bottleneck. The same names let
weights of the authors' `timm_3d` model load strictly, and vice versa. Import this module only where torch is needed.
"""

from __future__ import annotations

from torch import Tensor, nn

from medconv.config import Architecture

STAGE_DEPTHS = {"resnet50": (3, 4, 6, 3)}
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1x1 reduce, 3x3x3 (with the stride), 1x1x1 expand, plus the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * EXPANSION
        self.conv1 = nn.Conv3d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = nn.Conv3d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet3D(nn.Module):
    """3D ResNet with `width` channels after the stem; input (N, C, z, y, x), output logits (N, classes)."""

    def __init__(self, depths: tuple[int, ...], width: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(channels, width * 2**stage, stride=2 if stage and not block else 1))
                channels = width * 2**stage * EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(depths)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, width, z/4, y/4, x/4)
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x  # (N, 32·width, z/32, y/32, x/32)

    def forward(self, x: Tensor) -> Tensor:
        features = self.forward_features(x).mean(dim=(2, 3, 4))  # (N, 32·width)
        logits: Tensor = self.fc(features)  # (N, classes)
        return logits


def build_network(architecture: Architecture) -> nn.Module:
    """The network with fresh weights. Raises ValueError for an architecture that isn't known."""
    if architecture.name not in STAGE_DEPTHS:
        raise ValueError(f"unknown architecture '{architecture.name}', expected one of {sorted(STAGE_DEPTHS)}")
    depths = STAGE_DEPTHS[architecture.name]
    return ResNet3D(depths, architecture.width, architecture.in_channels, architecture.num_classes)
