"""A vision transformer on volumes, and the sizes in which the paper's ViT and JointViT are built.

Dosovitskiy et al. 2021, "An image is worth 16x16 words". The paper gives no numbers; JointViT's code has 224² images in
patches of 32 (7 x 7), dim 1024, depth 12, 8 heads, MLP 1024, dropout 0.25 on the embedding. Our 3D reading: cubic
patches, seven along the crop's longest axis, which for 224³ is its patch of 32; shorter axes are padded with the
window's lower end to a whole number of patches. Attention is torch's own, 128 channels a head at dim 1024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCHES_ALONG_LONGEST_AXIS = 7
EPSILON = 1e-6  # of the layer norms, as in timm's ViT, whose weights can be taken


@dataclass(frozen=True)
class ViTSize:
    """dim: channels of a token; mlp: of the hidden layer between two attentions; dropout: of the embedding only."""

    dim: int
    depth: int
    heads: int
    mlp: int
    dropout: float


SIZES: Mapping[str, ViTSize] = {
    "vit": ViTSize(1024, 12, 8, 1024, 0.25),
    "vit_base": ViTSize(768, 12, 12, 3072, 0.0),  # ViT-B, for which 2D weights are published
    "vit_small": ViTSize(192, 6, 3, 384, 0.1),  # ours, for a CPU
}


class ViT3D(nn.Module):
    """Input (N, C, z, y, x) of one fixed size, output (N, outputs) from the class token."""

    def __init__(
        self, size: ViTSize, in_channels: int, outputs: int, input_size_zyx: tuple[int, int, int],
        patch: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size_zyx = input_size_zyx
        self.patch = patch or -(-max(input_size_zyx) // PATCHES_ALONG_LONGEST_AXIS)
        z, y, x = (-(-n // self.patch) for n in input_size_zyx)
        self.grid_zyx = (z, y, x)
        self.patch_embed = nn.Conv3d(in_channels, size.dim, self.patch, stride=self.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + z * y * x, size.dim))
        self.dropout = nn.Dropout(size.dropout)
        layer = nn.TransformerEncoderLayer(
            size.dim, size.heads, size.mlp, dropout=0.0, activation="gelu", layer_norm_eps=EPSILON, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        norm = nn.LayerNorm(size.dim, EPSILON)
        self.encoder = nn.TransformerEncoder(layer, size.depth, norm, enable_nested_tensor=False)
        self.head = nn.Linear(size.dim, outputs)
        self._start()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(self._padded(x)).flatten(2).transpose(1, 2)  # (N, patches, dim)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1) + self.pos_embed
        tokens = self.encoder(self.dropout(tokens))  # (N, 1 + patches, dim)
        outputs: Tensor = self.head(tokens[:, 0])  # (N, outputs)
        return outputs

    def _padded(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.input_size_zyx:
            raise ValueError(f"this network takes crops of {self.input_size_zyx} (z, y, x), got {tuple(x.shape[2:])}")
        ends = [n * self.patch - size for n, size in zip(self.grid_zyx, self.input_size_zyx, strict=True)]
        pairs = [(missing // 2, missing - missing // 2) for missing in reversed(ends)]  # torch pads the last axis first
        return F.pad(x, [side for pair in pairs for side in pair])

    def _start(self) -> None:
        """Fresh weights for every layer: nn.TransformerEncoder copies its first layer, numbers and all."""
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for name, parameter in self.encoder.named_parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.head.bias)
