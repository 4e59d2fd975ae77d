"""The segmenters that need a network, and what they share: the region, the grids, nnU-Net inside this process.

Each is made by `medconv.segmenter.make_segmenter` and runs in the worker process.
"""

from __future__ import annotations

from collections.abc import Mapping

from medconv.vertebrae import LAST_RIBS, LUMBAR, SACRUM, is_vertebra

# What the level check looks at beside the vertebrae.
LANDMARKS = (SACRUM, *LAST_RIBS, "rib_left_11", "rib_right_11", "liver")


def structures_kept(names: Mapping[int, str]) -> dict[int, str]:
    """Of a network's labels those that the level check needs: vertebrae and LANDMARKS."""
    return {label: name for label, name in names.items() if is_vertebra(name) or name in LANDMARKS}


def lumbar_labels(names: Mapping[int, str]) -> list[int]:
    """The labels of L1 to L6."""
    return [label for label, name in names.items() if name in LUMBAR]
