"""The class that timm's image transforms inherit from."""

from torchvision import NotInstalled
from torchvision.transforms import functional as functional


class ToTensor(NotInstalled):
    pass
