"""One segmentation from the chosen CT to a segmentation node in the scene, computed in the worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from BoneDensityMedConvLib import dependencies, fingerprint, scene, spine_segments
from BoneDensityMedConvLib.work import Span, Work
from medconv import hounsfield
from medconv.segmenter import SegmenterRequest
from medconv.types import InputRefused
from medconv.worker_client import Segmented

# What a segmentation does not depend on: another device or an insisting person gives the same.
NOT_IN_KEY = ("device", "insist")


def key(request: SegmenterRequest) -> str:
    """The request as text, by which its segmentation is found again in a scene."""
    return json.dumps({name: value for name, value in asdict(request).items() if name not in NOT_IN_KEY})


def present(ct_node: Any, request: SegmenterRequest) -> Any:
    """The segmentation node that this request made from what the CT holds now, or None."""
    return spine_segments.find_spine(ct_node, key(request))


def start(
    ct_node: Any, request: SegmenterRequest, work: Work, then: Callable[[Any], None], span: Span = (0.0, 1.0)
) -> None:
    """Segment the CT in the worker; `then` is called with the new segmentation node.

    Raises MedConvError if it can't be started, and before minutes are spent on what is no CT in Hounsfield units.
    """
    dependencies.require(request.kind)
    ct = scene.ct_volume(ct_node)
    hounsfield.check_hounsfield(ct)
    before = fingerprint.of_scan(ct.array_zyx, ct.geometry)

    def take(outcome: Segmented) -> None:
        if ct_node.GetScene() is None or not fingerprint.same(before, _scan(ct_node)):
            raise InputRefused("ct_changed", "The CT changed while it was segmented.", "Analyse again.")
        then(spine_segments.add_spine(outcome.segmentation, ct_node, key(request)))

    work.start(lambda worker: worker.segment(ct, request), take, "Starting the segmentation", span)


def _scan(ct_node: Any) -> str:
    ct = scene.ct_volume(ct_node)
    return fingerprint.of_scan(ct.array_zyx, ct.geometry)
