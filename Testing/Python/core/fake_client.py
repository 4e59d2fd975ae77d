"""Stands in for `WorkerClient` where a test is about a command and not about the worker process."""

from __future__ import annotations

from dataclasses import replace

from medconv.segmenter import SegmenterRequest
from medconv.types import CTVolume, SpineSegmentation


class FakeClient:
    """Answers with `found` (or raises it), after some progress; keeps what it was asked."""

    found: SpineSegmentation | BaseException
    requests: list[SegmenterRequest]
    limits: list[float]
    open_clients = 0

    def __init__(self, time_limit_s: float = 0.0) -> None:
        type(self).limits.append(time_limit_s)
        type(self).open_clients += 1

    def segment_and_wait(self, ct: CTVolume, request: SegmenterRequest, progress) -> SpineSegmentation:
        type(self).requests.append(request)
        progress("Looking for the spine", 0.25)
        found = type(self).found
        if isinstance(found, BaseException):
            raise found
        progress("Naming vertebrae", 0.9)
        return replace(found, ct_geometry=ct.geometry)

    def close(self) -> None:
        type(self).open_clients -= 1


def install(monkeypatch, found) -> type[FakeClient]:
    """Let commands meet this client instead of a worker process."""
    fake = type("Client", (FakeClient,), {"found": found, "requests": [], "limits": []})
    monkeypatch.setattr("medconv.mask_source.WorkerClient", fake)
    return fake
