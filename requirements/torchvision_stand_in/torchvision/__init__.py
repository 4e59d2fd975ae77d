"""Not torchvision: the few names of it that timm looks for when it is imported. None of them does anything.

nnU-Net imports each of its trainers when it looks one up, one of them imports timm, and timm imports torchvision, which
nothing here uses: a network that segments a CT reads no photographs. The ordinary torchvision for Linux loads only
beside the CUDA build of torch, which pip would then fetch (5 GB), even where there is no GPU.
"""

from typing import Any, NoReturn

__version__ = "0.28.0+stand.in.1"


class NotInstalled:
    """What stands in for a class of torchvision: it can be inherited from and compared with, not used."""

    def __init__(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise ImportError(
            f"{type(self).__name__} needs torchvision, and this environment has only a stand-in for it. To use the real"
            " one: pip install --upgrade torchvision (on Linux without a GPU, from the index of torch's CPU builds)."
        )
