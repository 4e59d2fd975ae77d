"""The collections of photographs that timm can load."""

from torchvision import NotInstalled


class CIFAR10(NotInstalled):
    pass


class CIFAR100(NotInstalled):
    pass


class FashionMNIST(NotInstalled):
    pass


class ImageFolder(NotInstalled):
    pass


class KMNIST(NotInstalled):
    pass


class MNIST(NotInstalled):
    pass
