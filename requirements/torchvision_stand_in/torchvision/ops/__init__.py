"""torchvision.ops has no operator here: `from torchvision.ops import roi_align` says so, as torch expects."""
