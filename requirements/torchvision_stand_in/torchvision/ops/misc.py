"""The layer that timm's normalisation layers ask about."""

from torchvision import NotInstalled


class FrozenBatchNorm2d(NotInstalled):
    pass
