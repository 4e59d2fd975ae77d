"""MedConv's backbone: 3D ResNets with the parameter names of timm and timm_3d; the paper's is `resnet50.a1_in1k`.

He et al. 2016, "Deep residual learning", with the stride in the 3x3x3 convolution of a bottleneck. The same names let
weights of the authors' `timm_3d` models load strictly, and vice versa. Import this module only where torch is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medconv.config import Architecture

# T-scores that part the WHO classes (tscore.py has the rules): normal | osteopenia | osteoporosis.
OSTEOPENIA_BELOW, OSTEOPOROSIS_UP_TO = -1.0, -2.5
# e^-6 .. e^6: a spread of 0.05 to 20 T-scores; beyond, a network that starts badly gives infinities.
LOG_VARIANCE_RANGE = (-6.0, 6.0)
SPREAD_OF_WINDOW = 0.08


class BasicBlock(nn.Module):
    """3x3x3 (with the stride), 3x3x3, plus the shortcut: the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1x1 reduce, 3x3x3 (with the stride), 1x1x1 expand, plus the shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv3d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = nn.Conv3d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


Block = type[BasicBlock] | type[Bottleneck]
STAGES: Mapping[str, tuple[Block, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet3D(nn.Module):
    """3D ResNet with `width` channels after the stem; input (N, C, z, y, x), output (N, outputs).

    reading: turns the last layer's outputs into class logits; None hands them over as they are.
    texture: the stem also sees `local_spread` of every input channel; an input of 2·C channels brings its own.
    """

    def __init__(
        self, block: Block, depths: tuple[int, ...], width: int, in_channels: int, outputs: int,
        reading: Callable[[Tensor], Tensor] | None = None, texture: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.texture = texture
        self.conv1 = nn.Conv3d(2 * in_channels if texture else in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, width * 2**stage, stride=2 if stage and not index else 1))
                channels = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(depths)
        self.fc = nn.Linear(channels, outputs)
        self.reading = reading
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        if self.texture and x.shape[1] < self.conv1.in_channels:  # else the caller gave the unevenness as well
            x = torch.cat([x, local_spread(x)], dim=1)  # (N, 2·C, z, y, x)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, width, z/4, y/4, x/4)
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x  # (N, 8·expansion·width, z/32, y/32, x/32)

    def forward(self, x: Tensor) -> Tensor:
        features = self.forward_features(x).mean(dim=(2, 3, 4))  # (N, 8·expansion·width)
        outputs: Tensor = self.fc(features)  # (N, outputs)
        return outputs if self.reading is None else self.reading(outputs)  # (N, classes)


def local_spread(x: Tensor) -> Tensor:
    """How uneven the bone is around each voxel: SD over its 3x3x3 neighbours within L1, 1 from 0.08 of the window up.

    x: (N, C, z, y, x), 0 to 1, exactly 0 outside L1; same shape out. In a window of 1000 HU, 1 stands for 80 HU and
    more, as at the cortex; the trabecular pattern has 15 to 40 HU. Bone mineral apart, the pattern's unevenness tells
    of bone loss, but it is faint beside the cortex's edges: networks that had to find it among them did not.
    """
    inside = (x > 0).to(x)
    share = F.avg_pool3d(inside, 3, 1, 1).clamp(min=1e-3)
    mean = F.avg_pool3d(x, 3, 1, 1) / share
    variance = (F.avg_pool3d(x * x, 3, 1, 1) / share - mean * mean).clamp(min=0.0)
    # The small constant keeps the gradient finite where a neighbourhood is even.
    return ((variance + 1e-8).sqrt() * inside / SPREAD_OF_WINDOW).clamp(max=1.0)


def corn_log_posterior(outputs: Tensor) -> Tensor:
    """log p of the three classes from CORN's two conditional tasks (Shi, Cao and Raschka 2023).

    outputs: (N, 2), logits of "below normal" and of "osteoporosis, if below normal". Returns (N, 3).
    """
    below, worse = outputs.unbind(dim=1)
    no, yes = F.logsigmoid(-below), F.logsigmoid(below)
    return torch.stack([no, yes + F.logsigmoid(-worse), yes + F.logsigmoid(worse)], dim=1)


def normal_log_posterior(outputs: Tensor) -> Tensor:
    """log p of the three classes for a T-score that is Normal(mean, e^log_variance), cut at −1 and −2.5.

    outputs: (N, 2), mean and log-variance. Returns (N, 3), finite and with finite gradients far out in the tails:
    log(Φ(b) − Φ(a)) is taken on the side where Φ is small, and as log Φ(b) + log(1 − e^(log Φ(a) − log Φ(b))).
    """
    exact = outputs.cpu() if outputs.device.type == "mps" else outputs  # MPS has no double precision
    mean, log_variance = exact.double().unbind(dim=1)
    spread = torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))
    upper, lower = (OSTEOPENIA_BELOW - mean) / spread, (OSTEOPOROSIS_UP_TO - mean) / spread
    mirrored = lower + upper > 0
    high, low = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    between = log_high + torch.log(-torch.expm1(log_low - log_high))
    log_p = [torch.special.log_ndtr(-upper), between, torch.special.log_ndtr(lower)]
    return torch.stack(log_p, dim=1).to(outputs)


def first_three(outputs: Tensor) -> Tensor:
    """The class logits of outputs (N, 4) whose last is a T-score."""
    return outputs[:, :3]


# Head → number of outputs, and how class logits (N, 3) are read from them.
READINGS: Mapping[str, tuple[int, Callable[[Tensor], Tensor] | None]] = {
    "classes": (3, None),
    "one_vs_rest": (3, F.logsigmoid),
    "corn": (2, corn_log_posterior),
    "heteroscedastic": (2, normal_log_posterior),
    "joint": (4, first_three),
}


def build_network(architecture: Architecture) -> nn.Module:
    """The network with fresh weights, giving class logits. Raises ValueError for an architecture that isn't known."""
    if architecture.name not in STAGES:
        raise ValueError(f"unknown architecture '{architecture.name}', expected one of {sorted(STAGES)}")
    if architecture.head not in READINGS:
        raise ValueError(f"unknown head '{architecture.head}', expected one of {sorted(READINGS)}")
    block, depths = STAGES[architecture.name]
    outputs, reading = READINGS[architecture.head]
    if architecture.head == "classes":
        outputs = architecture.num_classes
    if architecture.logit_scale != 1.0:
        reading = _scaled(reading, architecture.logit_scale)
    return ResNet3D(block, depths, architecture.width, architecture.in_channels, outputs, reading, architecture.texture)


def _scaled(reading: Callable[[Tensor], Tensor] | None, scale: float) -> Callable[[Tensor], Tensor]:
    return lambda outputs: scale * (outputs if reading is None else reading(outputs))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """None where the input can be added as it is."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels))
